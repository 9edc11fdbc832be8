"""A Debian of its own: a fresh root, its own systemd as the first process, and a network with nothing but loopback."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from process import Process, wait_until

RELEASE = "bookworm"
# What a server has that a minimal root lacks, and the node and clients of the tests.
_INCLUDED = "systemd-sysv,procps,man-db,bash-completion,mosquitto,mosquitto-clients"


def base(folder):
    """A Debian in this folder, which stays for the next run; the containers do not change it."""
    root = Path(folder) / RELEASE
    if not root.exists():
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_INCLUDED}", RELEASE, partial]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        partial.rename(root)
    return root


class Debian:
    """One container. What it changes is in memory, and gone with it."""

    def __init__(self, root, packages, folder):
        command = ["systemd-nspawn", "--quiet", "--directory", root, "--volatile=overlay", "--boot", "--private-network"]
        command += ["--register=no", "--keep-unit", "--console=pipe", f"--bind-ro={packages}:/packages"]
        # The machine may have the first version of control groups; the container gets the second.
        self.process = Process("nspawn", command, folder, env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"})
        self.leader = wait_until(self._first_process, "the container's first process", seconds=30)
        wait_until(lambda: self._state() in ("running", "degraded"), "systemd to have started", seconds=120)
        assert self._state() == "running", self.run("systemctl", "--failed", "--no-pager")

    def run(self, *command, status=0):
        """What a command in the container prints; the case fails when it ends otherwise than with this status."""
        done = self._command(command)
        assert done.returncode == status, f"{' '.join(command)} ended with {done.returncode}: {done.stdout}"
        return done.stdout

    def inside(self, *command):
        """A command of the machine that runs this one in the container."""
        return [*self._enter(), *command]

    def path(self, path):
        """Where a file of the container is for the rest of the machine."""
        return Path(f"/proc/{self.leader}/root{path}")

    def write(self, path, text):
        self.path(path).write_text(text)

    def files(self):
        """Every file that does not belong to a package manager, a log of it, or the moment."""
        changing = ["/proc", "/sys", "/run", "/dev", "/tmp", "/var/tmp", "/packages", "/var/cache", "/var/log/journal"]
        changing += ["/var/lib/dpkg", "/var/lib/apt", "/var/log/apt", "/var/log/dpkg.log", "/var/lib/systemd/timers", "/var/lib/private"]
        pruned = [word for path in changing for word in ("-path", path, "-o")][:-1]
        found = self.run("find", "/", "(", *pruned, ")", "-prune", "-o", "-print")
        return set(found.splitlines())

    def stop(self):
        self._command(["systemctl", "poweroff", "--force"])
        self.process.stop(seconds=30)

    def _first_process(self):
        assert self.process.running(), f"no container: {self.process.output()}"
        children = Path(f"/proc/{self.process.child.pid}/task/{self.process.child.pid}/children").read_text().split()
        for child in children:
            # Others are helpers of nspawn, which come and go.
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        return None

    def _state(self):
        return self._command(["systemctl", "is-system-running"]).stdout.strip()

    def _enter(self):
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "HOME=/root"]
        return ["nsenter", "--target", str(self.leader), "--all", *clean]

    def _command(self, command):
        return subprocess.run(
            [*self._enter(), *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
