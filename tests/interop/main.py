"""Runs the cases one after the other and says of each whether it held. `run` prepares what this needs and starts it."""

import argparse
import importlib
import inspect
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from balancers import BALANCERS
from lab import Lab

# Where cases live, in the order in which they run.
MODULES = [
    "affinity", "messages", "input", "mqttjs", "python", "matrix", "sessions", "websocket", "autobahn", "tls", "beside", "devices",
    "cluster", "control", "changes", "doctor", "page", "imported", "introductions", "secured_nodes", "metrics", "prometheus",
    "packaging", "compose", "kubernetes", "schema", "demo", "zones", "journal",
]

# No case takes a quarter of this; one that hangs must not take the others' time.
CASE_SECONDS_MAX = 90


def collect():
    """Every public function of the case modules: its name is the promise it tests."""
    cases = []
    for name in MODULES:
        if name == "autobahn" and "AUTOBAHN_PYTHON" not in os.environ:
            continue
        module = importlib.import_module(f"cases.{name}")
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_"):
                cases.append(value)
    return cases


def select(cases, words):
    unknown = [word for word in words if not any(word in case.__name__ for case in cases)]
    if unknown:
        sys.exit(f"no case is called {' or '.join(unknown)}; --list tells the names")
    return [case for case in cases if not words or any(word in case.__name__ for word in words)]


def attempt(case, folder, through):
    """Runs one case; returns why it failed, or None."""

    def overdue(*_):
        raise TimeoutError(f"took longer than {CASE_SECONDS_MAX} s")

    signal.signal(signal.SIGALRM, overdue)
    signal.alarm(CASE_SECONDS_MAX)
    try:
        with Lab(folder, through) as lab:
            case(lab)
        return None
    except Exception as failure:
        traceback.print_exc()
        return f"{failure}" if isinstance(failure, AssertionError) else f"{type(failure).__name__}: {failure}"
    finally:
        signal.alarm(0)


def show_logs(folder, lines=15):
    for log in sorted(folder.glob("*.log")):
        print(f"--- the end of {log.name}")
        for line in log.read_text(errors="backslashreplace").splitlines()[-lines:]:
            print(f"    {line[:300]}")


def main():
    parser = argparse.ArgumentParser(prog="tests/interop/run", description="Remora against real brokers and clients.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="run the cases whose names contain one of these")
    parser.add_argument("--through", choices=BALANCERS, default="remora", help="the balancer to run the cases through")
    parser.add_argument("--keep", action="store_true", help="leave logs and configurations behind")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    arguments = parser.parse_args()
    cases = select(collect(), arguments.words)
    if arguments.list:
        for case in cases:
            print(f"{case.__name__}\n    {case.__doc__.splitlines()[0]}")
        return 0

    # So that an interrupted run unwinds like a finished one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    folder = Path(tempfile.mkdtemp(prefix="remora-interop-"))
    failed = 0
    try:
        for case in cases:
            own = folder / case.__name__
            own.mkdir()
            started = time.monotonic()
            reason = attempt(case, own, arguments.through)
            seconds = time.monotonic() - started
            if reason is None:
                print(f"ok      {case.__name__} ({seconds:.1f} s)", flush=True)
            else:
                failed += 1
                show_logs(own)
                print(f"FAILED  {case.__name__} ({seconds:.1f} s): {reason}", flush=True)
    finally:
        if arguments.keep:
            print(f"logs and configurations: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
