"""What watches GPUs: samples, whose memory it is, what is told once, and when one goes out and comes back."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import pytest

from obsray.config import Config
from obsray.gpu import nvml
from obsray.gpu.health import Change, HealthRules, numbers_of
from obsray.gpu.nvml import Nvml
from obsray.gpu_watch import process as watch
from obsray.gpu_watch.holders import Holders
from obsray.gpu_watch.sampler import ALL, Sampler, Watched
from obsray.telemetry import session_file
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.spine import NOW, NOW_SLOT_BYTES, Ring
from tests.unit.gpu.fake_cupti import Told
from tests.unit.gpu.fake_nvml import Card, FakeLibrary

NODE = b"thisnode"
TASK = b"task" * 4


def fields(told: Told, event: str) -> list[dict[str, object]]:
    names = ["time_ns", *(field.name for field in BY_NAME[event].fields)]
    return [dict(zip(names, values, strict=True)) for values in told.named(event)]


def sampler(tmp_path: Path, *cards: Card, absent: tuple[str, ...] = ()) -> tuple[Sampler, Told]:
    told = Told()
    gpus = [Watched(number, card.uuid) for number, card in enumerate(cards)]
    (tmp_path / "rings").mkdir(exist_ok=True)
    made = Sampler(NODE, gpus, Holders(tmp_path / "rings"), told)
    made.begin(Nvml(FakeLibrary(list(cards), absent)))
    return made, told


def test_a_sample_says_what_the_driver_says_and_no_number_where_it_says_nothing(tmp_path):
    made, told = sampler(tmp_path, Card(uuid="GPU-a", slow=0x20))
    assert made.look(5, made.gpus[0], False) == ""
    (sample,) = fields(told, "gpu_sample")
    assert sample["node"] == NODE and sample["time_ns"] == 5 and sample["gpu"] == 0
    assert (sample["utilization"], sample["bus_utilization"]) == (0.4, 0.07)
    assert (sample["used_bytes"], sample["memory_bytes"]) == (3 << 30, 80 << 30)
    assert sample["power_watts"] == 250.0 and told.texts[sample["slowdown"]] == "heat"
    assert math.isnan(sample["power_limit_watts"]), "the fake does not offer it"


def test_what_cannot_be_learned_is_told_once_and_what_is_never_offered_not_asked_again(tmp_path):
    card = Card(uuid="GPU-a", refuses={"nvmlDeviceGetPowerUsage": 3, "nvmlDeviceGetTemperature": 999})
    made, told = sampler(tmp_path, card)
    for _ in range(5):
        made.look(5, made.gpus[0], False)
    calls = [told.texts[failure["call"]] for failure in fields(told, "gpu_watch_failed")]
    assert calls.count("power") == calls.count("temperature") == 1
    card.refuses.clear()
    made.look(6, made.gpus[0], False)
    sample = fields(told, "gpu_sample")[-1]
    assert math.isnan(sample["power_watts"]) and sample["temperature_celsius"] == 61.0


def test_a_lost_gpu_or_one_whose_memory_is_broken_is_in_trouble(tmp_path):
    cards = [
        Card(uuid="GPU-a", refuses={"nvmlDeviceGetTemperature": 15}),
        Card(uuid="GPU-b", failed=True),
        Card(uuid="GPU-c", pending=True),
    ]
    made, _ = sampler(tmp_path, *cards, Card(uuid="GPU-d"))
    assert "GPU is lost" in made.look(1, made.gpus[0], False)
    assert "row remapping failed" in made.look(1, made.gpus[1], False)
    assert made.look(1, made.gpus[2], False) == "" and "pending" in made.look(1, made.gpus[2], True)
    made.gpus[3].uuid, made.gpus[3].handle = "GPU-gone", None
    assert "does not know it any more" in made.look(1, made.gpus[3], False)


# --- whose memory it is -----------------------------------------------------------------------------------------------


def worker(tmp_path: Path, name: bytes, task: bytes = b"") -> Ring:
    """A worker with this process' pid, and what it runs."""
    (tmp_path / "rings").mkdir(exist_ok=True)
    ring = Ring(tmp_path / "rings", name, ProcessKind.WORKER, NODE)
    if task:
        path = tmp_path / "rings" / f"{name.hex()}.now"
        data = bytearray(path.read_bytes())
        data[: NOW.size] = NOW.pack(task, 1, 0, 1, 1)
        path.write_bytes(data)
        assert len(data) % NOW_SLOT_BYTES == 0
    return ring


