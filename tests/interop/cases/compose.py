"""The set of config/compose: as Docker Compose itself reads it, and its processes in network namespaces, with its commands and files."""

import json
import os
import shlex
import shutil
import subprocess
import urllib.parse
from pathlib import Path

from process import Process, wait_until

_SET = Path(__file__).resolve().parents[3] / "config" / "compose"

# The user of the image.
_USER = 65532

# Of the services, those whose program is here; and what their image starts when the service has no command.
_PROGRAMS = {
    "remora": ("remora", "run --config /etc/remora/remora.toml"),
    "sandbox": ("remora", ""),
    "prometheus": ("prometheus", "--config.file=/etc/prometheus/prometheus.yml"),
}


def compose_takes_the_set_with_either_nodes(lab):
    """Docker Compose finds no mistake, starts the nodes of the switch, and every file that is mounted is there; Remora takes its own."""
    for nodes, expected in (("sandbox", {"sandbox"}), ("emqx", {"emqx1", "emqx2", "emqx3"})):
        services = _services(nodes)
        assert set(services) == {"remora", "prometheus", "grafana"} | expected, services.keys()
        for name, service in services.items():
            for volume in service.get("volumes", []):
                assert volume["type"] == "volume" or Path(volume["source"]).exists(), f"{name}: {volume}"
            for port in service.get("ports", []):
                assert port["host_ip"] == "127.0.0.1", f"{name} is open to the network: {port}"
        folder = Path(services["remora"]["volumes"][0]["source"])
        checked = subprocess.run([os.environ["REMORA_BIN"], "check", folder / "remora.toml"], capture_output=True, text=True)
        assert checked.returncode == 0 and not checked.stderr, checked.stderr
        grace = services["remora"]["stop_grace_period"]
        assert grace == "45s" and 'grace = "30s"' in (folder / "remora.toml").read_text(), grace
        # Nothing but names of the set is dialed.
        for host in ("sandbox", "emqx1", "emqx2", "emqx3"):
            named = f'"{host}:' in (folder / "remora.toml").read_text()
            assert named == (host in services), f"{nodes}: {host}"
    # The switch is in a file of its own, since a variable of the shell comes before it.
    assert set(_services(None)) == {"remora", "prometheus", "grafana", "sandbox"}


def the_set_runs_as_compose_would_run_it(lab):
    """Each service in a namespace of its own, under its name: a message arrives, Prometheus scrapes Remora and has its rules, and all drain."""
    engine = _Engine(lab, _services("sandbox"))
    sandbox = engine.start("sandbox")
    sandbox.wait_for(r"node3\s+0\.0\.0\.0:1885")
    remora = engine.start("remora")
    remora.wait_for("listening")
    health = engine.enter("remora") + ["remora", "health", "--config", "/etc/remora/remora.toml"]
    wait_until(lambda: subprocess.run(health, capture_output=True).returncode == 0, "the image's health check")
    at = engine.addresses["remora"]
    # Of different nodes, and kept for who comes later.
    for client_id in ("sensor-1", "sensor-2", "sensor-3"):
        publish = ["mosquitto_pub", "-h", at, "-i", client_id, "-t", f"demo/{client_id}", "-m", "hello", "-r", "-q", "1"]
        subprocess.run(engine.outside + publish, check=True, timeout=20)
    subscribe = ["mosquitto_sub", "-h", at, "-i", "screen", "-t", "demo/#", "-C", "3", "-W", "20", "-v"]
    received = subprocess.run(engine.outside + subscribe, capture_output=True, text=True, timeout=30).stdout
    assert sorted(received.splitlines()) == [f"demo/sensor-{number} hello" for number in (1, 2, 3)], received
    # As docs/compose.md has it: by the admin socket, in the container.
    nodes = subprocess.run(engine.enter("remora") + ["remora", "ctl", "nodes", "--json"], capture_output=True, text=True, timeout=20)
    assert {node["node"] for node in json.loads(nodes.stdout)["nodes"]} == {"node1", "node2", "node3"}, nodes.stdout + nodes.stderr
    prometheus = engine.start("prometheus")
    prometheus.wait_for("Server is ready to receive web requests", seconds=30)
    ask = lambda path: engine.fetch(f"http://{engine.addresses['prometheus']}:9090/api/v1/{path}")  # noqa: E731
    found = wait_until(lambda: ask("query?" + urllib.parse.urlencode({"query": 'up{job="remora"} == 1'}))["result"], "a scrape", seconds=40)
    assert found[0]["metric"]["instance"] == "remora:9883", found
    rules = {rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]}
    assert "RemoraNoNode" in rules, rules
    assert remora.stop(seconds=45) == 0, remora.output()
    assert "drained" in remora.output(), remora.output()
    assert sandbox.stop() == 0, sandbox.output()


