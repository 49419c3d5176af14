"""References, generators and ids under the name of Ray's inside that its own examples import them by."""

from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.streams import DynamicObjectRefGenerator, ObjectRefGenerator
from obsray.typed_ids import ActorID, FunctionID, JobID, NodeID, PlacementGroupID, TaskID, UniqueID, WorkerID

__all__ = [
    "ActorID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "NodeID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
]
