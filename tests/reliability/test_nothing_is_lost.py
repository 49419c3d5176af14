"""Every event of a flood is there, also when workers are killed in its middle: check G4 of docs/reliability.md."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import obsray
from tests.integration.programs import eventually, views
from tests.reliability.oracle import Oracle, workers_of

pytestmark = pytest.mark.timeout(180)

FLOOD, UNDER_FIRE = 100_000, 8_000
KILLS = 4


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(num_cpus=2, include_dashboard=False)
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


@obsray.remote
def nothing(number: int) -> int:
    return number


@obsray.remote(max_retries=-1)
def written_down(number: int, path: str) -> int:
    """What it has done can be seen from outside, whatever becomes of its worker and of its records."""
    context = obsray.get_runtime_context()
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{context.get_task_id()}\n".encode())
    os.close(file)
    return number


def test_while_workers_are_killed_under_load_every_attempt_that_ran_is_recorded_and_no_event_is_lost(session, tmp_path):
    """G4: each task is submitted and finished once in the books, and has at least as many attempts as ran."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, killed, path = random.Random(seed), list[int](), tmp_path / "ran"
    path.touch()
    oracle = Oracle(session)
    before = views(session).ledger()["tasks"]["submitted"]
    ended = [("name", "contains", "written_down"), ("state", "=", "FINISHED")]
    finished_before = views(session).tasks(ended, limit=1)["total"]
    references = [written_down.remote(number, str(path)) for number in range(UNDER_FIRE)]
    done = threading.Event()

    def kill() -> None:
        while len(killed) < KILLS and not done.is_set():
            # Each time when a share of the work is done: no kill comes before anything ran, or after everything.
            if path.stat().st_size // 33 < UNDER_FIRE * (len(killed) + 1) // (KILLS + 1):
                done.wait(0.002)
            elif busy := [process.pid for process in workers_of(session)]:
                killed.append(chance.choice(busy))
                try:
                    os.kill(killed[-1], signal.SIGKILL)
                except ProcessLookupError:
                    killed.pop()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert obsray.get(references, timeout=120) == list(range(UNDER_FIRE))
    finally:
        done.set()
        killer.join()
    # On a machine with other work the last ones may come too late.
    assert killed
    oracle.check("worker_died")
    view = views(session)
    book = view.ledger()
    assert book["tasks"]["submitted"] == before + UNDER_FIRE and book["tasks"]["unaccounted"] == 0
    lost = {
        ring["process"]: (ring["gaps"], ring["dropped"]) for ring in book["rings"] if ring["gaps"] + ring["dropped"]
    }
    assert not lost
    ran = Counter(path.read_text().split())
    assert len(ran) == UNDER_FIRE
    again = [task for task, times in ran.items() if times > 1]
    for task in again:
        attempts = view.task(task, refresh=False)["attempts"]
        assert len(attempts) >= ran[task], (task, ran[task], attempts)
    assert view.tasks(ended, limit=1, refresh=False)["total"] - finished_before == UNDER_FIRE
    dead = {row["pid"] for row in view.workers(refresh=False) if row["signal"] == signal.SIGKILL}
    assert set(killed) <= dead


def test_of_a_flood_of_tasks_that_do_nothing_no_event_is_lost(session):
    """G4: as with a million (python -m benchmarks.flood), in small."""
    oracle = Oracle(session)
    before = views(session).ledger()["tasks"]["submitted"]
    assert sum(obsray.get([nothing.remote(number) for number in range(FLOOD)], timeout=150)) == sum(range(FLOOD))
    oracle.check()
    view = views(session)
    book = eventually(view.ledger)
    assert book["tasks"]["submitted"] == before + FLOOD and book["tasks"]["unaccounted"] == 0
    finished = view.tasks([("name", "contains", "nothing"), ("state", "=", "FINISHED")], limit=1, refresh=False)
    assert finished["total"] == FLOOD
    # Of each its worker has said itself that and when it ended.
    table = view.task_table
    names = [code for code, text in enumerate(view.store.texts.texts) if text.endswith("nothing")]
    ended = table["ended_attempt"][np.isin(table["name"], names)]
    assert len(ended) == FLOOD and (ended == 0).all()
    assert {row["kind"] for row in book["rings"]} >= {"driver", "worker", "collector"}
