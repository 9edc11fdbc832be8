"""config/helm and config/kubernetes: rendered by Helm's own engine, held against the schemas of Kubernetes, and a pod of it, run."""

import json
import os
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

from containers import Containers
from process import wait_until

_CONFIG = Path(__file__).resolve().parents[3] / "config"
_ROOT = _CONFIG.parent

_TLS = {"name": "mqtts", "port": 8883, "servicePort": 443, "tlsSecret": "mqtt.example-tls", "clientCertificates": "required"}

# Values that operators may have, the defaults first.
_RELEASES = [
    {"values": {}},
    {"values": {"workload": "DaemonSet", "hostNetwork": True, "service": {"type": "ClusterIP"}}},
    {"values": {"listeners": [_TLS, {"name": "wss", "port": 8084, "transport": "ws", "tlsSecret": "mqtt.example-tls", "extra": 'tls_min = "1.3"\n'}]}},
    {"values": {"emqx": {"discovery": "api", "apiKeySecret": "emqx-api", "namespace": "emqx", "proxyProtocol": "v2", "check": "status"}}},
    {"values": {"emqx": {"check": "off", "nodes": '[[nodes]]\naddress = "mqtts://{host}:8883"\n'}, "extraConfig": "[nodes_tls]\ninsecure_skip_verify = true\n"}},
    {
        "values": {
            "hostNetwork": True,
            "emqx": {"nodes": '[[nodes]]\naddress = "mqtts://{host}:${NODES_PORT}"\n', "check": "off"},
            # A table of its own, and a key of one that the chart writes.
            "extraConfig": '[nodes_tls]\nca = "/etc/nodes-ca/ca.crt"\n\n[log]\nlevel = "debug"\n',
            "env": [{"name": "NODES_PORT", "value": "8883"}],
            "extraVolumes": [{"name": "nodes-ca", "secret": {"secretName": "emqx-ca"}}],
            "extraVolumeMounts": [{"name": "nodes-ca", "mountPath": "/etc/nodes-ca", "readOnly": True}],
        }
    },
    # Numbers of a million and more, which Helm prints with an exponent where it is not told otherwise.
    {"values": {"drain": {"rate": 1_000_000, "graceSeconds": 86_400, "delaySeconds": 0}, "seed": "0x5245_4d4f_5241", "workers": 2}},
    {"values": {"podAnnotations": {"a": "true"}, "podLabels": {"team": "1"}, "nodeSelector": {"disk": "yes"}, "tolerations": [{"operator": "Exists"}]}},
    {"values": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "podDisruptionBudget": {"maxUnavailable": "50%"}}},
    {"values": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}, "name": "x"},
    {"values": {"imagePullSecrets": [{"name": "pull"}], "priorityClassName": "high", "global": {"any": 1}, "replaceOnConfigChange": False, "resources": {}}},
    {"values": {}, "name": "a" * 53, "namespace": "n" * 63},
    # EMQX's own chart.
    {"values": {"emqx": {"headlessPortName": "mqtt", "podLabels": {"apps.emqx.io/instance": None, "app.kubernetes.io/instance": "emqx"}}}},
    # Words that YAML would take for something else.
    {"values": {"fullnameOverride": "on", "listeners": [{"name": "1e3", "port": 1883, "tlsSecret": "123"}]}, "name": "7", "namespace": "1234"},
    {"values": {"emqx": {"nodes": '[[nodes]]\naddress = "{host}:1884"\n', "namespace": "0x10"}, "priorityClassName": "null"}, "name": "my.release"},
]

