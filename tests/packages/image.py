"""The image, built by buildah and run by runc: no engine is needed for either."""

import json
import subprocess
from pathlib import Path

from process import Process, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


class Image:
    """Built around a static program, as the Dockerfile says."""

    def __init__(self, context, folder):
        self.folder = Path(folder)
        # A store of its own, which ends with the folder.
        self._buildah_command = ["buildah", "--root", folder / "store", "--runroot", folder / "storerun", "--storage-driver", "vfs"]
        # The health check is Docker's; the format of OCI has none.
        options = ["--isolation", "chroot", "--format", "docker", "--quiet", "--target", "prebuilt", "--tag", "remora"]
        self._buildah("bud", *options, "--file", REPOSITORY / "Dockerfile", context)
        self.settings = json.loads(self._buildah("inspect", "--type", "image", "remora"))["Docker"]["config"]
        self.root = Path(self._buildah("mount", self._buildah("from", "remora")))

    def bytes(self):
        """All that is in it, and what a registry would have of it."""
        unpacked = sum(path.lstat().st_size for path in self.root.rglob("*"))
        stored = self.folder / "stored"
        self._buildah("push", "--quiet", "--format", "v2s2", "remora", f"dir:{stored}")
        return unpacked, sum(path.stat().st_size for path in stored.iterdir())

    def files(self):
        return sorted(f"/{path.relative_to(self.root)}" for path in self.root.rglob("*") if not path.is_dir())

    def delete(self):
        self._buildah("rm", "--all")

    def _buildah(self, *arguments):
        done = subprocess.run(
            [*map(str, self._buildah_command), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"buildah {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout.strip()


class Container:
    """What an engine makes of an image's settings, with a root that cannot be written, no capability, and a network of loopback alone."""

    def __init__(self, image, name, folder, mounts=(), tmpfs=()):
        self.image, self.name = image, name
        bundle = Path(folder) / name
        bundle.mkdir()
        self._runc_command = ["runc", "--root", str(Path(folder) / "runc")]
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        specification = json.loads((bundle / "config.json").read_text())
        user, group = image.settings["User"].split(":")
        process = specification["process"]
        process["terminal"] = False
        process["user"] = {"uid": int(user), "gid": int(group)}
        process["args"] = image.settings["Entrypoint"] + image.settings["Cmd"]
        process["env"] = image.settings["Env"]
        process["capabilities"] = {}
        specification["root"] = {"path": str(image.root), "readonly": True}
        for inside, outside in mounts:
            specification["mounts"].append({"destination": inside, "source": str(outside), "type": "bind", "options": ["bind", "ro"]})
        for inside in tmpfs:
            options = ["nosuid", "nodev", "mode=0750", f"uid={user}", f"gid={group}"]
            specification["mounts"].append({"destination": inside, "source": "tmpfs", "type": "tmpfs", "options": options})
        (bundle / "config.json").write_text(json.dumps(specification))
        self.process = Process(name, [*self._runc_command, "run", "--bundle", bundle, name], folder)
        self.pid = wait_until(self._first_process, f"the first process of {name}", seconds=30)

    def execute(self, *command):
        """The exit status of a command in the container, and what it prints."""
        done = subprocess.run(
            [*self._runc_command, "exec", self.name, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60,
        )
        return done.returncode, done.stdout

    def is_healthy(self):
        """What the image's health check says."""
        kind, *command = self.image.settings["Healthcheck"]["Test"]
        assert kind == "CMD", kind
        return self.execute(*command)[0] == 0

    def beside(self, *command):
        """A command of the machine in the container's network."""
        return ["nsenter", "--target", str(self.pid), "--net", *command]

    def stop(self):
        """The exit status after the image's signal for a stop."""
        subprocess.run([*self._runc_command, "kill", self.name, self.image.settings["StopSignal"]], check=True)
        return self.process.wait(seconds=60)

    def delete(self):
        subprocess.run([*self._runc_command, "delete", "--force", self.name], capture_output=True, timeout=30)

    def _first_process(self):
        assert self.process.running(), f"no container: {self.process.output()}"
        done = subprocess.run([*self._runc_command, "state", self.name], capture_output=True, text=True, timeout=30)
        state = json.loads(done.stdout) if done.returncode == 0 else {}
        return state.get("pid") if state.get("status") == "running" else None