def grafana_is_given_what_is_there(lab):
    """Its data source is the Prometheus of the set, and the file of the dashboard lies where its provider looks."""
    services = _services("sandbox")
    files = {volume["target"]: Path(volume["source"]) for volume in services["grafana"]["volumes"]}
    sources = _yaml(files["/etc/grafana/provisioning/datasources/remora.yaml"])["datasources"]
    assert [(source["type"], source["url"], source["isDefault"]) for source in sources] == [("prometheus", "http://prometheus:9090", True)]
    assert "prometheus" in services
    (provider,) = _yaml(files["/etc/grafana/provisioning/dashboards/remora.yaml"])["providers"]
    shown = [target for target in files if target.startswith(provider["options"]["path"] + "/") and target.endswith(".json")]
    assert shown == [services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]]
    # It takes the default source: the dashboard names none.
    variables = {variable["name"]: variable for variable in json.loads(files[shown[0]].read_text())["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus" and "current" not in variables["datasource"]


def _services(nodes):
    environment = {key: value for key, value in os.environ.items() if key != "COMPOSE_PROFILES"}
    environment |= {"COMPOSE_PROFILES": nodes} if nodes else {}
    command = [f"{os.environ['ORCHESTRATION']}/bin/docker-compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=_SET, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)["services"]


def _yaml(path):
    """As the library reads it that comes with the validator."""
    command = [f"{os.environ['ORCHESTRATION']}/bin/python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"]
    return json.loads(subprocess.run(command, input=path.read_text(), capture_output=True, text=True, check=True).stdout)


class _Engine:
    """Runs services as an engine would: each in a network namespace of its own, on one bridge, with an /etc in which the names of all of
    them and its files are. That takes root."""

    def __init__(self, lab, services):
        self.lab, self.services = lab, services
        self.addresses = {name: f"10.77.0.{place}" for place, name in enumerate(_PROGRAMS, start=2)}
        bridge = self._namespace("bridge")
        self.outside = ["ip", "netns", "exec", bridge]
        _ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", bridge, "address", "add", "10.77.0.1/24", "dev", "bridge")
        _ip("-n", bridge, "link", "set", "bridge", "up")
        for name, address in self.addresses.items():
            namespace = self._namespace(name)
            _ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"to-{name}", "netns", bridge)
            _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", bridge, "link", "set", f"to-{name}", "master", "bridge", "up")
            self._make_etc(name)

    def start(self, name):
        program, default = _PROGRAMS[name]
        words = self.services[name].get("command") or shlex.split(default)
        words = words + [f"--storage.tsdb.path={self.lab.folder / 'data'}"] if program == "prometheus" else words
        return Process(name, self.enter(name, new=True) + [program, *words], self.lab.folder)

    def enter(self, name, new=False):
        """What a command begins with that is to run in a service's container; `new` where nothing runs in it yet."""
        if not new:
            child = next(process.child.pid for process in Process.started if process.name == name)
            return ["nsenter", "-t", str(child), "-n", "-m", *self._as_user(name)]
        mounts = [f"mount --bind {self.lab.folder}/{name}-etc /etc", "mount -t tmpfs bin /usr/local/bin", "touch /usr/local/bin/remora"]
        mounts.append(f"mount --bind {os.environ['REMORA_BIN']} /usr/local/bin/remora")
        for volume in self.services[name].get("volumes", []):
            if volume["type"] == "bind":
                mounts.append(f"mount --bind -o ro {volume['source']} {volume['target']}")
        mounts += ["mount -t tmpfs run /run", f"install -d -o {_USER} -g {_USER} -m 0750 /run/remora"]
        script = " && ".join([*mounts, 'exec "$@"'])
        return ["ip", "netns", "exec", self._name(name), "sh", "-c", script, "sh", *self._as_user(name)]

    def fetch(self, url):
        code = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
        done = subprocess.run(self.outside + ["python3", "-c", code, url], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["data"]

    def _as_user(self, name):
        user = ["--reuid", str(_USER), "--regid", str(_USER), "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
        path = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return ["setpriv", *(user if _PROGRAMS[name][0] == "remora" else []), "env", "-u", "REMORA_CONFIG", path]

    def _make_etc(self, name):
        etc = Path(self.lab.folder) / f"{name}-etc"
        shutil.copytree("/etc", etc, symlinks=True, ignore=lambda folder, names: names if folder.startswith("/etc/ssl") else [])
        hosts = [f"{address} {service}" for service, address in self.addresses.items()]
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(hosts) + "\n")
        for volume in self.services[name].get("volumes", []):
            target = etc.parent / f"{name}{volume['target'].replace('/etc', '-etc', 1)}"
            if volume["type"] == "bind" and Path(volume["source"]).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif volume["type"] == "bind":
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()

    def _namespace(self, name):
        namespace = self._name(name)
        _ip("netns", "add", namespace)
        self.lab.callback(_ip, "netns", "delete", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def _name(self, name):
        return f"remora-{os.getpid()}-{name}"


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
