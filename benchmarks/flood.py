"""A flood: ``python -m benchmarks.flood [--tasks 1000000] [--kills 0] [--questions]``.

So many tasks that do nothing, submitted at once; ``--kills`` workers are killed with -9 meanwhile. Then the books are
compared: every task once, every event read and stored, none lost. ``--questions`` asks the state API over the session
and says how long each answer took. Ends with exit code 1 if something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import obsray
from benchmarks.processes import COLLECTOR
from obsray.telemetry import session_file
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

#: Values fetched at once.
PIECE = 10_000
SETTLE_SECONDS = 120.0
ANSWER_SECONDS_MAX = 1.0


@obsray.remote(max_retries=-1)
def nothing(number: int) -> int:
    return number


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=0, help="so many workers are killed with -9 in the middle of it")
    parser.add_argument("--questions", action="store_true", help="ask the state API afterwards, and take the time")
    options = parser.parse_args()
    session = Path(obsray.init(num_cpus=2, include_dashboard=options.questions).address_info["session_dir"])
    obsray.get([nothing.remote(number) for number in range(1000)])
    killed = flood(session, options.tasks, options.kills)
    whole = books(session, options.tasks + 1000, killed)
    quick = ask(session) if options.questions else True
    obsray.shutdown()
    return 0 if whole and quick else 1


def flood(session: Path, tasks: int, kills: int) -> int:
    """Run them all; says how fast, and what the collector used. Returns how many workers were killed."""
    collector, done, killed = find(session, COLLECTOR)[0], threading.Event(), list[int]()

    def kill() -> None:
        while len(killed) < kills and not done.wait(1.0):
            busy = [process for process in psutil.Process(node(session)).children(recursive=True) if is_worker(process)]
            if busy:
                killed.append(random.choice(busy).pid)
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    before, began = sum(collector.cpu_times()[:2]), time.perf_counter()
    references = [nothing.remote(number) for number in range(tasks)]
    submitted = time.perf_counter() - began
    for first in range(0, tasks, PIECE):
        wanted = list(range(first, min(tasks, first + PIECE)))
        assert obsray.get(references[first : first + PIECE]) == wanted
        # What was fetched is let go.
        references[first : first + PIECE] = [references[-1]] * len(wanted)
    seconds = time.perf_counter() - began
    done.set()
    killer.join()
    during = sum(collector.cpu_times()[:2]) - before
    say("tasks", f"{tasks:,}, {len(killed)} workers killed")
    say("rate", f"{tasks / seconds:,.0f} tasks/s ({submitted:.1f} s to submit them, {seconds:.1f} s in all)")
    say("driver", f"{psutil.Process().memory_info().rss / 1e6:,.0f} MB")
    say("collector", f"{during:.1f} s of CPU meanwhile, {during / seconds:.0%} of a processor")
    return len(killed)


def books(session: Path, tasks: int, killed: int) -> bool:
    """Whether everything is there; says what is."""
    deadline = time.monotonic() + SETTLE_SECONDS
    views = Views(Store.open(session))
    while True:
        began = time.perf_counter()
        book = views.ledger()
        took, totals, own = time.perf_counter() - began, book["totals"], book["tasks"]
        behind = totals["events_recorded"] - totals["events_stored"]
        if (own["finished"] == tasks and behind < 1000) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    cost = next(row for row in book["collectors"] if row["alive"])
    size = totals["bytes_stored"] / max(1, totals["events_stored"])
    counts = ", ".join(f"{totals[f'events_{what}']:,} {what}" for what in ("recorded", "stored", "lost"))
    say("events", f"{counts}; {size:.1f} bytes each")
    say(
        "books", f"{own['submitted']:,} submitted, {own['finished']:,} finished, {own['unaccounted']:,} unaccounted for"
    )
    say("collector in all", f"{cost['cpu_seconds']:.1f} s of CPU, {cost['cpu_seconds'] / tasks * 1e6:.1f} µs a task, "
        f"{psutil.Process(cost['pid']).memory_info().rss / 1e6:,.0f} MB")  # fmt: skip
    say("last look at the books", f"{took:.2f} s")
    dead = sum(row["signal"] == signal.SIGKILL for row in views.workers(refresh=False))
    return bool(
        totals["events_lost"] == 0 and behind < 1000 and own["balance_ok"] and own["unaccounted"] == 0
        and own["submitted"] == own["finished"] == tasks and dead == killed
    )  # fmt: skip


def ask(session: Path) -> bool:
    """Take the time of answers, over HTTP and on the command line; whether HTTP answers within a second."""
    url = session_file.read(session)["dashboard_url"]
    token = (session / "token").read_bytes().hex()

    def get(path: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters, doseq=True)
        request = urllib.request.Request(f"{url}{path}?{query}", headers={"authorization": f"Bearer {token}"})
        return json.loads(urllib.request.urlopen(request, timeout=300).read())

    def listed(**parameters: Any) -> Any:
        return get("/api/v0/tasks", **parameters)["data"]["result"]

    timed("first question (the dashboard reads everything)", lambda: listed(limit=1))
    page = listed(limit=100)
    task = page["result"][0]["task_id"]
    now = time.time()
    name = {"filter_keys": "name", "filter_predicates": "=", "filter_values": page["result"][0]["name"]}
    failed = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "FAILED"}
    one = {"filter_keys": "task_id", "filter_predicates": "=", "filter_values": task}
    contains = {"filter_keys": "task_id", "filter_predicates": "contains", "filter_values": task[18:]}
    slowest = []
    for what, question in (
        ("newest 100", lambda: listed(limit=100)),
        ("of one function", lambda: listed(limit=100, **name)),
        ("that failed", lambda: listed(limit=100, **failed)),
        ("a part of an id", lambda: listed(limit=100, **contains)),
        ("by run time", lambda: listed(limit=100, sort="-run_seconds")),
        ("by name", lambda: listed(limit=100, sort="name")),
        ("of one second", lambda: listed(limit=100, since=str(now - 20), until=str(now - 19))),
        ("the next page", lambda: listed(limit=100, cursor=page["next_cursor"])),
        ("one by its id", lambda: listed(limit=1, detail="true", **one)),
        ("summary by function", lambda: get("/api/v0/tasks/summarize")),
        ("summary of those that failed", lambda: get("/api/v0/tasks/summarize", **failed)),
        ("overview", lambda: get("/api/v1/overview")),
        ("ledger", lambda: get("/api/v1/ledger")),
        ("why", lambda: get(f"/api/v1/why/{task}")),
    ):  # fmt: skip
        slowest.append(timed(f"HTTP: {what}", question))
    # How long that takes follows from the page and not from the session.
    timed("HTTP: 10,000 at once, in detail", lambda: listed(limit=10_000, detail="true"))
    local = (
        "import sys; from obsray.cli import command; from obsray.telemetry import living; "
        "living.ROWS_MIN = 1 << 60; command.main(sys.argv[1:])"
    )
    for words in (["status"], ["list", "tasks"], ["why", task], ["get", "task", task], ["summary", "tasks"]):
        arguments = [*words, "--session", str(session)]
        timed(f"obsray {words[0]}", partial(run, "-m", "obsray.cli", *arguments))
        if words[0] in ("status", "list", "why"):
            timed("  the same without asking the dashboard", partial(run, "-c", local, *arguments))
    return max(slowest) < ANSWER_SECONDS_MAX


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def timed(what: str, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    say(what, f"{seconds:.3f} s")
    return seconds


def say(what: str, value: str) -> None:
    print(f"{what:50s} {value}", flush=True)


def node(session: Path) -> int:
    return int(session_file.read(session)["node_pid"])


def find(session: Path, words: str) -> list[psutil.Process]:
    """Processes of the session with these words on their command line; waits until there is one."""
    while True:
        found = [
            each for each in psutil.Process(node(session)).children(recursive=True) if words in " ".join(each.cmdline())
        ]
        if found:
            return found
        time.sleep(0.05)


def is_worker(process: psutil.Process) -> bool:
    """Workers are forked by the zygote."""
    try:
        return "zygote" in " ".join(process.parent().cmdline())
    except (psutil.Error, AttributeError):
        return False


if __name__ == "__main__":
    sys.exit(main())
