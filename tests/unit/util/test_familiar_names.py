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


def test_a_gpu_by_its_name_is_a_resource():
    from obsray.core.options import demanded
    from obsray.util.accelerators import NVIDIA_H100

    assert demanded({"num_gpus": 1, "accelerator_type": NVIDIA_H100}, 1)["accelerator_type:H100"] > 0
