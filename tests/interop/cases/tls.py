"""TLS ends at the balancer for the clients that people have, and begins there for the nodes that people have."""

import json
import re
import socket
import ssl
import subprocess
import time

from certificates import key_hash
from clients import mosquitto_pub
from packets import connect
from process import Process, wait_until

TO = "to/secured"

CONNACK = b"\x20\x02\0\0"

# What testssl.sh says of something that is as it should be, or says nothing of how it should be.
FINE = {"OK", "INFO", "WARN", "DEBUG"}

# What it holds against a server that is as it should be: where every suite is a strong one, the client's order is the better
# one, since a small device knows what is cheap for it.
WANTED = {"cipher_order"}


def openssl_finds_both_versions_and_none_before(lab):
    """s_client verifies the chain, is answered in ALPN, and speaks TLS 1.2 and 1.3 but nothing older."""
    authority = lab.authority()
    balancer = lab.balancer(lab.mosquittos(), authority=authority)
    for version, protocol in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
        said = _s_client(balancer.tls_port, authority, version, "-alpn", "mqtt")
        assert f"{protocol}, Cipher is" in said, said
        assert "Verify return code: 0 (ok)" in said, said
        assert "ALPN protocol: mqtt" in said, said
        assert "Verified peername: localhost" in said or "CN = localhost" in said, said
    for version in ("-tls1", "-tls1_1"):
        said = _s_client(balancer.tls_port, authority, version, "-cipher", "ALL:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said, said
    wait_until(lambda: balancer.causes().count("tls_incompatible") == 2, "the causes in the log")


def openssl_resumes_its_session(lab):
    """-sess_out and -sess_in, with both versions: the second handshake is reused, and so it is across a new certificate."""
    authority = lab.authority()
    balancer = lab.balancer(lab.mosquittos(), authority=authority)
    for version in ("-tls1_2", "-tls1_3"):
        session = lab.folder / f"session{version}"
        first = _s_client(balancer.tls_port, authority, version, "-sess_out", session, says=connect("one"), until=session)
        assert "New, TLS" in first, first
        again = _s_client(balancer.tls_port, authority, version, "-sess_in", session)
        assert "Reused, TLS" in again, again
    assert b'kind="resumed"} 2' in balancer.metrics("text/plain"), "two handshakes were resumed"


def openssl_comes_in_with_any_server_name_and_old_certificates(lab):
    """-servername with what no host is called, with certificates of version 1 and self-signed ones: a CONNACK, with both versions.

    In TLS 1.3 also after a HelloRetryRequest, since X448 is not had here: the ClientHello then comes twice, with a ticket in it as well.
    """
    authority = lab.authority()
    shown = [authority.client("new"), authority.old_client("old"), authority.trusted_client("own")]
    balancer = lab.balancer(lab.mosquittos(), authority=authority, demands=True)
    for version, *groups in (("-tls1_2",), ("-tls1_3",), ("-tls1_3", "-groups", "X448:P-256")):
        for number, name in enumerate(("broker:8883", "[::1]", "a..b", "my broker", "b\u00fccher.example", "10.0.0.7")):
            chain, key = shown[number % len(shown)]
            options = ("-servername", name, "-cert", chain, "-key", key, *groups)
            assert _answer(balancer.tls_port, version, *options) == CONNACK, f"{version} {name} {chain}"
            # A session of such a client is resumed.
            session = lab.folder / f"odd{version}-{len(groups)}-{number}"
            _s_client(balancer.tls_port, authority, version, *options, "-sess_out", session, says=connect("one"), until=session)
            again = _s_client(balancer.tls_port, authority, version, *options, "-sess_in", session)
            assert "Reused, TLS" in again, again
    names = re.findall(r'certificate_cn="?(\w+)', balancer.process.output())
    assert set(names) == {"new", "old", "own"}, names


def openssl_gets_records_as_small_as_it_asks_for(lab):
    """-maxfraglen: no record of the handshake is larger, which a device with small buffers could not read."""
    authority = lab.authority()
    balancer = lab.balancer(lab.mosquittos(), authority=authority)
    for version in ("-tls1_2", "-tls1_3"):
        said = _s_client(balancer.tls_port, authority, version, "-maxfraglen", "512", "-msg")
        assert "Verify return code: 0 (ok)" in said, said
        headers = re.findall(r"<<< [^\n]*RecordHeader[^\n]*\n\s+(?:[0-9a-f]{2} ){3}([0-9a-f]{2}) ([0-9a-f]{2})", said)
        sizes = [int(high + low, 16) for high, low in headers]
        assert sum(sizes) > 600 and max(sizes) <= 512 + 24, sizes


def gnutls_comes_in_and_hears_what_is_too_old(lab):
    """gnutls-cli, which asks for records of a size of its own: both versions; RSA key exchange and CBC are refused by name."""
    authority = lab.authority()
    balancer = lab.balancer(lab.mosquittos(), authority=authority)
    for version in ("TLS1.2", "TLS1.3"):
        said = _gnutls_cli(balancer.tls_port, authority, f"NORMAL:-VERS-ALL:+VERS-{version}")
        assert "Status: The certificate is trusted." in said and f"({version}" in said, said
    for old in ("-KX-ALL:+RSA", "-CIPHER-ALL:+AES-128-CBC"):
        before = len(balancer.causes())
        said = _gnutls_cli(balancer.tls_port, authority, f"NORMAL:-VERS-ALL:+VERS-TLS1.2:{old}")
        assert "alert" in said, said
        wait_until(lambda: len(balancer.causes()) > before, "an end")
        assert balancer.causes()[before] == "tls_incompatible", balancer.causes()[before:]
    said = re.findall(r'why="(no key exchange|no cipher suite) in common', balancer.process.output())
    assert said == ["no key exchange", "no cipher suite"], said


def openssl_may_not_renegotiate_and_harms_nobody(lab):
    """Renegotiations and key updates without end: a client that asks for them is refused or cut, and others are served."""
    authority = lab.authority()
    brokers = lab.mosquittos()
    balancer = lab.balancer(brokers, authority=authority)
    for version, word in (("-tls1_2", "R"), ("-tls1_3", "K"), ("-tls1_3", "k")):
        flood = Process(
            f"s_client{version}-{word}", _s_client_words(balancer.tls_port, authority, version), lab.folder, stdin=subprocess.PIPE
        )
        flood.wait_for("Verify return code")
        try:
            for _ in range(300):
                flood.child.stdin.write(f"{word}\n".encode())
                flood.child.stdin.flush()
                # Each is a command only at the beginning of what s_client reads at once.
                time.sleep(0.002)
        except BrokenPipeError:
            pass
        mosquitto_pub(balancer.tls_port, "--cafile", authority.ca, "-t", TO)
        flood.kill()
    assert balancer.process.running()
    assert "panicked" not in balancer.process.output()


def testssl_finds_nothing(lab):
    """No protocol before TLS 1.2, no weak suite, no forward secrecy missing, none of the vulnerabilities that it knows."""
    authority = lab.authority()
    balancer = lab.balancer(lab.mosquittos(), authority=authority)
    report = lab.folder / "testssl.json"
    command = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--fast", "--assume-http", "--add-ca", authority.ca]
    command += ["--protocols", "--std", "--pfs", "--server-preference", "--vulnerable", "--jsonfile", report]
    done = subprocess.run([*map(str, command), f"127.0.0.1:{balancer.tls_port}"], capture_output=True, text=True, timeout=85)
    assert report.exists(), done.stdout + done.stderr
    findings = {finding["id"]: finding for finding in json.loads(report.read_text())}
    for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert findings[name]["finding"].startswith("not offered"), findings[name]
    for name in ("TLS1_2", "TLS1_3"):
        assert findings[name]["finding"].startswith("offered"), findings[name]
    bad = [finding for name, finding in findings.items() if finding["severity"] not in FINE and name not in WANTED]
    assert not bad, bad
    vulnerabilities = [name for name, finding in findings.items() if "not vulnerable" in finding["finding"]]
    assert len(vulnerabilities) >= 10, f"it looked for {vulnerabilities}"


def mosquittos_tools_come_in_with_a_certificate(lab):
    """mosquitto_pub and mosquitto_sub with --cafile, --cert and --key; not without, and not with another's."""
    authority, stranger = lab.authority(), lab.authority("stranger")
    broker = lab.mosquitto("mosquitto1")
    balancer = lab.balancer([broker], authority=authority, demands=True)

    def shows(certificate):
        chain, key = certificate
        return ("--cafile", authority.ca, "--cert", chain, "--key", key)

    ours = shows(authority.client("gauge"))
    for version in ("3.1.1", "5"):
        subscriber = lab.mosquitto_sub(balancer.tls_port, *ours, "-t", TO, "-N", "-C", "1", "-i", f"hears-{version}", version=version)
        wait_until(lambda: broker.knows(f"hears-{version}") and f"{TO} (QoS 0)" in broker.log(), "a subscription")
        payload = bytes(range(256)) * 4_000
        mosquitto_pub(balancer.tls_port, *ours, "-t", TO, version=version, payload=payload)
        assert subscriber.payload() == payload
    assert 'certificate_cn=gauge' in balancer.process.output()
    for options, cause in (
        (("--cafile", authority.ca), "certificate_refused"),
        (shows(stranger.client("gauge")), "certificate_refused"),
        (("--cafile", stranger.ca), "certificate_distrusted"),
    ):
        before = len(balancer.causes())
        try:
            mosquitto_pub(balancer.tls_port, *options, "-t", TO)
        except AssertionError:
            pass
        else:
            raise AssertionError(f"mosquitto_pub came in with {options}")
        wait_until(lambda: len(balancer.causes()) > before, "an end")
        assert balancer.causes()[before] == cause, balancer.causes()[before:]


def mqttjs_over_tls_comes_back_to_its_node(lab):
    """MQTT.js in Node.js with mqtts:// and wss://, and its default options: its node is that of its id over plain TCP."""
    authority = lab.authority()
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers, authority=authority)
    trusted = authority.ca.read_text()
    for url, port in (("mqtts://127.0.0.1:PORT", balancer.tls_port), ("wss://127.0.0.1:PORT/mqtt", balancer.wss_port)):
        for number in range(3):
            client_id = f"js-{url[:3]}-{number}"
            home = lab.home(brokers, balancer.port, client_id)
            client = lab.mqttjs(port, client_id, url=url, ca=trusted)
            assert client.hears_from(brokers) is home
            client.drop()
            assert client.hears_from(brokers) is home
            assert not client.events("error"), client.events("error")
            client.kill()


