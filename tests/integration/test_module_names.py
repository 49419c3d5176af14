"""Names that programs expect in the module: there and working, or with an error that says what to do instead."""

from __future__ import annotations

import io
import json
import os
import pickle
import re

import numpy as np
import pytest

import obsray
from obsray import exceptions
from obsray.autoscaler.sdk import request_resources
from obsray.cli import main as cli
from obsray.experimental import get_object_locations, internal_kv, tqdm_ray
from obsray.util import metrics, state
from obsray.util.queue import Queue
from tests.integration.programs import eventually


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=2, include_dashboard=False)
    yield
    obsray.shutdown()


def test_keys_and_values_are_shared_with_tasks():
    @obsray.remote
    def write(key):
        internal_kv._internal_kv_put(key, b"from a task")
        return internal_kv._internal_kv_get(b"a1")

    assert internal_kv._internal_kv_initialized()
    assert internal_kv._internal_kv_put("a1", "one") is False
    assert internal_kv._internal_kv_put("a1", "two", overwrite=False) is True
    assert obsray.get(write.remote("a2")) == b"one"
    assert internal_kv._internal_kv_get("a2") == b"from a task"
    assert sorted(internal_kv._internal_kv_list("a")) == [b"a1", b"a2"]
    assert internal_kv._internal_kv_get("a1", namespace="elsewhere") is None
    assert internal_kv._internal_kv_del("a", del_by_prefix=True) == 2
    assert not internal_kv._internal_kv_exists("a1")
    with pytest.raises(TypeError, match="bytes or text"):
        internal_kv._internal_kv_get(1)
    with pytest.raises(ValueError, match="key"):
        internal_kv._internal_kv_get(b"k" * 10_000)


def test_locations_say_where_an_object_lies_and_how_large_it_is(tmp_path):
    @obsray.remote
    def waits():
        while not (tmp_path / "gate").exists():
            pass

    large, pending = obsray.put(np.zeros(1 << 18)), waits.remote()
    found = get_object_locations([large, pending])
    assert found[large]["node_ids"] == [obsray.get_runtime_context().get_node_id()]
    assert found[large]["object_size"] >= 8 << 18 and not found[large]["did_spill"]
    assert found[pending]["node_ids"] == []
    (tmp_path / "gate").touch()
    obsray.get(pending)
    assert get_object_locations([pending])[pending]["node_ids"]
    with pytest.raises(TypeError, match="list of references"):
        get_object_locations(large)


def test_progress_bars_show_where_they_are():
    out = io.StringIO()
    assert list(tqdm_ray.tqdm(range(4), desc="rows", file=out, flush_interval_s=0)) == [0, 1, 2, 3]
    shown = out.getvalue().splitlines()
    assert [re.search(r"./4", line)[0] for line in shown] == ["0/4", "1/4", "2/4", "3/4", "4/4"]
    assert shown[-1].startswith("rows: 100%|")
    bar = tqdm_ray.tqdm(total=10, file=out)
    bar.update(3)
    bar.close()
    bar.update(1)
    assert "30%" in out.getvalue() and "40%" not in out.getvalue()


def test_the_timeline_goes_into_a_file(tmp_path):
    @obsray.remote
    def on_the_timeline():
        return 1

    obsray.get([on_the_timeline.remote() for _ in range(3)])
    assert obsray.timeline(tmp_path / "trace.json") is None
    events = json.loads((tmp_path / "trace.json").read_text())
    assert len([event for event in events if event["name"] == "task::on_the_timeline"]) == 3


