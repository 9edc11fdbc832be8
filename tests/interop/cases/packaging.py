"""What is installed beside the program: the unit file, as systemd itself sees it."""

import re
import subprocess
import tomllib
from pathlib import Path

_CONFIG = Path(__file__).resolve().parents[3] / "config"
_UNIT = _CONFIG / "remora.service"

# systemd's own scale: 0 is locked in, 10 is exposed.
_EXPOSURE_MAX = 2.0


def the_unit_file_is_hardened(lab):
    """systemd gives it an exposure of 2.0 or less, and finds no mistake in it."""
    report = _analyze("security", "--offline=true", "--no-pager", _UNIT)
    found = re.search(r"Overall exposure level for remora\.service: ([0-9.]+)", report)
    assert found, f"no score in {report!r}"
    assert float(found[1]) <= _EXPOSURE_MAX, f"an exposure of {found[1]}"
    # Nothing is installed here: some program must stand in for the one that the unit starts.
    unit = lab.folder / "remora.service"
    unit.write_text(_UNIT.read_text().replace("=remora ", "=/bin/true "))
    complaints = _analyze("verify", unit)
    assert complaints == "", complaints


def the_unit_file_leaves_time_to_drain(lab):
    """systemd waits for longer than the drain takes by default, and its signals are those that Remora knows."""
    unit = dict(re.findall(r"^(\w+)=(.*)$", _UNIT.read_text(), re.MULTILINE))
    drain = tomllib.loads((_CONFIG / "full.toml").read_text())["drain"]
    needed = _seconds(drain["delay"]) + _seconds(drain["grace"])
    assert _seconds(unit["TimeoutStopSec"]) > needed, f"a drain may take {needed} s"
    reload = re.findall(r"^ExecReload=(.*)$", _UNIT.read_text(), re.MULTILINE)
    program, _, options = unit["ExecStart"].partition(" run ")
    assert reload == [f"{program} check {options}", f"{program} ctl {options} upgrade --or-reload"]
    assert unit["Type"] == "notify"


def _analyze(*arguments):
    """What systemd-analyze says, all of it; the case fails when it is not content."""
    done = subprocess.run(["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _seconds(text):
    found = re.fullmatch(r"(\d+)s", text)
    assert found, f"{text!r} is not in seconds"
    return int(found[1])