def a_tab_over_tls_comes_back_to_its_node(lab):
    """Chromium with wss://: reloaded, it finds its session; with a certificate that it does not trust it stays out."""
    authority = lab.authority()
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers, authority=authority)
    home = lab.home(brokers, balancer.port, "tab")
    tab = lab.tab(balancer.wss_port, "tab", key_hash(balancer.chain), clean=False)
    assert tab.hears_from(brokers) is home
    assert tab.reload(), "the tab did not find its session"
    assert tab.hears_from(brokers) is home
    assert not tab.events("error"), f"MQTT.js heard of an error: {tab.events('error')}"
    other, _ = lab.authority("other").server()
    distrustful = lab.tab(balancer.wss_port, "distrustful", key_hash(other), subscribes=False)
    wait_until(lambda: distrustful.events("close"), "a tab that is refused", seconds=30)
    assert not distrustful.events("connect")


def paho_over_tls_keeps_its_session(lab):
    """paho over TLS and over WebSocket in TLS: session present, and the message that was sent meanwhile arrives."""
    authority = lab.authority()
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers, authority=authority)
    for transport, port in (("tcp", balancer.tls_port), ("websockets", balancer.wss_port)):
        for version in ("3.1.1", "5"):
            client_id = f"keeper-{transport}-{version}"

            def client():
                secured = lab.paho(client_id, version, transport=transport)
                secured.client.tls_set(str(authority.ca))
                return secured

            first = client()
            assert not first.connect(port), f"{client_id} is new and found a session"
            first.subscribe(f"to/{client_id}")
            first.disconnect()
            home = next(broker for broker in brokers if broker.knows(client_id))
            mosquitto_pub(home.port, "-t", f"to/{client_id}", "-q", "1", payload=client_id.encode())
            again = client()
            assert again.connect(port), f"{client_id} did not find its session"
            assert again.message() == client_id.encode()
            again.disconnect()


