"""What the balancer tells Prometheus, judged by Prometheus' own tool."""

import subprocess

from clients import mosquitto_pub
from packets import connect


def promtool_finds_nothing_wrong_with_a_scrape(lab):
    """Before any client and after some of every kind: names, types, helps and values are as Prometheus wants them."""
    brokers = lab.mosquittos()
    balancer = lab.balancer(brokers)
    _check(balancer)
    for number in range(20):
        mosquitto_pub(balancer.port, "-i", f"device-{number}", "-t", "a/b")
    stranger = lab.socket(balancer.port)
    stranger.send(b"GET / HTTP/1.1\r\n\r\n")
    staying = lab.socket(balancer.port)
    staying.send(connect('an "odd" id'))
    staying.accepted()
    _check(balancer)
    text = balancer.metrics("text/plain").decode()
    assert 'remora_connects_total{version="3.1.1",result="accepted"} 21' in text, text


def _check(balancer):
    page = balancer.metrics("text/plain")
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30)
    said = (checked.stdout + checked.stderr).decode()
    assert checked.returncode == 0 and not said.strip(), f"promtool: {said}"
