"""What tests/packages/run has built, put to use: the Debian package under systemd, and the image in a container."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from contextlib import contextmanager
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parents[1] / "interop"))

from certificates import Authority  # noqa: E402
from debian import Debian, base  # noqa: E402
from image import Container, Image  # noqa: E402
from process import Process, wait_until  # noqa: E402

# The version to upgrade from.
OLD = "0.0.9-1"

IMAGE_BYTES_MAX = 15 * 1024 * 1024

CONFIGURATION = """
[[listeners]]
address = "127.0.0.1:2883"

[[nodes]]
name = "mosquitto"
address = "{node}:1883"
"""

TLS = """
[log]
file = "/var/log/remora/remora.log"

[[listeners]]
address = "127.0.0.1:8883"
tls = "end"
certificates = [{ chain = "/etc/remora/tls.pem", key = "/etc/remora/tls.key" }]
"""

# The only capability of the service: ports below 1024.
CAP_NET_BIND_SERVICE = 1 << 10


class Packaged:
    """One Debian in which the package goes through its life; each case takes it where the one before has left it."""

    def __init__(self, debian, version, folder):
        self.debian, self.new, self.folder = debian, f"{version}-1", folder
        self.authority = Authority(folder)
        self.before = debian.files()

    def cases(self):
        return [
            self.it_is_installed_whole_and_starts_nothing,
            self.the_service_runs_with_no_more_than_it_needs,
            self.a_reload_takes_a_good_configuration_and_refuses_a_bad_one,
            self.an_upgrade_keeps_the_configuration_and_runs_the_new_program,
            self.what_has_taken_over_is_started_again_when_it_dies,
            self.an_upgrade_starts_no_service_that_was_stopped,
            self.what_is_removed_keeps_its_configuration,
            self.what_is_purged_leaves_nothing,
        ]

    def it_is_installed_whole_and_starts_nothing(self):
        run = self.debian.run
        self._install(OLD)
        # Files as they were packed, dependencies met.
        assert run("dpkg", "--verify", "remora") == ""
        assert f"remora {self.new.removesuffix('-1')} " in run("remora", "--version")
        run("remora", "check", "-c", "/etc/remora/remora.toml")
        assert run("dpkg-query", "-Wf", "${Conffiles}", "remora").split()[0::2] == ["/etc/remora/remora.toml"]
        for page in ("remora", "remora-ctl-drain"):
            run("man", "--where", page)
        for shell, file in (("bash", "bash-completion/completions/remora"), ("zsh", "zsh/vendor-completions/_remora")):
            assert "remora" in run("cat", f"/usr/share/{file}"), shell
        assert run("bash", "-c", ". /usr/share/bash-completion/completions/remora; complete -p remora").endswith(" remora\n")
        assert run("systemctl", "is-enabled", "remora", status=1) == "disabled\n"
        assert run("systemctl", "is-active", "remora", status=3) == "inactive\n"
        run("systemd-analyze", "verify", "remora.service")

    def the_service_runs_with_no_more_than_it_needs(self):
        debian = self.debian
        chain, key = self.authority.server()
        debian.write("/etc/remora/tls.pem", chain.read_text())
        debian.write("/etc/remora/tls.key", key.read_text())
        debian.write("/etc/remora/authority.pem", self.authority.ca.read_text())
        debian.run("chgrp", "remora-keys", "/etc/remora/tls.key")
        debian.run("chmod", "0640", "/etc/remora/tls.key")
        debian.write("/etc/remora/remora.toml", CONFIGURATION.format(node="127.0.0.1") + TLS)
        debian.run("systemctl", "enable", "--now", "remora")
        status = self._status()
        assert all(int(uid) >= 61184 for uid in status["Uid"].split()), f"not the user of a dynamic service: {status['Uid']}"
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == CAP_NET_BIND_SERVICE, status["CapEff"]
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
        self._message_passes()
        self._message_passes("--cafile", "/etc/remora/authority.pem", port=8883)
        debian.run("remora", "health")
        assert "mosquitto" in debian.run("remora", "ctl", "nodes")
        wait_until(lambda: '"nodes up: 1 of 1' in debian.run("systemctl", "status", "remora"), "its state in systemd's words")
        wait_until(lambda: "connection ended" in debian.run("cat", "/var/log/remora/remora.log"), "a line of the log")

    def a_reload_takes_a_good_configuration_and_refuses_a_bad_one(self):
        debian = self.debian
        good = debian.path("/etc/remora/remora.toml").read_text()
        debian.write("/etc/remora/remora.toml", good.replace("2883", "3883"))
        before = self._pid()
        debian.run("systemctl", "reload", "remora")
        # The program notifies systemd, but systemctl waits for the signal alone.
        wait_until(lambda: "3883" in debian.run("remora", "ctl", "listeners"), "the new listener")
        self._message_passes(port=3883)
        debian.write("/etc/remora/remora.toml", good.replace("[[nodes]]", "[[knots]]"))
        debian.run("systemctl", "reload", "remora", status=1)
        self._message_passes(port=3883)
        debian.write("/etc/remora/remora.toml", good)
        debian.run("systemctl", "reload", "remora")
        wait_until(lambda: "2883" in debian.run("remora", "ctl", "listeners"), "the listener as it was")
        assert self._pid() == before

    def an_upgrade_keeps_the_configuration_and_runs_the_new_program(self):
        debian = self.debian
        before, written = self._pid(), debian.path("/etc/remora/remora.toml").read_text()
        old = self._outside_pid()
        with subscribed(debian.inside, self.folder, 2883) as subscriber:
            self._install(self.new)
            # One connection, from before the upgrade to behind it.
            publish(debian.inside, 2883, "whole")
            assert subscriber.wait() == 0
            output = subscriber.output()[subscriber.inherited :]
            assert "\nwhole\n" in output and output.count("sending CONNECT") == 1, output
        assert self._pid() != before
        wait_until(lambda: not Path(f"/proc/{old}").exists(), "the end of the process before")
        assert debian.run("systemctl", "is-active", "remora") == "active\n"
        assert "not our child" not in debian.run("journalctl", "-u", "remora"), "systemd would not notice its end"
        assert not os.readlink(f"/proc/{self._outside_pid()}/exe").endswith("(deleted)")
        assert debian.path("/etc/remora/remora.toml").read_text() == written
        assert debian.run("systemctl", "is-enabled", "remora") == "enabled\n"
        self._message_passes()

    def what_has_taken_over_is_started_again_when_it_dies(self):
        before = self._pid()
        self.debian.run("kill", "-KILL", str(before))
        wait_until(lambda: self._pid() not in (0, before), "another process")
        wait_until(lambda: self.debian.run("systemctl", "show", "--property=ActiveState", "--value", "remora") == "active\n", "the service")
        self._message_passes()

    def an_upgrade_starts_no_service_that_was_stopped(self):
        self.debian.run("systemctl", "stop", "remora")
        self._install(OLD, "--allow-downgrades")
        self._install(self.new)
        assert self.debian.run("systemctl", "is-active", "remora", status=3) == "inactive\n"

    def what_is_removed_keeps_its_configuration(self):
        self.debian.run("systemctl", "start", "remora")
        process = self._outside_pid()
        self.debian.run("apt-get", "remove", "-y", "-qq", "remora")
        assert not Path(f"/proc/{process}").exists()
        assert self.debian.path("/etc/remora/remora.toml").exists()
        self._install(self.new)
        self.debian.run("systemctl", "restart", "remora")
        self._message_passes()

    def what_is_purged_leaves_nothing(self):
        self.debian.run("apt-get", "purge", "-y", "-qq", "remora")
        self.debian.run("rm", "-r", "/etc/remora")
        left = self.debian.files() - self.before
        assert not left, f"left behind: {sorted(left)}"
        assert self.debian.run("systemctl", "is-active", "remora", status=3) == "inactive\n"
        assert "remora-keys" in self.debian.run("getent", "group", "remora-keys")

    def _install(self, version, *options):
        architecture = self.debian.run("dpkg", "--print-architecture").strip()
        package = f"/packages/remora_{version}_{architecture}.deb"
        self.debian.run("apt-get", "install", "-y", "-qq", *options, package)
        assert self.debian.run("dpkg-query", "-Wf", "${Status} ${Version}", "remora") == f"install ok installed {version}"

    def _pid(self):
        """The number of the service's process in the container."""
        return int(self.debian.run("systemctl", "show", "--property=MainPID", "--value", "remora"))

    def _outside_pid(self):
        """The same on the machine."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                found = re.search(r"^NSpid:\s+(\d+)\s+(\d+)$", status.read_text(), re.MULTILINE)
                same = os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{self.debian.leader}/ns/pid")
            except OSError:
                continue
            if found and same and int(found[2]) == self._pid():
                return int(found[1])
        raise AssertionError("the service has no process")

    def _status(self):
        lines = Path(f"/proc/{self._outside_pid()}/status").read_text().splitlines()
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def _message_passes(self, *options, port=2883):
        message_passes(self.debian.inside, self.folder, port, *options)


class Contained:
    """The image, once with all that an engine is told to give it, and once with nothing but its configuration."""

    def __init__(self, image, version, folder):
        self.image, self.version, self.folder = image, version, folder

    def cases(self):
        return [
            self.the_image_is_one_program_and_small,
            self.the_image_runs_without_a_capability_on_a_root_that_it_cannot_write,
            self.the_image_runs_with_nothing_but_a_configuration,
        ]

    def the_image_is_one_program_and_small(self):
        settings = self.image.settings
        assert self.image.files() == ["/usr/local/bin/remora"], self.image.files()
        assert settings["User"] == "65532:65532"
        assert settings["Labels"]["org.opencontainers.image.version"] == self.version
        unpacked, stored = self.image.bytes()
        assert unpacked <= IMAGE_BYTES_MAX, f"{unpacked} bytes"
        return f"{unpacked / 2**20:.1f} MiB, {stored / 2**20:.1f} MiB in a registry"

    def the_image_runs_without_a_capability_on_a_root_that_it_cannot_write(self):
        container = self._start("remora", tmpfs=["/run/remora"])
        node = Process("node", container.beside("mosquitto", "-p", "1883"), self.folder)
        wait_until(container.is_healthy, "the health check to hold")
        message_passes(container.beside, self.folder, 2883)
        status, printed = container.execute("remora", "ctl", "nodes")
        assert status == 0 and "mosquitto  up" in printed, printed
        status, printed = container.execute("remora", "man", "--out", "/written")
        assert status == 1 and "Read-only file system" in printed, printed
        facts = Path(f"/proc/{container.pid}/status").read_text()
        assert re.search(r"^Uid:\s+65532\s+65532\s+65532\s+65532$", facts, re.MULTILINE), facts
        assert re.search(r"^CapBnd:\s+0+$", facts, re.MULTILINE), facts
        assert container.stop() == 0
        node.stop()

    def the_image_runs_with_nothing_but_a_configuration(self):
        container = self._start("bare")
        node = Process("bare-node", container.beside("mosquitto", "-p", "1883"), self.folder)
        wait_until(container.is_healthy, "the health check to hold")
        message_passes(container.beside, self.folder, 2883)
        assert container.stop() == 0
        node.stop()

    def _start(self, name, tmpfs=()):
        # The node has a name, which a static program looks up in the files that an engine provides.
        hosts, configuration = self.folder / "hosts", self.folder / "remora.toml"
        hosts.write_text("127.0.0.1 broker\n")
        configuration.write_text(CONFIGURATION.format(node="broker"))
        mounts = [("/etc/hosts", hosts), ("/etc/remora/remora.toml", configuration)]
        return Container(self.image, name, self.folder, mounts, tmpfs)


class Listed:
    """What is said to be in the program."""

    def __init__(self, packages, folder):
        self.packages, self.folder = packages, folder

    def cases(self):
        return [self.the_bill_of_materials_has_every_crate_of_the_program, self.every_checksum_holds]

    def the_bill_of_materials_has_every_crate_of_the_program(self):
        [bill] = self.packages.glob("*.cdx.json")
        program = bill.with_name(bill.name.removesuffix(".cdx.json"))
        section = ["--output-target=binary", "--only-section=.dep-v0", "--set-section-flags=.dep-v0=alloc"]
        listed = self.folder / "listed"
        subprocess.run(["objcopy", *section, program, listed], check=True)
        crates = json.loads(zlib.decompress(listed.read_bytes()))["packages"]
        crates = {(crate["name"], crate["version"]) for crate in crates if not crate.get("root") and crate.get("kind") != "build"}
        components = json.loads(bill.read_text())["components"]
        missing = crates - {(component["name"], component["version"]) for component in components}
        assert len(crates) > 100 and not missing, f"{len(crates)} crates, not in the bill: {missing}"
        nameless = [component["name"] for component in components if not component.get("licenses")]
        assert not nameless, f"without a licence: {nameless}"
        return f"{len(crates)} crates"

    def every_checksum_holds(self):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=self.packages, check=True)


def message_passes(inside, folder, port, *options):
    """A client subscribes through the balancer, another one publishes, and the message arrives."""
    with subscribed(inside, folder, port, *options) as subscriber:
        publish(inside, port, "whole", *options)
        assert subscriber.wait() == 0
        assert "\nwhole\n" in subscriber.output()[subscriber.inherited :], subscriber.output()


@contextmanager
def subscribed(inside, folder, port, *options):
    """A client that has subscribed through the balancer, and ends with the first message."""
    where = ["-h", "127.0.0.1", "-p", str(port), *options, "-t", "packed"]
    subscriber = Process("subscriber", inside("stdbuf", "-oL", "mosquitto_sub", *where, "-i", "subscriber", "-C", "1", "-d"), folder)
    try:
        subscriber.wait_for("received SUBACK")
        yield subscriber
    finally:
        subscriber.kill()


def publish(inside, port, message, *options):
    """A client publishes through the balancer."""
    where = ["-h", "127.0.0.1", "-p", str(port), *options, "-t", "packed"]
    subprocess.run(inside("mosquitto_pub", *where, "-i", "publisher", "-m", message), check=True, timeout=30, stdin=subprocess.DEVNULL)


def run(cases, is_one_life=False):
    """How many of them held, and how many did not. In one life, each begins where the one before has ended."""
    passed = failed = 0
    for case in cases:
        started = time.monotonic()
        try:
            figures = case()
        except (AssertionError, OSError, subprocess.SubprocessError) as failure:
            failed += 1
            place = traceback.extract_tb(failure.__traceback__)[1]
            print(f"FAILED {case.__name__}: {place.line}: {failure}", flush=True)
            if is_one_life:
                break
            continue
        passed += 1
        print(f"ok     {case.__name__}: {f'{figures}, ' if figures else ''}{time.monotonic() - started:.1f} s", flush=True)
    return passed, failed


def main():
    parser = argparse.ArgumentParser(prog="tests/packages/run", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--version", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--only-debian", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help="leave logs behind")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    folder = Path(tempfile.mkdtemp(prefix="remora-packages-"))
    results = []
    try:
        debian = Debian(base(arguments.packages.parent), arguments.packages, folder)
        results.append(run(Packaged(debian, arguments.version, folder).cases(), is_one_life=True))
        debian.stop()
        if not arguments.only_debian:
            image = Image(arguments.packages / "image", folder)
            results.append(run(Contained(image, arguments.version, folder).cases()))
            image.delete()
            results.append(run(Listed(arguments.packages, folder).cases()))
    finally:
        Process.kill_all()
        if arguments.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    passed, failed = map(sum, zip(*results))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