# Values that Helm must refuse, and what it says of them.
_ODD = [
    ({"typo": 1}, "typo"),
    ({"workload": "StatefulSet"}, "workload"),
    ({"replicas": "two"}, "replicas"),
    ({"replicas": -1}, "replicas"),
    ({"listeners": []}, "listeners"),
    ({"listeners": [{"name": "mqtt", "port": 1883}, {"name": "mqtt", "port": 1884}]}, "two are called mqtt"),
    ({"listeners": [{"name": "a", "port": 1883}, {"name": "b", "port": 1883}]}, "b has port 1883, as a has"),
    ({"listeners": [{"name": "a", "port": 9883}]}, "a has port 9883, as admin has"),
    ({"listeners": [{"name": "admin", "port": 1883}]}, "listeners"),
    ({"listeners": [{"name": "a--b", "port": 1883}]}, "listeners"),
    ({"listeners": [{"name": "1883", "port": 1883}]}, "listeners"),
    ({"listeners": [{"name": "mqtt", "port": 883}]}, "listeners"),
    ({"listeners": [{"name": "mqtt", "port": 65_536}]}, "listeners"),
    ({"listeners": [{"name": "mqtt", "port": 8883, "clientCertificates": "required"}]}, "without a tlsSecret"),
    ({"listeners": [{"name": "mqtt", "port": 8883, "tlsSecret": "../../etc"}]}, "tlsSecret"),
    ({"emqx": {"discovery": "api"}}, "emqx.apiKeySecret"),
    ({"emqx": {"headlessService": 'a"\nb'}}, "headlessService"),
    ({"emqx": {"clusterDomain": "a b"}}, "clusterDomain"),
    ({"seed": "1\n[admin]"}, "seed"),
    ({"seed": 90_595_637_941_825}, "seed"),
    ({"drain": {"rate": 0}}, "rate"),
    ({"drain": {"graceSeconds": "60s"}}, "graceSeconds"),
    ({"podLabels": {"app.kubernetes.io/name": "mine"}}, "there twice"),
    ({"extraVolumes": [{"name": "config", "emptyDir": {}}]}, "extraVolumes"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
    ({"service": {"type": "ExternalName"}}, "type"),
    ({"fullnameOverride": "7"}, "begins with a letter"),
]


def the_chart_is_taken_by_kubernetes(lab):
    """Whatever the values: Kubernetes' schemas find nothing, what refers to something else finds it, and Remora takes the configuration."""
    answers = _chart(_RELEASES)["answers"]
    assert len(answers) == len(_RELEASES)
    secrets = _secrets(lab)
    for release, answer in zip(_RELEASES, answers):
        assert answer.get("problems") == [], f"{release}: {answer}"
        _hold_together(answer["manifests"], lab.folder / "root", secrets)
    version = tomllib.loads((_ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert _pod(answers[0]["manifests"])["containers"][0]["image"] == f"remora:{version}", "the chart's appVersion is that of the program"
    lint = json.loads(_chart_tool("--lint").stdout)
    assert lint["errors"] == [] and all(message["severity"] < 2 for message in lint["messages"]), lint


def the_chart_refuses_odd_values(lab):
    """Each is refused before anything is installed, with a word on which value it is."""
    answers = _chart([{"values": values} for values, _ in _ODD])["answers"]
    for (values, said), answer in zip(_ODD, answers, strict=True):
        assert said in answer.get("refused", ""), f"{values}: {answer}"


def the_manifests_are_those_of_the_chart(lab):
    """config/kubernetes is what the chart makes of its defaults."""
    for name, text in _chart([])["plain"].items():
        assert (_CONFIG / "kubernetes" / name).read_text() == text, f"{name}: run tests/interop/chart.py --write"


def a_pod_finds_its_nodes_and_drains(lab):
    """With the ConfigMap as it is, as user 65532 with no capability: nodes by SRV records, ready, the admin socket, and the drain of SIGTERM."""
    manifests = _chart([{"values": {"drain": {"delaySeconds": 2, "graceSeconds": 5}, "log": {"format": "text"}}}])["answers"][0]["manifests"]
    toml = lab.folder / "config"
    toml.mkdir()
    (toml / "remora.toml").write_text(_one(manifests, "ConfigMap")["data"]["remora.toml"])
    containers = Containers(lab, ["dns", "emqx-core-1f-0", "emqx-core-1f-1", "remora"])
    pods = {name: address for name, address in containers.addresses.items() if name.startswith("emqx")}
    for name in pods:
        containers.start(name, ["remora", "sandbox", "--address", "0.0.0.0:1883", "--ws-address", "0.0.0.0:8083"])
    # What the cluster's DNS has of the headless service of the EMQX Operator.
    service = "emqx-headless.mqtt.svc.cluster.local"
    records = [f"--srv-host=_erlang-dist._tcp.{service},{name}.{service},4370" for name in pods]
    records += [f"--host-record={name}.{service},{address}" for name, address in pods.items()]
    serve = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", "--pid-file"]
    dns = containers.start("dns", [*serve, "--bind-interfaces", f"--listen-address={containers.addresses['dns']}", *records], user=0)
    wait_until(dns.running, "dnsmasq")
    # As an emptyDir of a pod with fsGroup is.
    run = "0:65532 2777"
    command = ["remora", *_pod(manifests)["containers"][0]["args"]]
    remora = containers.start("remora", command, [(toml, "/etc/remora")], run=run, name_server=containers.addresses["dns"])
    remora.wait_for("listening")
    at = containers.addresses["remora"]
    probe = lambda path: containers.fetch(f"http://{at}:9883{path}")[0]  # noqa: E731
    wait_until(lambda: probe("/readyz") == 200, "the pod to be ready", seconds=20)
    assert probe("/livez") == 200
    nodes = subprocess.run([*containers.inside("remora"), "remora", "ctl", "nodes", "--json"], capture_output=True, text=True, timeout=20)
    assert {node["node"] for node in json.loads(nodes.stdout)["nodes"]} == {f"{name}.{service}" for name in pods}, nodes.stdout + nodes.stderr
    publish = [*containers.outside, "mosquitto_pub", "-h", at, "-t", "a", "-m", "b", "-q", "1", "-i"]
    subprocess.run([*publish, "sensor-1"], check=True, timeout=20)
    remora.child.terminate()
    # It takes no new clients of a Service, and still those that are on their way.
    wait_until(lambda: probe("/readyz") == 503, "the pod to be unready")
    subprocess.run([*publish, "sensor-2"], check=True, timeout=20)
    assert remora.wait() == 0 and "drained" in remora.output(), remora.output()


def _hold_together(manifests, root, secrets):
    """What one manifest says of another is so."""
    workload = next(manifest for manifest in manifests if manifest["kind"] in ("Deployment", "DaemonSet"))
    pod, labels = _pod(manifests), workload["spec"]["template"]["metadata"]["labels"]
    container = pod["containers"][0]
    for name in [manifest["metadata"]["name"] for manifest in manifests]:
        assert len(name) <= 63, name
    assert len({(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}) == len(manifests)
    chosen = [workload["spec"]["selector"]["matchLabels"]]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            chosen.append(spec["selector"])
            assert all(port["targetPort"] in ports for port in spec["ports"]), spec
        if manifest["kind"] == "PodDisruptionBudget":
            chosen.append(spec["selector"]["matchLabels"])
        if manifest["kind"] == "NetworkPolicy":
            chosen.append(spec["podSelector"]["matchLabels"])
            named = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
            assert named == set(ports), spec
            files = _one(manifests, "ConfigMap")["data"]
            address = tomllib.loads(files["remora.toml"])["nodes"][0]["address"]
            allowed = [str(port["port"]) for port in spec["egress"][0].get("ports", [])]
            assert not allowed or address.rsplit(":", 1)[1] in allowed, spec
        if manifest["kind"] == "ServiceMonitor":
            services = [other for other in manifests if other["kind"] == "Service"]
            wanted = spec["selector"]["matchLabels"].items()
            (service,) = [other for other in services if wanted <= other["metadata"]["labels"].items()]
            assert [endpoint["port"] for endpoint in spec["endpoints"]] == [port["name"] for port in service["spec"]["ports"]]
            assert "remora" in service["metadata"]["labels"][spec["jobLabel"]], "the alerts look for it in the job"
    for selector in chosen:
        assert selector and selector.items() <= labels.items(), f"{selector} chooses none of {labels}"
    assert container["args"] == ["run", "--config", "/etc/remora/remora.toml"]
    assert pod["serviceAccountName"] in [manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ServiceAccount"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    secure = {**pod["securityContext"], **container["securityContext"]}
    assert secure["runAsNonRoot"] and secure["readOnlyRootFilesystem"] and secure["capabilities"] == {"drop": ["ALL"]}
    assert not secure["allowPrivilegeEscalation"] and secure["seccompProfile"] == {"type": "RuntimeDefault"}
    # The user of the image.
    user = re.search(r"^USER (\d+):(\d+)$", (_ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user and (secure["runAsUser"], secure["fsGroup"]) == (int(user[1]), int(user[2]))
    files = _one(manifests, "ConfigMap")["data"]
    config = tomllib.loads(files["remora.toml"])
    assert set(config.get("include", [])) == set(files) - {"remora.toml"}
    listening = {listener["name"]: int(listener["address"].rsplit(":", 1)[1]) for listener in config["listeners"]}
    assert ports == listening | {"admin": int(config["admin"]["address"].rsplit(":", 1)[1])}
    drain = sum(int(config["drain"][key].removesuffix("s")) for key in ("delay", "grace"))
    assert pod["terminationGracePeriodSeconds"] > drain
    for kind, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[kind]["httpGet"] == {"path": path, "port": "admin"}
    _check(files, volumes, container, root, secrets)


def _secrets(lab):
    """What is in Secrets, each of which has more than one use here."""
    authority = lab.authority()
    chain, key = authority.server()
    return {"tls.crt": chain.read_bytes(), "tls.key": key.read_bytes(), "ca.crt": Path(authority.ca).read_bytes(), "credentials": b"key:secret\n"}


def _check(files, volumes, container, root, secrets):
    """`remora check` takes the configuration, with files below `root` where a pod has its Secrets."""
    for mount in container["volumeMounts"]:
        if "secret" in volumes[mount["name"]]:
            folder = root / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in secrets.items():
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o440)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            for place in ("/etc/remora-tls/", "/etc/remora-api/", "/etc/nodes-ca/"):
                text = text.replace(place, f"{root}{place}")
            (Path(folder) / name).write_text(text)
        command = [os.environ["REMORA_BIN"], "check", f"{folder}/remora.toml"]
        env = os.environ | {variable["name"]: variable["value"] for variable in container.get("env", [])}
        checked = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)
    assert checked.returncode == 0, f"{checked.stderr}{files}"


def _pod(manifests):
    return next(manifest for manifest in manifests if manifest["kind"] in ("Deployment", "DaemonSet"))["spec"]["template"]["spec"]


def _one(manifests, kind):
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def _chart(releases):
    return json.loads(_chart_tool(input=json.dumps(releases)).stdout)


def _chart_tool(*arguments, input=None):
    command = [f"{os.environ['ORCHESTRATION']}/bin/python", Path(__file__).resolve().parents[1] / "chart.py", *arguments]
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done
