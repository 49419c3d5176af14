"""Every GPU with its holder and a reason, the books of GPUs, and GPU work wherever else people look for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from obsray.cli import command
from obsray.telemetry.answers import gpus as answers
from obsray.telemetry.answers.gpu_time import ACTIVITIES
from obsray.telemetry.views import Views
from obsray.util import state
from tests.unit.gpu.captures import STEPS, run, task
from tests.unit.gpu.constructed import JOB, OTHER, WORKER, Constructed
from tests.unit.gpu.test_gpu_streams import session
from tests.unit.gpu.test_gpu_views import views

__all__ = ["session", "views"]  # fixtures

SECOND = 1_000_000


def launch_bound(made: Constructed, begin: int, end: int) -> bytes:
    """A task whose launches take longer than its kernels: 20 us of each 100 the GPU works."""
    one = made.task(begin, end, cpu=(end - begin) * 0.9)
    for at in range(begin, end, 100):
        made.kernel(at, at + 10, at + 30, one)
    return one


@pytest.fixture
def made(tmp_path: Path) -> Constructed:
    """GPU 0 is launch-bound, GPU 1 waits for input, GPU 2 is not observed, nobody wants GPU 3."""
    third = bytes.fromhex("0303030303030303")
    found = Constructed(tmp_path / "s_1", (0, 1, 2, 3), (WORKER, OTHER, third))
    found.reserve(0, SECOND)
    launch_bound(found, 0, SECOND // 4)
    found.reserve(0, SECOND, OTHER, gpu=1)
    second = found.task(0, SECOND, "infer", OTHER, blocked=SECOND * 0.8)
    found.blocked(0.1 * SECOND, 0.9 * SECOND, second, OTHER)
    found.kernel(0.95 * SECOND, 0.95 * SECOND + 10, 0.96 * SECOND, second, "nccl", OTHER, 1, function="infer")
    found.reserve(0, SECOND, third, gpu=2, captured=False)
    found.task(0, SECOND - 1000, "blind", third)  # not the last one
    found.rings[third].gpu_capture_refused(0, third, found.rings[third].intern("no libcupti was found"))
    found.ends(2 * SECOND)
    return found


def test_a_gpu_that_idles_says_why_in_a_sentence_and_what_would_help(made: Constructed) -> None:
    rows = {row["gpu"]: row for row in made.views().gpus()}
    assert [row["state"] for row in rows.values()] == ["FREE"] * 4, "the session is over"
    assert "worked 5% of that time; the rest: 75% no task" in rows[0]["why"] and "20% launch-bound" in rows[0]["why"]
    assert rows[1]["cause"] == "idle: waiting for input" and "80% waiting for input" in rows[1]["why"]
    assert "by tasks that ask for no GPU" in rows[1]["fix"]
    assert "100% not observed" in rows[2]["why"] and "no libcupti was found" in rows[2]["why"]
    assert rows[2]["unobserved_seconds"] == pytest.approx(0.999) and rows[2]["idle_seconds"] == pytest.approx(0.001)
    assert rows[3]["why"].endswith("was never reserved") and rows[3]["busy_share"] is None and not rows[3]["fix"]
    for row in rows.values():
        assert sum(part["seconds"] for part in row["activities"]) == pytest.approx(row["reserved_seconds"])


def test_why_answers_for_a_gpu_and_says_which_there_are(made: Constructed) -> None:
    view = made.views()
    found = view.why("gpu:1")
    assert found["code"] == "WAIT_INPUT" and found["sentence"].startswith("GPU 1 of node a1a1a1a1 was reserved for 1 s")
    assert found["fix"] and any(fact.startswith("communication: ") for fact in found["facts"])
    assert view.why("gpu:a1a1/2")["code"] == "NOT_OBSERVED"
    assert view.why("gpu:3")["code"] == "IDLE"
    with pytest.raises(LookupError, match="gpu:a1a1a1a1/0, gpu:a1a1a1a1/1"):
        view.why("gpu:9")
    with pytest.raises(ValueError, match="gpu:NODE/NUMBER"):
        view.why("gpu:first")


def test_the_books_of_gpus_close(made: Constructed) -> None:
    found = made.views().books()["gpus"]
    assert found["gpus"] == 4 and found["slot_seconds"] == pytest.approx(8.0)
    assert found["error_ratio"] < 0.01
    sums = {row["activity"]: row["seconds"] for row in found["activities"]}
    assert sum(sums.values()) == pytest.approx(found["slot_seconds"], rel=0.01)
    assert sums["compute"] == pytest.approx(0.05, rel=0.01) and sums["communication"] == pytest.approx(0.00999)
    assert sums["not reserved"] == pytest.approx(5.0) and sums["not observed"] == pytest.approx(0.999)
    assert set(sums) <= set(ACTIVITIES)
    by_function = {row["name"]: row for row in found["functions"]}
    assert by_function["train"]["busy_seconds"] == pytest.approx(0.05, rel=0.01)
    assert by_function["infer"]["activities"]["idle: waiting for input"] == pytest.approx(0.8, rel=0.01)
    (job,) = found["jobs"]
    assert job["job_id"] == f"{JOB:08x}" and job["seconds"] == pytest.approx(3.0)


def test_the_books_of_a_job_name_what_others_had(tmp_path: Path) -> None:
    made = Constructed(tmp_path, (0,), (WORKER, OTHER))
    made.reserve(0, SECOND)
    launch_bound(made, 0, SECOND // 4)
    made.reserve(SECOND, 2 * SECOND, OTHER, job=7)
    made.ends(2 * SECOND)
    view = made.views()
    found = view.books(JOB)["gpus"]
    sums = {row["activity"]: row["seconds"] for row in found["activities"]}
    assert sums["other jobs"] == pytest.approx(1.0) and found["error_ratio"] < 0.01
    assert view.jobs()[0]["gpu_seconds"] == pytest.approx(0.05, rel=0.01)


def test_a_session_without_gpus_has_no_books_of_gpus(tmp_path: Path) -> None:
    made = Constructed(tmp_path, ())
    made.task(0, 1000)
    made.ends(2000)
    view = made.views()
    assert view.books()["gpus"] is None and view.gpus() == [] and view.critical_path()["gpu"] == []


def test_gpu_seconds_on_the_critical_path_are_those_of_its_tasks(made: Constructed) -> None:
    parts = {row["activity"]: row["seconds"] for row in made.views().critical_path()["gpu"]}
    assert parts["idle: waiting for input"] == pytest.approx(0.8, rel=0.01), "the longest task is the path"
    assert parts["idle: launch-bound"] < 0.001, "other tasks are not on it"
    assert sum(parts.values()) == pytest.approx(1.0, rel=0.01)


def test_a_task_says_what_its_gpu_did_wherever_it_is_asked(made: Constructed) -> None:
    view = made.views()
    one = bytes.fromhex(view.tasks([("name", "=", "train")])["rows"][0]["task_id"])
    gpu = view.task(one.hex())["gpu"]
    assert gpu["cause"] == "idle: launch-bound" and "CUDA graphs" in gpu["fix"]
    assert gpu["launch_delay"]["p50_seconds"] == pytest.approx(10e-6) and gpu["launch_delay"]["kernels"] == 2500
    assert sum(part["seconds"] for part in gpu["activities"]) == pytest.approx(0.25)
    why = view.why(one.hex())
    assert any("GPU 0 worked 20% of that time" in fact for fact in why["facts"]) and "CUDA graphs" in why["fix"]
    told = [row["text"] for row in view.story(one.hex())]
    assert any("GPU 0 worked for it from here on" in text and "2500 kernels" in text for text in told)


def test_the_state_api_lists_gpus_and_kernels(made: Constructed, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(made.directory)
    rows = state.list_gpus(address, filters=[("busy_seconds", ">", 0)], sort="-busy_seconds")
    assert [row.gpu for row in rows] == [0, 1] and rows.total == 2 and rows[0].activities is None
    assert state.list_gpus(address, detail=True)[0].activities
    kernels = state.list_kernels(address)
    assert [(row.function, row.kernel, row.launches) for row in kernels] == [
        ("train", "gemm", 2500),
        ("infer", "nccl", 1),
    ]
    assert kernels[0].launch_delay_seconds == pytest.approx(10e-6)
    with pytest.raises(ValueError, match="no time of its own"):
        state.list_gpus(address, since="10m")
    with pytest.raises(ValueError, match="the keys are"):
        state.list_kernels(address, filters=[("size", "=", 1)])


def test_the_command_line_tells_all_of_it(made: Constructed, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert command.main([*words, "--session", str(made.directory)]) == 0
        return capsys.readouterr().out

    text = said("gpu")
    assert "gpu:a1a1a1a1/1" in text and "idle: waiting for input" in text and "not captured: no libcupti" in text
    assert "begun 10 µs after launch" in text
    assert len(json.loads(said("gpu", "--json"))["gpus"]) == 4
    assert "launch-bound" in said("why", "gpu:0") and "GPU time by function" in said("books")
    assert "what the GPUs of its tasks did meanwhile" in said("critical-path")
    assert "4 gpus" in said("list", "gpus") and "Began after launch" in said("list", "kernels")


def test_a_live_session_looks_at_the_last_minute_and_not_at_records_on_their_way(
    made: Constructed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it still ran, 100 s after it began: everything since its last second idles."""
    from tests.unit.gpu.constructed import at

    made.reserve(1.5 * SECOND)
    view = made.views()
    view.cluster_table.nodes[next(iter(view.cluster_table.nodes))]["stopped_at_ns"] = 0
    monkeypatch.setattr(type(view.store), "is_live", lambda _: True)
    monkeypatch.setattr(Views, "now_ns", lambda _: at(100 * SECOND))
    row = view.gpus(refresh=False)[0]
    assert row["state"] == "IDLE" and row["cause"] == "idle: no task" and row["cause_share"] == pytest.approx(1.0)
    assert "in the last minute worked 0% of that time" in row["why"] and "worker 01010101" in row["holder"]
    assert row["reserved_seconds"] == pytest.approx(1.0 + 97 - 1.5), "the last three seconds are not known yet"
    shares = {(gpu, name): share for _, gpu, name, share in answers.recent_shares(view)}
    assert shares[0, "idle: no task"] == pytest.approx(1.0) and shares[3, "not reserved"] == pytest.approx(1.0)


