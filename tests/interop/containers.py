"""Containers without an engine: processes in network namespaces of their own on one bridge, with an /etc and a /run of their own. Takes root."""

import os
import shutil
import subprocess
from pathlib import Path

from process import Process

# That of Remora's image.
USER = 65532


class Containers:
    """Containers that know each other by name. Each runs one program."""

    def __init__(self, lab, names):
        self.lab = lab
        self.addresses = {name: f"10.77.0.{place}" for place, name in enumerate(names, start=2)}
        self.users = {}
        bridge = self._namespace("bridge")
        # What a command begins with that is to reach them from outside.
        self.outside = ["ip", "netns", "exec", bridge]
        ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        ip("-n", bridge, "address", "add", "10.77.0.1/24", "dev", "bridge")
        ip("-n", bridge, "link", "set", "bridge", "up")
        for place, (name, address) in enumerate(self.addresses.items()):
            namespace = self._namespace(name)
            ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"to-{place}", "netns", bridge)
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", bridge, "link", "set", f"to-{place}", "master", "bridge", "up")

    def start(self, name, command, mounts=(), run="65532:65532 0750", user=USER, name_server=None):
        """Starts `command` with files and folders mounted (source, target below /etc), and with owner and mode of /run/remora."""
        etc = Path(self.lab.folder) / f"{name}-etc"
        shutil.copytree("/etc", etc, symlinks=True, ignore=lambda folder, names: names if folder.startswith("/etc/ssl") else [])
        hosts = [f"{address} {other}" for other, address in self.addresses.items()]
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(hosts) + "\n")
        if name_server:
            (etc / "resolv.conf").unlink()
            (etc / "resolv.conf").write_text(f"nameserver {name_server}\n")
        script = [f"mount --bind {etc} /etc", "mount -t tmpfs bin /usr/local/bin", "touch /usr/local/bin/remora"]
        script.append(f"mount --bind {os.environ['REMORA_BIN']} /usr/local/bin/remora")
        for source, target in mounts:
            inside = etc / Path(target).relative_to("/etc")
            if Path(source).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
            script.append(f"mount --bind -o ro {source} {target}")
        owner, mode = run.split()
        script += ["mount -t tmpfs run /run", f"mkdir /run/remora && chown {owner} /run/remora && chmod {mode} /run/remora", 'exec "$@"']
        self.users[name] = user
        inside = ["ip", "netns", "exec", self._name(name), "sh", "-c", " && ".join(script), "sh", *self._as_user(name)]
        return Process(name, [*inside, *command], self.lab.folder)

    def inside(self, name):
        """What a command begins with that is to run in a container that runs."""
        child = next(process.child.pid for process in Process.started if process.name == name)
        return ["nsenter", "-t", str(child), "-n", "-m", *self._as_user(name)]

    def fetch(self, url):
        """The status and the body of the answer to a request from outside."""
        code = "import sys, urllib.request as r, urllib.error as e\ntry: a = r.urlopen(sys.argv[1], timeout=5)\nexcept e.HTTPError as h: a = h\n"
        code += "sys.stdout.write(f'{a.status} {a.read().decode()}')"
        done = subprocess.run([*self.outside, "python3", "-c", code, url], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        status, body = done.stdout.split(" ", 1)
        return int(status), body

    def _as_user(self, name):
        user = self.users[name]
        changed = ["--reuid", str(user), "--regid", str(user), "--clear-groups", "--bounding-set=-all", "--no-new-privs"] if user else []
        return ["setpriv", *changed, "env", "-u", "REMORA_CONFIG", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]

    def _namespace(self, name):
        namespace = self._name(name)
        ip("netns", "add", namespace)
        self.lab.callback(ip, "netns", "delete", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _name(self, name):
        return f"remora-{os.getpid()}-{name}"


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
