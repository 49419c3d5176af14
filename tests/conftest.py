"""What holds for all tests."""

from __future__ import annotations

import gc
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# Whoever runs the tests in the background of a shell without job control has them ignore Ctrl-C, and every program that
# they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Keep ``tmp_path`` short: sockets are made below it, and their paths may have 107 bytes.

    pytest numbers its directories from 0, whatever ran before on a machine, so it would fail there only.
    """
    if config.option.basetemp is None:
        base = Path(tempfile.mkdtemp(prefix="t"))
        config.option.basetemp = base
        config.add_cleanup(lambda: shutil.rmtree(base, ignore_errors=True))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let go of what the tests of a module have left: its files would stay open until the collector looks by itself."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test failed that was then run again: continuous integration asks for that with ``--reruns``."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed at first: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
