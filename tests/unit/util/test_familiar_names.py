"""Programs import the same thing by several names; all of them lead to it."""

from __future__ import annotations

import importlib

import pytest

import obsray


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("runtime_context", {"RuntimeContext", "get_runtime_context"}),
        ("remote_function", {"RemoteFunction"}),
        ("types", {"ObjectRef", "ObjectRefGenerator"}),
        ("util.serialization", {"register_serializer", "deregister_serializer"}),
        ("util.debug", {"log_once"}),
        ("util.check_serialize", {"inspect_serializability"}),
        ("actor", {"ActorClass", "ActorHandle", "ActorMethod", "exit_actor"}),
        ("dag.input_node", {"InputNode", "InputAttributeNode"}),
        ("dag.output_node", {"MultiOutputNode"}),
        ("dag.function_node", {"FunctionNode"}),
        ("dag.class_node", {"ClassNode", "ClassMethodNode"}),
        ("dag.dag_node", {"DAGNode"}),
        ("dag.compiled_dag_node", {"CompiledDAG"}),
        ("util.multiprocessing", {"Pool", "AsyncResult"}),
        ("util.multiprocessing.pool", {"Pool", "AsyncResult"}),
        ("util.collective.collective", {"init_collective_group", "allreduce", "get_rank"}),
        ("util.state.api", {"list_tasks", "get_actor", "summarize_tasks", "get_log", "StateApiClient"}),
        ("util.annotations", {"PublicAPI", "DeveloperAPI", "Deprecated"}),
        ("job_submission", {"JobSubmissionClient", "JobStatus", "JobInfo", "JobDetails", "JobType", "DriverInfo"}),
    ],
)
def test_a_familiar_module_has_the_familiar_names(module, names):
    found = importlib.import_module(f"obsray.{module}")
    assert names <= set(found.__all__)
    for name in names:
        assert getattr(found, name).__doc__


def test_an_aliased_name_is_the_thing_itself():
    assert obsray.types.ObjectRef is obsray.ObjectRef
    assert obsray.util.serialization.register_serializer is obsray.util.register_serializer
    assert isinstance(obsray.remote(lambda: 1), obsray.remote_function.RemoteFunction)

    assert obsray.ObjectID is obsray.ObjectRef
    assert obsray.dag.input_node.InputNode is obsray.dag.InputNode


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("from obsray import data", "the libraries on top of it are not there"),
        ("import obsray.train", "the libraries on top of it are not there"),
        ("from obsray.util import rpdb", "obsray debug"),
        ("import obsray.util.iter", "map_unordered"),
    ],
)
def test_an_import_of_what_is_not_there_says_what_to_do_instead(statement, says):
    with pytest.raises(ModuleNotFoundError, match=says):
        exec(statement, {})
    with pytest.raises(ImportError, match="no_such_thing"):
        exec("from obsray import no_such_thing", {})


def test_marks_of_libraries_change_nothing_but_what_is_written_down():
    from obsray.util.annotations import Deprecated, DeveloperAPI, PublicAPI, RayDeprecationWarning

    @PublicAPI(stability="beta")
    class Marked:
        @DeveloperAPI
        def method(self):
            return 1

    @PublicAPI
    @Deprecated(message="use the other", warning=True)
    def old(value):
        return value

    @Deprecated(warning=True)
    class Older:
        pass

    assert Marked().method() == 1
    with pytest.warns(RayDeprecationWarning, match="use the other") as caught:
        assert old(3) == 3
    assert caught[0].filename == __file__
    with pytest.warns(RayDeprecationWarning, match="Older is deprecated"):
        Older()
    with pytest.raises(ValueError, match="stability"):
        PublicAPI(stability="solid")


def test_ids_are_made_of_bytes_or_hex():
    for kind in (obsray.ActorID, obsray.NodeID, obsray.UniqueID, obsray.JobID, obsray.PlacementGroupID):
        made = kind(bytes(range(kind.size())))
        assert kind.from_hex(made.hex()) == made == kind(made.binary()) and not made.is_nil()
        assert len(made.binary()) == kind.size() and kind.nil().is_nil()
        drawn = kind.from_random()
        assert type(drawn) is kind and len(drawn.binary()) == kind.size() and drawn != kind.from_random()
        assert bytes(made) == made.binary()
        with pytest.raises(TypeError, match="from_hex"):
            kind(made.hex())
        with pytest.raises(ValueError, match="bytes"):
            kind(b"short")


def test_conditions_on_labels_that_are_none_are_value_errors():
    from obsray.util.scheduling_strategies import In, NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy, NotIn

    wrong = [
        lambda: In(123),
        lambda: NotIn(["a"]),
        lambda: In(),
        lambda: NodeLabelSchedulingStrategy({1: In("a")}),
        lambda: NodeLabelSchedulingStrategy({"a": "b"}),
        lambda: NodeLabelSchedulingStrategy({"a": In("b")}, soft=["c"]),
    ]
    for one in wrong:
        with pytest.raises(ValueError, match=r"string|In\W|at least one"):
            one()
    node = obsray.NodeID(bytes(range(8)))
    assert NodeAffinitySchedulingStrategy(node, soft=True).node_id == node.hex()
    with pytest.raises(ValueError, match="_spill_on_unavailable=True"):
        NodeAffinitySchedulingStrategy(node, soft=False, _fail_on_unavailable=True)
    with pytest.raises(ValueError, match="soft=True"):
        NodeAffinitySchedulingStrategy(node, soft=False, _spill_on_unavailable=True)


def test_settings_by_their_names_in_ray_are_ours_or_are_said_to_have_no_effect():
    from obsray.config import translated

    assert translated({"max_direct_call_object_size": 1000, "idle_worker_killing_time_threshold_ms": 500}) == {
        "inline_bytes_max": 1000, "worker_idle_seconds": 0.5,
    }  # fmt: skip
    assert translated({"task_oom_retries": 2}) == {"oom_retries_max": 2}
    with pytest.warns(RuntimeWarning, match="'health_check_period_ms' of Ray has no effect: node_heartbeat_seconds"):
        assert translated({"health_check_period_ms": 10, "workers_max": 3, "zz": 1}) == {"workers_max": 3, "zz": 1}


def test_a_gpu_by_its_name_is_a_resource():
    from obsray.core.options import demanded
    from obsray.util.accelerators import NVIDIA_H100

    assert demanded({"num_gpus": 1, "accelerator_type": NVIDIA_H100}, 1)["accelerator_type:H100"] > 0
