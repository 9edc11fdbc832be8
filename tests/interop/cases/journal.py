"""journald itself, with what it is sent, and journalctl, with what an operator asks it."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

from packets import connect
from process import Process, free_port, wait_until

_SOCKET = Path("/run/systemd/journal/socket")

# As systemd starts a service whose output is the journal: the stream, and what it is.
_AS_SYSTEMD = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/1) exec "$0" "$@"'


def the_journal_has_priorities_and_fields(lab):
    """A service whose output is the journal is found by priority, by node and by client id; a line of its own names neither."""
    if not _answers():
        # Nobody runs it here: it runs without systemd as well.
        _SOCKET.parent.mkdir(parents=True, exist_ok=True)
        Process("journald", ["/lib/systemd/systemd-journald"], lab.folder)
        wait_until(_answers, "journald")
    port = free_port()
    config = f'[admin]\nenabled = false\n[[listeners]]\naddress = "127.0.0.1:{port}"\n'
    config += f'[[nodes]]\nname = "nobody"\naddress = "127.0.0.1:{free_port()}"\n'
    (Path(lab.folder) / "remora.toml").write_text(config)
    run = [os.environ["REMORA_BIN"], "run", "-c", "remora.toml"]
    remora = Process("remora", ["systemd-cat", "-t", "not-remora", "sh", "-c", _AS_SYSTEMD, *run], lab.folder)
    mine = f"_PID={remora.child.pid}"
    wait_until(lambda: _entries(mine, "REMORA_MESSAGE=listening"), "remora to listen")
    client_id = f"sensor-{os.getpid()}"
    for _ in range(3):
        client = lab.socket(port)
        client.send(connect(client_id))
        assert client.closed_within(10)
    wait_until(lambda: _entries(mine, "REMORA_EVENT=node_state"), "the node to be down")
    down = _entries(mine, "REMORA_NODE=nobody", "-p", "warning")
    assert [entry["REMORA_MESSAGE"] for entry in down] == ["node is down"], down
    assert down[0]["PRIORITY"] == "4" and down[0]["SYSLOG_IDENTIFIER"] == "remora", down
    assert re.search(r"TCP connect: .*refused", down[0]["REMORA_WHY"]), down
    ended = _entries(mine, f"REMORA_CLIENT_ID={client_id}")
    assert len(ended) == 3 and all(entry["PRIORITY"] == "6" for entry in ended), ended
    assert all('cause="no_node"' in entry["MESSAGE"] and client_id in entry["MESSAGE"] for entry in ended), ended
    assert remora.stop() == 0


def _answers():
    """Whether journald is there; one that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(_SOCKET))
            return True
        except OSError:
            return False


def _entries(*matches):
    done = subprocess.run(["journalctl", "--no-pager", "-q", "-o", "json", *matches], capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
