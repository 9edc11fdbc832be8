"""The alert rules and the dashboard that Remora ships, and Debian's Prometheus, which scrapes a Remora under load."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from certificates import Authority
from packets import connect
from process import Process, free_port, wait_until

_CONFIG = Path(__file__).parents[3] / "config"

# What has no value until something is wrong, or without a setting that this case does not have.
_MAY_BE_EMPTY = {
    "Failures that clients met, by node and reason, per second",
    "Lists of revoked certificates expire",
}


def the_alert_rules_pass_their_tests(lab):
    """promtool finds nothing wrong with the rules, and their tests hold: each alert is raised when it should be, and no other time."""
    rules = _CONFIG / "prometheus"
    for arguments in (["check", "rules", "remora.rules.yml"], ["test", "rules", "remora.test.yml"]):
        done = subprocess.run(["promtool", *arguments], cwd=rules, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr


def every_panel_and_alert_has_an_answer_from_a_live_balancer(lab):
    """Each query of the dashboard returns series, and each alert's expression is one that Prometheus takes; none is raised but for the clock."""
    authority = Authority(lab.folder)
    brokers = [lab.mosquitto("mosquitto1"), lab.mosquitto("mosquitto2", authority=authority)]
    chain, key = authority.server()
    client_chain, client_key = authority.client("remora")
    port, tls_port, admin = free_port(), free_port(), free_port()
    config = f'[admin]\naddress = "127.0.0.1:{admin}"\n[nodes_tls]\nca = "{authority.ca}"\n'
    config += f'certificate = {{ chain = "{client_chain}", key = "{client_key}" }}\n'
    # The brokers are not joined: what the doctor finds must last longer than this case to be an alert.
    config += '[doctor]\ninterval = "10s"\n'
    config += f'[[listeners]]\nname = "plain"\naddress = "127.0.0.1:{port}"\n'
    config += f'[[listeners]]\nname = "secure"\naddress = "127.0.0.1:{tls_port}"\ntls = "end"\n'
    config += f'certificates = [{{ chain = "{chain}", key = "{key}" }}]\n'
    for broker in brokers:
        address = f"mqtts://127.0.0.1:{broker.tls_port}" if broker.tls_port else f"127.0.0.1:{broker.port}"
        config += f'[[nodes]]\nname = "{broker.name}"\naddress = "{address}"\n'
    folder = Path(lab.folder)
    (folder / "remora.toml").write_text(config)
    remora = Process("remora", [os.environ["REMORA_BIN"], "run", "-c", "remora.toml"], lab.folder)
    remora.wait_for("listening")
    prometheus = _prometheus(folder, admin)
    # Under load from the first scrape to the last.
    clients = []
    for number in range(50):
        client = lab.socket(port)
        client.send(connect(f"device-{number}"))
        client.accepted()
        clients.append(client)

    visited, reloaded = [0.0], [time.monotonic()]

    def churn():
        """Some clients come and go and the configuration is read again, so that every rate moves."""
        # More than a hundred in a second would be a storm.
        if time.monotonic() - visited[0] > 0.1:
            visited[0] = time.monotonic()
            for number in range(3):
                client = lab.socket(port)
                client.send(connect(f"visitor-{number}"))
                client.accepted().close()
        if time.monotonic() - reloaded[0] > 1:
            reloaded[0] = time.monotonic()
            remora.child.send_signal(signal.SIGHUP)
        return True

    def value(query):
        return churn() and prometheus(query)

    wait_until(lambda: len(value("rate(remora_accepts_total[5s]) > 0")) >= 1, "a rate", 20)
    dashboard = json.loads((_CONFIG / "grafana" / "remora.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) > 30, len(panels)
    for panel in panels:
        targets = [_chosen(target["expr"]) for target in panel["targets"]]
        if panel["title"] in _MAY_BE_EMPTY:
            for query in targets:
                prometheus(query)
            continue
        for query in targets:
            wait_until(lambda query=query: value(query), f"a value of {panel['title']}: {query}", 15)
    for variable in dashboard["templating"]["list"][1:]:
        assert "remora_build_info" in variable["query"], variable
    for annotation in dashboard["annotations"]["list"]:
        prometheus(_chosen(annotation["expr"]))
    rules = prometheus("ALERTS", rules=True)
    states = {rule["name"]: (rule["health"], rule["lastError"] if "lastError" in rule else "") for rule in rules}
    assert len(states) >= 20, states
    assert all(health == ("ok", "") for health in states.values()), states
    # The certificates of this case are young: nothing may be raised.
    raised = [sample["metric"]["alertname"] for sample in prometheus('ALERTS{alertstate="firing"}')]
    assert not set(raised) - {"RemoraCertificateExpires", "RemoraCertificateExpiresTomorrow"}, raised


def _chosen(query):
    """A query of the dashboard as Grafana sends it, with every balancer chosen."""
    return query.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "5s")


def _prometheus(folder, admin):
    """A Prometheus with the rules that scrapes the balancer; asks it for the result of a query, or for its rules."""
    port = free_port()
    (folder / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
        f"rule_files: ['{_CONFIG / 'prometheus' / 'remora.rules.yml'}']\n"
        f"scrape_configs: [{{ job_name: remora, static_configs: [{{ targets: ['127.0.0.1:{admin}'] }}] }}]\n"
    )
    data = folder / "prometheus-data"
    command = ["prometheus", "--config.file=prometheus.yml", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}"]
    process = Process("prometheus", command, folder)
    process.wait_for("Server is ready to receive web requests", seconds=30)

    def ask(query, rules=False):
        path = "rules" if rules else "query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
                data = json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{query}: {refused.read().decode()}") from None
        return [rule for group in data["groups"] for rule in group["rules"]] if rules else data["result"]

    return ask
