"""What `remora demo` prints, typed as it is printed. tests/demo runs the commands of Remora itself; these are the others."""

import os
import re
import shlex
import subprocess

from process import Process, free_port, wait_until


def what_the_demo_prints_works(lab):
    """Each subscriber that it prints (mosquitto_sub and MQTT.js, with and without TLS) receives from the publisher that it prints."""
    demo, publish, subscribers = _demo(lab)
    assert len(subscribers) == 4, demo.output()
    _receive(lab, subscribers, publish[:1])
    assert demo.stop() == 0, demo.output()


def with_broken_routing_what_the_demo_prints_is_so(lab):
    """The publisher of another node reaches none of its subscribers, the one of their own node all of them, over every transport."""
    demo, publish, subscribers = _demo(lab, "--broken-routing")
    away, near = publish
    _receive(lab, subscribers, [near], silent=away)
    assert demo.stop() == 0, demo.output()


def _demo(lab, *options):
    """A demo, and of the commands that it prints those that publish and those that subscribe."""
    names = ["--address", "--ws-address", "--tls-address", "--wss-address"]
    addresses = [word for name in names for word in (name, f"127.0.0.1:{free_port()}")]
    command = [os.environ["REMORA_BIN"], "demo", *addresses, *options]
    files = lab.folder / "a demo's files"
    files.mkdir()
    demo = Process("demo", command, lab.folder, env={**os.environ, "TMPDIR": str(files)})
    demo.wait_for("Ctrl-C", seconds=60)
    lines = [line.strip() for line in demo.output().splitlines()]
    publish = [line for line in lines if line.startswith("mosquitto_pub ")]
    subscribers = [line for line in lines if re.match(r"mosquitto_sub |npx mqtt sub ", line)]
    return demo, publish, subscribers


def _receive(lab, subscribers, publishers, silent=None):
    """Holds every subscriber to what the publishers send, and to nothing of what the silent one does."""
    # npx finds MQTT.js in the folder where it is started, and asks nobody.
    (lab.folder / "node_modules").symlink_to(os.environ["NODE_PATH"])
    environment = {**os.environ, "npm_config_offline": "true"}
    running = [
        Process(f"subscriber{number}", ["sh", "-c", f"exec {command}"], lab.folder, env=environment)
        for number, command in enumerate(subscribers)
    ]

    def publish(command, message):
        # Another message in place of the printed one, to tell them apart.
        words = shlex.split(command)[:-1] + [message]
        done = subprocess.run(words, capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr.decode()

    def received_by(subscriber, message):
        assert subscriber.running(), subscriber.output()
        return f"demo/hello {message}" in subscriber.output().splitlines()

    def have_received_a_try():
        for command in publishers:
            publish(command, "try")
        return all(received_by(subscriber, "try") for subscriber in running)

    # Until each of them is subscribed, messages pass it by.
    wait_until(have_received_a_try, "every subscriber to receive", seconds=40)
    if silent:
        publish(silent, "from afar")
    for command in publishers:
        publish(command, "from near")
    for subscriber in running:
        wait_until(lambda: received_by(subscriber, "from near"), f"{subscriber.name} to receive")
        assert not received_by(subscriber, "from afar"), subscriber.output()
