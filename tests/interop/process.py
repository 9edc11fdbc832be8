"""Child processes that end with the run, their logs, free ports, and waiting for a condition."""

import os
import random
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

# Ports below the kernel's range for outgoing connections, so that none of those takes a port between choice and use.
LISTENING_PORTS = range(10_000, 32_000)

_handed_out = set()


def free_port():
    """A loopback port that nobody listens on and that this run has not handed out yet."""
    while True:
        port = random.choice(LISTENING_PORTS)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            # Without this, a port that has only old connections in TIME_WAIT would look taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port


def wait_until(condition, what, seconds=10):
    """The first truthy answer of `condition`; the case fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


def run(*command):
    """Runs a command to its end; the case fails when the command does."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"


class Process:
    """One child process; what it prints goes to a file that can be searched while it runs."""

    # Every process since the last `kill_all`, so that none is left behind by a case that fails half way.
    started = []

    def __init__(self, name, command, folder, env=None, stdin=subprocess.DEVNULL):
        self.name = name
        self.log = Path(folder) / f"{name}.log"
        # What a process of the same name, started earlier, has left.
        self.inherited = len(self.output()) if self.log.exists() else 0
        with self.log.open("ab") as log:
            # setpriv becomes the command, so the id stays the same; the kernel ends the command when this run is killed.
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=folder,
            )
        Process.started.append(self)

    @staticmethod
    def kill_all():
        for process in reversed(Process.started):
            process.kill()
        Process.started.clear()

    def output(self):
        """Everything printed so far, by earlier processes of the same name too."""
        return self.log.read_text(errors="backslashreplace")

    def wait_for(self, pattern, seconds=10):
        """Waits until this process has printed something that matches."""

        def match():
            found = re.search(pattern, self.output()[self.inherited :])
            assert found or self.running(), f"{self.name} ended with {self.child.returncode} before it printed {pattern!r}"
            return found

        return wait_until(match, f"{pattern!r} from {self.name}", seconds)

    def running(self):
        return self.child.poll() is None

    def resident_bytes(self):
        """Memory of the process that is in the machine's."""
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    def descriptors(self):
        """What each of its open descriptors leads to, by number."""
        found = {}
        for link in Path(f"/proc/{self.child.pid}/fd").iterdir():
            try:
                found[int(link.name)] = os.readlink(link)
            except FileNotFoundError:
                # Closed since it was listed.
                continue
        return found

    def wait(self, seconds=10):
        """The exit status; the case fails when the process is still running then."""
        wait_until(lambda: not self.running(), f"the end of {self.name}", seconds)
        return self.child.returncode

    def kill(self):
        """Ends the process as a crash would."""
        self.child.kill()
        self.child.wait()

    def stop(self, seconds=10):
        """Asks the process to end, and returns its exit status; it is killed when it does not."""
        if self.running():
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode
