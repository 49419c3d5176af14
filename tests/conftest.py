"""What holds for all tests."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

# Whoever runs the tests in the background of a shell without job control has them ignore Ctrl-C, and every program that
# they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: A test whose time is over may take so long to end.
ENDING_SECONDS_MAX = 240.0
_STDERR = pytest.StashKey[int]()
_LIMIT = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share-with",
        metavar="DIRECTORY",
        type=Path,
        help="leave out files that another process with the same (at first empty) directory has begun",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests that ``scripts/run-tests`` would run nowhere: it looks in one place for those marked ``alone``."""
    lost = [item.nodeid for item in items if item.get_closest_marker("alone") and "reliability" not in item.path.parts]
    if lost:
        raise pytest.UsageError(f"marked `alone`, which only tests in tests/reliability may be: {', '.join(lost)}")


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run what no other process has begun, if the work is shared: whoever is free takes the next file."""
    directory: Path | None = session.config.option.share_with
    if directory is None or session.testsfailed or session.config.option.collectonly:
        return None
    mine = taken(session.items, directory)
    item = next(mine, None)
    while item is not None:
        following = next(mine, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def taken(items: list[pytest.Item], directory: Path) -> Iterator[pytest.Item]:
    """The tests of the files that this process is the first to take, each taken when its first test is asked for."""
    mine: dict[Path, bool] = {}
    for item in items:
        if item.path not in mine:
            mark = directory / quote(str(item.path.relative_to(item.config.rootpath)), safe="")
            try:
                mark.touch(exist_ok=False)
                mine[item.path] = True
            except FileExistsError:
                mine[item.path] = False
        if mine[item.path]:
            yield item


def pytest_configure(config: pytest.Config) -> None:
    """Keep ``tmp_path`` short: sockets are made below it, and their paths may have 107 bytes.

    pytest numbers its directories from 0, whatever ran before on a machine, so it would fail there only.
    """
    # Nothing is captured yet.
    config.stash[_STDERR] = os.dup(2)
    if config.option.basetemp is None:
        base = Path(tempfile.mkdtemp(prefix="t"))
        config.option.basetemp = base
        config.add_cleanup(lambda: shutil.rmtree(base, ignore_errors=True))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End everything, and show what each thread does, if a test does not even end after its time is over: a time limit
    interrupts it once, and what it does to end, and the ends of its fixtures, have none."""
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
    attempts = 1 + int(item.config.getoption("reruns", 0) or 0)
    watch = threading.Timer(attempts * (seconds + ENDING_SECONDS_MAX), _give_up, (item,))
    watch.daemon = True
    watch.start()
    try:
        return (yield)
    finally:
        watch.cancel()


def _give_up(item: pytest.Item) -> None:
    stderr = item.config.stash[_STDERR]
    os.write(stderr, f"\n{item.nodeid} does not end, though its time is over\n".encode())
    faulthandler.dump_traceback(stderr)
    os._exit(1)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Remember the time limit of a test."""
    item.stash[_LIMIT] = settings


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that is run again has as much time again: its limit is gone with the first failure."""
    if getattr(item, "execution_count", 1) > 1 and _LIMIT in item.stash:
        item.ihook.pytest_timeout_set_timer(item=item, settings=item.stash[_LIMIT])


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let go of what the tests of a module have left: its files would stay open until the collector looks by itself."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a test failed that was then run again: continuous integration asks for that with ``--reruns``."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed at first: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
