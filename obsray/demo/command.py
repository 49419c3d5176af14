"""The command line of the demo: starts a runtime, runs the parts, prints the report, stays up until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import obsray
from obsray.core.api import Context
from obsray.demo import evolution, pipeline, wordcount
from obsray.demo.parts import Failed, PartResult
from obsray.demo.progress import Progress
from obsray.demo.report import Report, ledger_of

PARTS: dict[str, Callable[..., PartResult]] = {
    "wordcount": wordcount.run,
    "evolution": evolution.run,
    "pipeline": pipeline.run,
}

#: The dashboard starts in the background; a quick demo may be over before it is up.
DASHBOARD_SECONDS_MAX = 5.0

PAUSE_SECONDS = 0.5

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if every check held, 1 if one did not, 130 if interrupted before the end."""
    options = parse(argv)
    progress = Progress(quiet=options.quiet)
    try:
        report = run(options.only or list(PARTS), quick=options.quick, progress=progress, stays_up=not options.once)
        print(report.as_json() if options.json else report.as_text(), flush=True)
        if not options.once:
            wait_for_interrupt()
        return 0
    except Failed as failure:
        progress.abandon()
        print(f"obsray demo: check failed: {failure}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        progress.abandon()
        print("obsray demo: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        # An impatient second Ctrl-C must not cut the shutdown short: it would leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        obsray.shutdown()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="obsray demo", description=main.__doc__)
    parser.add_argument("--once", action="store_true", help="end after the report instead of staying up")
    parser.add_argument("--quick", action="store_true", help="less input: a few seconds in all")
    parser.add_argument("--only", action="append", choices=sorted(PARTS), help="run this part; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser.parse_args(argv)


def run(names: Sequence[str], *, quick: bool, progress: Progress, stays_up: bool = True) -> Report:
    """Start a runtime on this machine, run these parts on it and say what happened. It stays up."""
    started = time.perf_counter()
    # Where the dashboard is stands in the report.
    context = obsray.init(address="local", configure_logging=False)
    init_seconds = time.perf_counter() - started
    parts = []
    for name in names:
        parts.append(PARTS[name](progress, quick=quick))
    progress.finish()
    session = Path(context.address_info["session_dir"])
    telemetry = os.environ.get("OBSRAY_TELEMETRY", "on") != "off"
    return Report(
        parts=parts,
        cpus=int(obsray.cluster_resources()["CPU"]),
        init_seconds=init_seconds,
        total_seconds=time.perf_counter() - started,
        ledger=ledger_of(str(session)) if telemetry else None,
        dashboard=dashboard_of(context) if stays_up else "",
        session=str(session),
    )


def dashboard_of(context: Context) -> str:
    """The link to the dashboard, which is up a moment after the runtime is ready; "" if it did not come up."""
    context.wait_for_dashboard(DASHBOARD_SECONDS_MAX)
    return context.dashboard_link


def wait_for_interrupt() -> None:
    """Sleep until Ctrl-C."""
    try:
        print("\nstays up until Ctrl-C", file=sys.stderr, flush=True)
        while True:
            # Not for ever: a signal just before falling asleep would wake nobody.
            time.sleep(PAUSE_SECONDS)
    except KeyboardInterrupt:
        print(file=sys.stderr)