def test_the_command_line_writes_the_timeline_of_a_session(tmp_path, capsys):
    session = obsray.get_runtime_context().gcs_address
    assert cli(["timeline", "--session", session, "-o", str(tmp_path / "trace.json")]) == 0
    assert "ui.perfetto.dev" in capsys.readouterr().out
    assert {event["ph"] for event in json.loads((tmp_path / "trace.json").read_text())} >= {"X", "M"}
    assert cli(["timeline", "--session", session, "-o", str(tmp_path / "no/such/directory")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_resources_that_are_there_may_be_asked_for():
    request_resources(num_cpus=1, bundles=[{"CPU": 1}])
    with pytest.raises(RuntimeError, match="CPU: 3 wanted, 2 there"):
        request_resources(bundles=[{"CPU": 1}] * 3)


def test_other_ways_to_connect_are_init():
    with pytest.raises(ValueError, match="no client proxy"):
        obsray.client("ray://there:10001")
    with pytest.raises(RuntimeError, match="already"):
        obsray.client().namespace("n").connect()


def test_other_languages_are_refused():
    for call in (lambda: obsray.java_function("C", "f"), lambda: obsray.cpp_function("f")):
        with pytest.raises(exceptions.CrossLanguageError, match="Python"):
            call()
    with pytest.raises(AttributeError, match="libraries on top"):
        _ = obsray.data


class Unbuildable(Exception):
    def __init__(self, one, two):
        super().__init__("text of the error")


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("no")


@pytest.mark.parametrize("make", [lambda: Unbuildable(1, 2), lambda: Unpicklable("text of the error")])
def test_a_cause_whose_pickle_fails_keeps_its_class_and_its_text(make):
    @obsray.remote
    def fails():
        raise make()

    with pytest.raises(exceptions.RayTaskError, match="text of the error") as caught:
        obsray.get(fails.remote())
    assert isinstance(caught.value, type(make())) and type(caught.value.cause) is type(make())
    assert "text of the error" in str(caught.value.cause)


def test_a_cause_whose_class_cannot_travel_leaves_its_text():
    @obsray.remote
    def fails():
        import threading

        class Local(Exception):
            lock = threading.Lock()

        raise Local("text of the error")

    with pytest.raises(exceptions.RayTaskError, match="text of the error") as caught:
        obsray.get(fails.remote())
    assert isinstance(caught.value.cause, exceptions.UnserializableException)
    assert "text of the error" in str(caught.value.cause)
    again = exceptions.RayError.from_bytes(caught.value.to_bytes())
    assert isinstance(again, exceptions.RayTaskError) and again.pid == caught.value.pid


def test_an_error_of_an_actor_says_which_actor():
    @obsray.remote
    class Named:
        def __repr__(self):
            return "Named(7)"

        def fail(self):
            raise ValueError("x")

    named = Named.remote()
    with pytest.raises(ValueError) as caught:
        obsray.get(named.fail.remote())
    eventually(lambda: state.get_actor(named._actor_id.hex()).repr_name == "Named(7)")
    assert caught.value.actor_repr == "Named(7)" and caught.value.ip == "127.0.0.1"
    assert ", actor Named(7)) failed" in str(caught.value)
    assert caught.value.proctitle == "obsray::Named.fail"


def test_an_error_says_which_tasks_did_not_run_because_of_it():
    @obsray.remote
    def breaks():
        raise ValueError("broken")

    @obsray.remote
    def needs(value):
        return value

    @obsray.remote
    def asks(value):
        return obsray.get(needs.remote(value))

    broken = breaks.remote()
    last = broken
    for _ in range(3):
        last = needs.remote(last)
    with pytest.raises(ValueError) as caught:
        obsray.get(last)
    assert [who.split()[0] for who in caught.value.needed_by] == ["needs"] * 3
    assert str(caught.value).count("so these did not run: needs (task ") == 1 and "in breaks" in str(caught.value)
    with pytest.raises(ValueError, match="so these did not run: asks"):
        obsray.get(asks.remote(broken))
    with pytest.raises(ValueError) as caught:
        obsray.get(broken)
    assert caught.value.needed_by == ()
    for _ in range(100):
        last = needs.remote(last)
    with pytest.raises(ValueError) as caught:
        obsray.get(last)
    assert caught.value.needed_by[-1] == "..." and len(caught.value.needed_by) < 30


def test_a_task_that_did_not_run_fails_with_the_error_of_its_argument_as_one_of_its_own():
    @obsray.remote(max_retries=0)
    def breaks_down():
        os._exit(5)

    @obsray.remote
    def needs(value):
        return value

    @obsray.remote(num_returns="dynamic")
    def yields(value):
        yield value

    dead = breaks_down.remote()
    for name, reference in {
        "needs": needs.remote(dead),
        "yields": yields.remote(dead),
        "later": needs.options(name="later").remote(needs.remote(dead)),
    }.items():
        with pytest.raises(exceptions.RayTaskError) as caught:
            obsray.get(reference, timeout=60)
        assert isinstance(caught.value, exceptions.WorkerCrashedError)
        assert type(caught.value.cause) is exceptions.WorkerCrashedError
        assert f"{caught.value.function_name} did not run\n" in str(caught.value) and "code 5" in str(caught.value)
        assert name == "later" or caught.value.function_name == name
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value) and isinstance(again, exceptions.WorkerCrashedError)
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        obsray.get(dead, timeout=60)
    assert not isinstance(caught.value, exceptions.RayTaskError)


def test_a_serializer_of_the_users_counts_for_exceptions_too():
    class Stubborn(Exception):
        def __init__(self, code, *, reason):
            super().__init__("stubborn")
            self.code, self.reason = code, reason

    def said(error):
        return (error.code, error.reason)

    def heard(state):
        return Stubborn(state[0] + 1, reason=state[1])

    @obsray.remote
    def fails():
        obsray.util.register_serializer(Stubborn, serializer=said, deserializer=heard)
        raise Stubborn(4, reason="no")

    with pytest.raises(Stubborn) as caught:
        obsray.get(fails.remote())
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert (caught.value.cause.code, caught.value.cause.reason) == (5, "no")


def test_every_error_survives_a_journey():
    kinds = [
        exceptions.ObjectLostError,
        exceptions.OwnerDiedError,
        exceptions.ObjectFreedError,
        exceptions.ObjectFetchTimedOutError,
        exceptions.ReferenceCountingAssertionError,
        exceptions.ObjectReconstructionFailedError,
        exceptions.ObjectReconstructionFailedMaxAttemptsExceededError,
        exceptions.ObjectReconstructionFailedLineageEvictedError,
    ]
    made = [
        exceptions.TaskCancelledError("ab" * 16),
        *(cls("cd" * 20, b"owner", "f.py:3") for cls in kinds),
        exceptions.ObjectLostError("cd" * 20, message="lost"),
        exceptions.RpcError("failed", 14),
        exceptions.CollectiveTimeoutError("late", "g", 3).with_story(("a", "b"), "t"),
    ]
    for error in made:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    for error in made[1 : len(kinds) + 1]:
        assert (error.object_ref_hex, error.owner_address, error.call_site) == ("cd" * 20, b"owner", "f.py:3")
        assert "cd" * 20 in str(error) and "f.py:3" in str(error)
    lost = made[len(kinds) + 1]
    assert (str(lost), lost.owner_address) == ("lost", bytes.fromhex("cd" * 8))
    task = exceptions.RayTaskError("f", "text", ValueError("x"), proctitle="p", pid=5, ip="10.0.0.1", actor_repr="a")
    copy = pickle.loads(pickle.dumps(task))
    assert (copy.proctitle, copy.pid, copy.ip, copy.actor_repr) == ("p", 5, "10.0.0.1", "a")
    with pytest.raises(ValueError, match="no error"):
        exceptions.RayError.from_bytes(b"x")


def test_nodes_have_the_fields_that_programs_read():
    (node,) = obsray.nodes()
    assert node["Alive"] and node["alive"] and node["NodeName"] and node["DeathReasonMessage"] == ""
    assert node["RayletSocketName"].endswith("node.sock") and node["Resources"]["CPU"] == 2
    assert {node[f"{name}Port"] for name in ("NodeManager", "ObjectManager", "RuntimeEnvAgent")} == {0}
    assert isinstance(node["MetricsExportPort"], int)


def test_a_queue_may_be_shut_down_twice():
    queue = Queue()
    queue.shutdown(force=True)
    queue.shutdown()
    with pytest.raises(exceptions.RayActorError, match="shut down"):
        queue.put(1)


def test_a_metric_with_a_bad_name_is_said_and_not_recorded():
    for make in (metrics.Counter, metrics.Gauge):
        with pytest.warns(RuntimeWarning, match="not recorded") as caught:
            made = make("bad-name", tag_keys=("a",))
        assert caught[0].filename == __file__
        with pytest.raises(ValueError, match="no value"):
            getattr(made, "inc" if make is metrics.Counter else "set")(1)
    with pytest.warns(RuntimeWarning) as caught:
        metrics.Histogram("2nd", boundaries=[1]).observe(3)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="needs a name"):
        metrics.Gauge("")


def test_what_went_wrong_is_listed_as_cluster_events():
    @obsray.remote(max_retries=0)
    def dies():
        os._exit(3)

    with pytest.raises(exceptions.WorkerCrashedError):
        obsray.get(dies.remote())
    found = state.list_cluster_events(filters=[("source_type", "=", "worker_died")], detail=True)
    (row,) = [row for row in found if "exited with code 3 while running dies" in row.message]
    assert row.severity == "ERROR" and row.custom_fields["cause"] == "exit_code"
    assert len(state.list_cluster_events(limit=1)) == 1
    with pytest.raises(ValueError):
        state.list_cluster_events(limit=0)
    with pytest.raises(ValueError, match="the keys are"):
        state.list_cluster_events(filters=[("no", "=", "x")])
