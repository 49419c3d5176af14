"""Output of workers for a driver at another node: sent whole and in order, bounded, and kept apart by node."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from obsray.core.node import log_mirror
from obsray.core.node.log_mirror import LogMirror
from obsray.core.protocol.messages import LogChunk, LogsSent, LogsWanted, decode, encode
from obsray.telemetry.spine import Silent

HERE, THERE = b"node-1__", b"node-2__"
WORKER = b"wrk_" + HERE[:4]


class Wire:
    """What the mirror sees of the links: ``sent`` are (node, message)."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.links: dict[bytes, Any] = {}
        self.handlers: dict[type, Any] = {}

    def handle(self, kind: type, handler: Any) -> None:
        self.handlers[kind] = handler

    def send(self, node: bytes, message: Any) -> None:
        self.sent.append((node, decode(message)))

    def receive(self, node: bytes, message: Any) -> None:
        self.handlers[type(message)](node, decode(encode(message)))


class Side:
    """One node: its session, its links, its mirror."""

    def __init__(self, session: Path, other: bytes, jobs: dict[int, bytes]) -> None:
        for name in ("logs", "jobs"):
            (session / name).mkdir(parents=True)
        self.session, self.wire, self.answers = session, Wire(), []
        self.wire.links[other] = SimpleNamespace(unsent_bytes=lambda: 0)
        peer = SimpleNamespace(facts=SimpleNamespace(name="other"))
        machine = SimpleNamespace(
            abroad=SimpleNamespace(jobs=jobs), peers=SimpleNamespace(peers={other: peer}), node=HERE
        )  # fmt: skip
        self.mirror = LogMirror(
            session, machine, self.wire, Silent(), lambda *answer: self.answers.append(answer)
        )  # type: ignore[arg-type]  # fmt: skip

    def prints(self, text: str, job: int = 7, stream: str = "out") -> None:
        (self.session / "jobs" / WORKER.hex()).write_text(str(job))
        with (self.session / "logs" / f"worker-{WORKER.hex()}.{stream}").open("a") as file:
            file.write(text)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    """The node of a worker of job 7, and the node of that job's driver."""
    return Side(tmp_path / "a", THERE, {7: THERE}), Side(tmp_path / "b", HERE, {})


def carry(one: Side, other: Side) -> list[Any]:
    carried = [message for _, message in one.wire.sent]
    one.wire.sent.clear()
    for message in carried:
        other.wire.receive(HERE, message)
    return carried


def copy(side: Side, stream: str = "out") -> str:
    return (side.session / "logs/remote" / HERE.hex() / f"worker-{WORKER.hex()}.{stream}").read_text()


def test_what_is_printed_for_a_driver_elsewhere_is_copied_there_once_with_its_job(sides):
    here, there = sides
    here.prints("one\n")
    here.prints("of another job here\n", job=7, stream="err")
    here.mirror.look()
    carry(here, there)
    here.prints("two\n")
    here.mirror.look()
    (chunk,) = carry(here, there)
    assert (chunk.offset, chunk.data) == (4, b"two\n")
    assert copy(there) == "one\ntwo\n" and copy(there, "err") == "of another job here\n"
    assert (there.session / "jobs" / WORKER.hex()).read_text() == "7"
    assert (there.session / "logs/remote" / HERE.hex() / "name").read_text() == "other"


def test_what_is_for_drivers_here_stays_here(sides):
    here, _ = sides
    here.prints("mine\n", job=3)
    here.mirror.look()
    assert not here.wire.sent


def test_what_comes_too_fast_is_left_out_by_whole_lines_and_said(sides, monkeypatch):
    monkeypatch.setattr(log_mirror, "BEHIND_BYTES_MAX", 1000)
    monkeypatch.setattr(log_mirror, "BYTES_PER_LOOK", 105)
    here, there = sides
    here.prints("first\n")
    here.mirror.look()
    here.prints("0123456789\n" * 500)
    here.mirror.look()
    carry(here, there)
    lines = copy(there).splitlines()
    assert lines[0] == "first" and lines[1].startswith("... ") and "left out" in lines[1]
    assert set(lines[2:]) == {"0123456789"}
    told = int(lines[1].split()[1])
    assert told + 11 * len(lines[2:]) == 5500


def test_a_copy_is_bounded_and_says_where_the_rest_is(sides, monkeypatch):
    monkeypatch.setattr(log_mirror, "FILE_BYTES_MAX", 10)
    here, there = sides
    for _ in range(3):
        here.prints("0123456789\n")
        here.mirror.look()
        carry(here, there)
    assert copy(there).count("0123456789") == 1 and copy(there).count("only at its own node") == 1


@pytest.mark.parametrize(
    "message",
    [
        LogChunk(b"short", 7, "out", 0, b"x", 0),
        LogChunk(b"wrk_none", 7, "out", 0, b"x", 0),
        LogChunk(WORKER, 7, "../../token", 0, b"x", 0),
        LogChunk(WORKER, 0, "out", 0, b"x", 0),
    ],
)
def test_a_node_writes_only_for_its_own_workers_and_only_into_its_place(sides, message):
    _, there = sides
    there.wire.receive(HERE, message)
    assert not (there.session / "logs/remote").exists()


def test_last_words_are_sent_before_the_answer_and_silence_is_waited_for_only_so_long(sides, monkeypatch):
    here, there = sides
    here.prints("last words")
    assert there.mirror.ask(b"driver__", 7, 5)
    assert there.wire.sent == [(HERE, LogsWanted(7))]
    here.wire.receive(THERE, LogsWanted(7))
    carried = carry(here, there)
    assert [type(message) for message in carried] == [LogChunk, LogsSent]
    assert copy(there) == "last words" and there.answers == [(b"driver__", 5, [HERE])]
    monkeypatch.setattr(log_mirror, "ANSWER_SECONDS_MAX", 0.0)
    assert there.mirror.ask(b"driver__", 7, 6)
    there.mirror.look()
    assert there.answers[-1] == (b"driver__", 6, [])