def proc(tmp_path: Path, pid: int, names: str, parent: int = 1, maps: str = "") -> None:
    at = tmp_path / "proc" / str(pid)
    at.mkdir(parents=True)
    (at / "status").write_text(f"Name:\tpython\nPPid:\t{parent}\nNSpid:\t{names}\n")
    (at / "maps").write_text(maps)


def test_memory_is_a_workers_with_what_it_runs_also_if_a_child_of_it_holds_it(tmp_path):
    ring = worker(tmp_path, b"worker01", TASK)
    me = os.getpid()
    proc(tmp_path, me, str(me))
    proc(tmp_path, 900_001, "900001", parent=me)
    proc(tmp_path, 900_002, "900002", parent=1)
    holders = Holders(tmp_path / "rings", tmp_path / "proc")
    holders.look()
    for pid in (me, 900_001):
        assert holders.of(pid) == (b"worker01", me, TASK)
    assert holders.of(900_002) is None and holders.of(900_003) is None
    assert holders.visible(900_002) and not holders.visible(900_003)
    ring.close(1)


def test_a_pid_in_another_namespace_counts_only_with_the_workers_own_files(tmp_path):
    ring = worker(tmp_path, b"worker01", TASK)
    me = os.getpid()
    name = b"worker01".hex()
    proc(tmp_path, 900_001, f"900001 {me}", maps=f"7f00-7f01 rw-s 00000000 00:00 1 /tmp/s/rings/{name}.now\n")
    proc(tmp_path, 900_002, f"900002 {me}", maps="7f00-7f01 rw-s 00000000 00:00 1 /tmp/other\n")
    holders = Holders(tmp_path / "rings", tmp_path / "proc")
    holders.look()
    assert holders.of(900_001) == (b"worker01", me, TASK)
    assert holders.of(900_002) is None, "another container has a process of the same number"
    ring.close(1)


def test_a_sample_counts_foreign_memory_and_says_when_no_pid_can_be_seen(tmp_path):
    ring = worker(tmp_path, b"worker01", TASK)
    card = Card(uuid="GPU-a", processes=[(os.getpid(), 2 << 30), (2_000_000_001, 1 << 30)])
    made, told = sampler(tmp_path, card)
    made.holders.look()
    made.look(1, made.gpus[0], False)
    (held,) = fields(told, "gpu_process_sample")
    assert (held["worker"], held["task"], held["used_bytes"]) == (b"worker01", TASK, 2 << 30)
    (sample,) = fields(told, "gpu_sample")
    assert (sample["processes"], sample["foreign_processes"], sample["foreign_bytes"]) == (2, 1, 1 << 30)
    card.processes.pop(0)
    for _ in range(2):
        made.look(2, made.gpus[0], False)
    (blind,) = [each for each in fields(told, "gpu_watch_failed") if each["gpu"] == ALL]
    assert "pid: host" in told.texts[blind["error"]]
    ring.close(1)


# --- health -----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_hardware_takes_a_gpu_out_until_nothing_was_wrong_for_long_enough():
    rules = HealthRules(frozenset({48, 79}), 300)
    assert rules.xid(0, 0, 31) is None, "a program's fault"
    out = rules.xid(10, 0, 79)
    assert out == Change(0, False, "Xid 79: it has fallen off the bus; back after 300 s without trouble", 79)
    assert rules.xid(20, 0, 79) is None, "it is out already"
    assert rules.looked(310, 0, "") is None, "the wait begins with the last trouble"
    assert rules.looked(320, 0, "") == Change(0, True)
    assert rules.looked(321, 0, "") is None and rules.looked(321, 1, "") is None


def test_trouble_that_lasts_keeps_it_out_and_going_out_again_takes_twice_as_long():
    rules = HealthRules(frozenset(), 100)
    for began, wait in ((0, 100), (1_000, 200), (2_000, 400)):
        assert not rules.looked(began, 3, "lost").healthy
        assert rules.looked(began + 50, 3, "lost") is None
        assert rules.looked(began + 50 + wait - 1, 3, "") is None
        assert rules.looked(began + 50 + wait, 3, "") == Change(3, True)
    assert rules.looked(200_000, 3, "lost").reason.endswith("back after 100 s without trouble"), "a day later"


def test_who_takes_over_the_watch_lets_what_is_out_wait_anew():
    rules = HealthRules(frozenset(), 100)
    rules.known_out(500, 2)
    assert rules.is_out(2) and rules.looked(599, 2, "") is None
    assert rules.looked(600, 2, "") == Change(2, True)


