"""What a run of its own promises, line by line, and the binary that it tests."""

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Report:
    """What held and what did not."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, promise, held, figures):
        self.passed += bool(held)
        self.failed += not held
        print(f"{'ok     ' if held else 'FAILED '} {promise}: {figures}", flush=True)


def build():
    """The binary to test."""
    if "REMORA_BIN" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "remora"], cwd=REPOSITORY, check=True)
        target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
        os.environ["REMORA_BIN"] = str(target / "release/remora")
    os.environ["REMORA_BIN"] = os.path.realpath(os.environ["REMORA_BIN"])