def mosquittos_are_reached_with_tls(lab):
    """Nodes at mqtts:// that demand a certificate: one node's clients stay on it, and big messages pass both ways."""
    authority = lab.authority()
    brokers = [lab.mosquitto(f"mosquitto{number}", authority=authority) for number in (1, 2)]
    balancer = lab.balancer(brokers, authority=authority)
    homes = set()
    payload = bytes(range(256)) * 20_000
    for number in range(6):
        client_id = f"client-{number}"
        homes.add(lab.home(brokers, balancer.port, client_id).name)
        secured = ("--cafile", authority.ca) if number % 2 else ()
        port = balancer.tls_port if number % 2 else balancer.port
        topic = f"{TO}/{number}"
        subscriber = lab.mosquitto_sub(port, *secured, "-t", topic, "-N", "-C", "1", "-i", client_id)
        home = wait_until(lambda: next((b for b in brokers if f"{topic} (QoS 0)" in b.log()), None), "a subscription")
        mosquitto_pub(home.port, "-t", topic, payload=payload)
        assert subscriber.payload() == payload
    assert len(homes) == 2, homes
    for broker in brokers:
        assert "unexpected eof" not in broker.log().lower(), "a connection that ended without a word of TLS"
    # Neither side's packets wait for the other's acknowledgement, which may be 40 ms late.
    slow = [time for time in map(int, re.findall(r"greet_us=(\d+)", balancer.process.output())) if time > 35_000]
    assert len(slow) <= 1, f"slow greetings: {slow}"