def test_numbers_of_errors_come_out_of_a_setting():
    assert numbers_of(Config().gpu_xids_fatal) >= {48, 79} and not numbers_of(" ")
    with pytest.raises(ValueError):
        numbers_of("48,bus")


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """A watch over two GPUs, its library, and what the node is asked."""
    (tmp_path / "rings").mkdir()
    (tmp_path / "session.json").write_text(
        '{"gpus": [{"gpu": 0, "uuid": "GPU-a"}, {"gpu": 1, "uuid": "GPU-b"}, {"gpu": 2, "uuid": ""}]}'
    )
    library = FakeLibrary([Card(uuid="GPU-a"), Card(uuid="GPU-b")])
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda path: library)
    asked: list[tuple[str, dict[str, object]]] = []

    def ask(session: Path, method: str, **facts: object) -> object:
        asked.append((method, facts))
        if method == "gpus":
            return [{"gpu": 0, "state": "IN_SERVICE"}, {"gpu": 1, "state": "IN_SERVICE"}]
        return []

    monkeypatch.setattr(watch, "ask", ask)
    return watch.Process(tmp_path, Config(gpu_recovery_seconds=100.0), Told(), NODE), library, asked


def test_the_node_is_told_when_a_gpu_reports_an_error_and_when_it_is_well_again(watching):
    process, library, asked = watching
    process.look(0.0)
    assert [gpu.number for gpu in process.sampler.gpus] == [0, 1] and library.watched == [1, 2]
    library.xids = [(2, 48), (1, 13)]
    process._wait(0.01)
    process._wait(0.01)
    (told,) = [facts for method, facts in asked if method == "gpu_health"]
    assert (told["gpu"], told["healthy"], told["xid"]) == (1, False, 48)
    wrong_at = process.rules._gpus[1].wrong_at
    process.look(wrong_at + 101)
    assert asked[-1] == ("gpu_health", {"gpu": 1, "healthy": True, "reason": "", "xid": 0})
    process._leave()
    assert library.opened == 0


def test_an_error_of_a_divided_gpu_takes_all_its_parts_out(watching):
    process, library, asked = watching
    library.cards += [Card(uuid="GPU-whole")]
    for card in library.cards[:2]:
        card.part_of = 3
    process.look(0.0)
    assert library.watched == [3]
    library.xids = [(3, 79)]
    process._wait(0.01)
    assert [facts["gpu"] for method, facts in asked if method == "gpu_health"] == [0, 1]


def test_a_node_that_cannot_be_told_now_is_told_at_the_next_look(watching, monkeypatch):
    process, library, asked = watching
    process.look(0.0)
    reachable = watch.ask

    def busy(*_: object, **__: object) -> object:
        raise TimeoutError

    monkeypatch.setattr(watch, "ask", busy)
    library.cards[0].refuses["nvmlDeviceGetTemperature"] = 15
    process.look(1.0)
    monkeypatch.setattr(watch, "ask", reachable)
    process.look(2.0)
    (told,) = [facts for method, facts in asked if method == "gpu_health"]
    assert told["gpu"] == 0 and "GPU is lost" in told["reason"]


def test_where_the_library_is_gone_that_is_told_once_and_nothing_else_happens(watching, monkeypatch):
    process, _, asked = watching
    monkeypatch.setattr(nvml, "load", lambda path: None)
    for now in (0.0, 40.0, 80.0):
        process.look(now)
    (failure,) = fields(process.emitter, "gpu_watch_failed")
    assert failure["gpu"] == ALL and "gpu_health" not in [method for method, _ in asked]


def test_it_waits_for_a_node_that_has_not_written_down_yet_what_it_is(tmp_path, monkeypatch):
    looks = []

    def look(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            session_file.update(tmp_path, node=NODE.hex(), gpus=[{"gpu": 0, "uuid": "GPU-a"}])

    monkeypatch.setattr(watch.time, "sleep", look)
    found = watch.announced(tmp_path)
    assert found is not None and found["node"] == NODE.hex() and len(looks) == 3
    parents = iter((1, 2))
    monkeypatch.setattr(watch.os, "getppid", lambda: next(parents))
    assert watch.announced(tmp_path / "nothing") is None, "its node has ended"


def test_headers_of_rings_that_are_being_made_are_read_later(tmp_path):
    (tmp_path / "aa.000000.ring").write_bytes(b"\0" * 10)
    (tmp_path / "bb.000000.ring").write_bytes(struct.pack("<8s", b"other") + bytes(200))
    holders = Holders(tmp_path)
    holders.look()
    assert holders.of(os.getpid()) is None
