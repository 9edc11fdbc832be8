"""Small devices: mbedTLS and wolfSSL with buffers of 512 or 1,024 bytes, with and without certificates of their own."""

import os
import re
import subprocess

from clients import mosquitto_pub
from process import wait_until

TOPIC = "to/device"
BYTES = 5_000

# The most that sealing adds to the content of a record: a nonce of 8 bytes and a tag of 16 in TLS 1.2; type and tag in TLS 1.3.
SEAL_BYTES = 24

MBEDTLS = (os.environ.get("MBEDTLS_CLIENT"), ("1.2",))
WOLFSSL = (os.environ.get("WOLFSSL_CLIENT"), ("1.2", "1.3"))


def mbedtls_takes_no_record_that_is_larger_than_it_asks_for(lab):
    """mbedTLS 2.28 in TLS 1.2: a message of 5,000 bytes in records of 512; and of any size where it does not ask.

    It reads no message of a handshake that is in two records, so the certificate has to fit into one.
    """
    _takes_small_records(lab, *MBEDTLS)


def wolfssl_takes_no_record_that_is_larger_than_it_asks_for(lab):
    """wolfSSL in TLS 1.2 and 1.3, the same."""
    _takes_small_records(lab, *WOLFSSL)


def mbedtls_shows_a_certificate_of_its_own(lab):
    """mbedTLS where certificates are required, in small records: of version 3, of version 1 and self-signed; not without."""
    # The ticket for its next session has its certificate in it, from OpenSSL too: more than one record of 512 bytes.
    _shows_certificates(lab, *MBEDTLS, 1024)


def wolfssl_shows_a_certificate_of_its_own(lab):
    """wolfSSL in both versions, the same."""
    _shows_certificates(lab, *WOLFSSL, 512)


def _takes_small_records(lab, program, versions):
    authority = lab.authority()
    balancer = lab.balancer(_brokers(lab), authority=authority)
    for version in versions:
        small = _run(program, balancer, authority, f"small-{version}", version, 512)
        large = _run(program, balancer, authority, f"large-{version}", version, 0)
        assert f"TLSv{version}" in small and f"TLSv{version}" in large, small + large
        assert _largest(small) <= 512 + SEAL_BYTES, small
        assert _largest(large) > BYTES, large
    assert "client_id=small-" in balancer.process.output()


def _shows_certificates(lab, program, versions, fragment):
    authority = lab.authority()
    shown = {"new": authority.client("new"), "old": authority.old_client("old"), "own": authority.trusted_client("own")}
    balancer = lab.balancer(_brokers(lab), authority=authority, demands=True)
    for version in versions:
        for name, pair in shown.items():
            said = _run(program, balancer, authority, f"{name}-{version}", version, fragment, *pair)
            assert _largest(said) <= fragment + SEAL_BYTES, said
            end = lambda: next((e for e in balancer.ends() if e.get("client_id") == f"{name}-{version}"), None)  # noqa: E731
            assert wait_until(end, "its line")["certificate_cn"] == name
        before = len(balancer.causes())
        refused = _start(program, balancer, authority, f"none-{version}", version, fragment)
        assert refused.returncode == 1 and "failed: " in refused.stdout, refused.stdout
        wait_until(lambda: len(balancer.causes()) > before, "an end")
        assert balancer.causes()[before] == "certificate_refused", balancer.causes()[before:]


def _brokers(lab):
    """Each keeps a message for its subscribers."""
    brokers = lab.mosquittos()
    for broker in brokers:
        mosquitto_pub(broker.port, "-t", TOPIC, "-r", "-q", 1, payload=b"x" * BYTES)
    return brokers


def _start(program, balancer, authority, client_id, version, fragment, *pair):
    words = [program, balancer.tls_port, authority.ca, client_id, TOPIC, version, fragment, *pair]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=20)


def _run(program, balancer, authority, client_id, version, fragment, *pair):
    done = _start(program, balancer, authority, client_id, version, fragment, *pair)
    assert done.returncode == 0 and f"received {BYTES}\n" in done.stdout, f"{client_id}: {done.returncode} {done.stdout}{done.stderr}"
    return done.stdout


def _largest(said):
    return int(re.search(r"largest record (\d+)", said).group(1))
