"""The set of config/compose: as Docker Compose itself reads it, and its processes in network namespaces, with its commands and files."""

import json
import os
import subprocess
import urllib.parse
from pathlib import Path

from containers import USER, Containers
from process import wait_until

_SET = Path(__file__).resolve().parents[3] / "config" / "compose"

# What is started from the images whose program is here, and what by default.
_IMAGES = {
    "remora": ("remora", ["run", "--config", "/etc/remora/remora.toml"], USER),
    "prom/prometheus": ("prometheus", ["--config.file=/etc/prometheus/prometheus.yml"], 0),
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
    services = _services("sandbox")
    containers = Containers(lab, ["sandbox", "remora", "prometheus"])

    def start(name, *more):
        program, words, user = _IMAGES[services[name]["image"].split(":")[0]]
        mounts = [(volume["source"], volume["target"]) for volume in services[name].get("volumes", []) if volume["type"] == "bind"]
        return containers.start(name, [program, *(services[name]["command"] or words), *more], mounts, user=user)

    sandbox = start("sandbox")
    sandbox.wait_for(r"node3\s+0\.0\.0\.0:1885")
    remora = start("remora")
    remora.wait_for("listening")
    health = [*containers.inside("remora"), "remora", "health", "--config", "/etc/remora/remora.toml"]
    wait_until(lambda: subprocess.run(health, capture_output=True).returncode == 0, "the image's health check")
    at = containers.addresses["remora"]
    # Of different nodes, and kept for who comes later.
    for client_id in ("sensor-1", "sensor-2", "sensor-3"):
        publish = ["mosquitto_pub", "-h", at, "-i", client_id, "-t", f"demo/{client_id}", "-m", "hello", "-r", "-q", "1"]
        subprocess.run([*containers.outside, *publish], check=True, timeout=20)
    subscribe = ["mosquitto_sub", "-h", at, "-i", "screen", "-t", "demo/#", "-C", "3", "-W", "20", "-v"]
    received = subprocess.run([*containers.outside, *subscribe], capture_output=True, text=True, timeout=30).stdout
    assert sorted(received.splitlines()) == [f"demo/sensor-{number} hello" for number in (1, 2, 3)], received
    # As docs/compose.md has it: by the admin socket, in the container.
    nodes = subprocess.run([*containers.inside("remora"), "remora", "ctl", "nodes", "--json"], capture_output=True, text=True, timeout=20)
    assert {node["node"] for node in json.loads(nodes.stdout)["nodes"]} == {"node1", "node2", "node3"}, nodes.stdout + nodes.stderr
    prometheus = start("prometheus", f"--storage.tsdb.path={lab.folder / 'data'}")
    prometheus.wait_for("Server is ready to receive web requests", seconds=30)

    def ask(path):
        status, body = containers.fetch(f"http://{containers.addresses['prometheus']}:9090/api/v1/{path}")
        assert status == 200, body
        return json.loads(body)["data"]

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