@pytest.mark.parametrize(("told", "state"), [(None, "UNOBSERVED"), (0.0, "UNOBSERVED"), (0.4, "BUSY")])
def test_work_that_nobody_sees_is_not_idleness_unless_its_driver_says_so(
    made: Constructed, monkeypatch: pytest.MonkeyPatch, told: float | None, state: str
) -> None:
    from tests.unit.gpu.constructed import at

    blind = bytes.fromhex("0303030303030303")
    made.reserve(1.1 * SECOND, worker=blind, gpu=2, captured=False)
    made.task(1.1 * SECOND, 90 * SECOND, "blind", blind)
    view = made.views()
    view.cluster_table.nodes[next(iter(view.cluster_table.nodes))]["stopped_at_ns"] = 0
    monkeypatch.setattr(type(view.store), "is_live", lambda _: True)
    monkeypatch.setattr(Views, "now_ns", lambda _: at(90 * SECOND))
    facts = dict.fromkeys((*answers.DEVICE_FACTS, "reason", "text")) | {"utilization": told}
    node = view.gpus(refresh=False)[2]["node_id"]
    monkeypatch.setattr(Views, "gpu_devices", lambda _, **__: [{"node_id": node, "gpu": 2, **facts}])
    row = view.gpus(refresh=False)[2]
    assert row["state"] == state and "was seen to work 0% of that time" in row["why"]


def test_of_the_recorded_run_all_time_of_its_tasks_has_a_cause(views: Views) -> None:
    """Of the step capture few launches are recorded, and its tasks are known from marks alone."""
    for number in range(STEPS):
        one = run("step")["tasks"][number]
        gpu = views.task_gpu(task(number), one["start_ns"], one["end_ns"])
        assert (
            gpu is not None and gpu["kernels"] == 132 and gpu["busy_seconds"] < (one["end_ns"] - one["start_ns"]) / 1e9
        )
    (row,) = views.gpus()
    parts: dict[str, Any] = {part["activity"]: part["seconds"] for part in row["activities"]}
    assert row["gpu"] == 3 and parts["compute"] > 0 and parts["copy"] > 0
    kernels = sum(each["kernel_seconds"] for each in views.kernels())
    assert parts["compute"] <= kernels * 1.001, "kernels beside each other count once"
    assert os.path.isdir(views.store.session_dir)