def a_new_certificate_is_served_after_a_reload(lab):
    """SIGHUP: the next handshake shows it, a subscriber that was there goes on."""
    authority = lab.authority()
    broker = lab.mosquitto("mosquitto1")
    balancer = lab.balancer([broker], authority=authority)
    subscriber = lab.mosquitto_sub(balancer.tls_port, "--cafile", authority.ca, "-t", TO, "-N", "-C", "1", "-i", "stays")
    wait_until(lambda: f"{TO} (QoS 0)" in broker.log(), "a subscription")
    before = _shown(balancer.tls_port, authority)
    authority.server()
    balancer.reload()
    after = _shown(balancer.tls_port, authority)
    assert before != after
    mosquitto_pub(balancer.tls_port, "--cafile", authority.ca, "-t", TO, payload=b"after")
    assert subscriber.payload() == b"after"


def _shown(port, authority):
    """The certificate that a client is shown."""
    trusting = ssl.create_default_context(cafile=authority.ca)
    with socket.create_connection(("127.0.0.1", port)) as tcp, trusting.wrap_socket(tcp, server_hostname="localhost") as tls:
        return tls.getpeercert(binary_form=True)


def _answer(port, *options):
    """What a CONNECT is answered through s_client."""
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-ign_eof", *map(str, options)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        child.stdin.write(connect("odd"))
        child.stdin.flush()
        answer = child.stdout.read(len(CONNACK))
        child.kill()
    return answer


def _gnutls_cli(port, authority, priority):
    """What gnutls-cli prints of a connection that it closes at once."""
    words = ["gnutls-cli", "--x509cafile", authority.ca, "--priority", priority, "--sni-hostname", "localhost"]
    words += ["--verify-hostname", "localhost", "--port", port, "127.0.0.1"]
    done = subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, timeout=15)
    return (done.stdout + done.stderr).decode(errors="replace")


def _s_client_words(port, authority, *options):
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", authority.ca, "-servername", "localhost"]
    return [*words, "-verify_hostname", "localhost", "-verify_return_error", *options]


def _s_client(port, authority, *options, says=b"", until=None):
    """What s_client prints of a connection on which it says these bytes, until this file is there."""
    words = list(map(str, _s_client_words(port, authority, *options)))
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if says:
        child.stdin.write(says)
        child.stdin.flush()
    if until:
        wait_until(lambda: until.exists() and until.stat().st_size, "a session")
    said, _ = child.communicate(timeout=15)
    return said.decode(errors="replace")
