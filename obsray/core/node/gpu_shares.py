"""What is told of GPUs that are set aside: which of them, how much of each, for whom, and until when.

Pure: a turn's step in, records out. Of work in a bundle both are told: that the bundle holds the GPU, and that a worker
uses the bundle's.
"""

from __future__ import annotations

from obsray.core.node.bundles import Bundle, Group
from obsray.core.node.demands import Lease
from obsray.core.node.resources import UNIT, Resources
from obsray.core.node.step import Step
from obsray.ids import NIL_TASK, NIL_WORKER

_U32 = 0xFFFFFFFF
#: What does not fit its field is told as the last that does, as in ``gpu_found``.
_GPU_MAX = 255


def tell_lease_begins(step: Step, lease: Lease) -> None:
    """A worker has GPUs from now on."""
    group, bundle = _bundle_of(lease)
    for gpu, amount in lease.place.shares[lease.key].devices.items():
        step.emit.gpu_reserved(
            step.time_ns, min(gpu, _GPU_MAX), amount / UNIT, lease.worker.id, lease.key & _U32, group, bundle,
            lease.demand.runtime.job & _U32,
        )  # fmt: skip


def tell_lease_ends(step: Step, lease: Lease) -> None:
    """... and from now on no more; its share must still be there."""
    group, bundle = _bundle_of(lease)
    for gpu, amount in lease.place.shares[lease.key].devices.items():
        step.emit.gpu_released(
            step.time_ns, min(gpu, _GPU_MAX), amount / UNIT, lease.worker.id, lease.key & _U32, group, bundle,
            step.now - lease.granted_at,
        )  # fmt: skip


def tell_bundle_holds(step: Step, resources: Resources, group: Group, bundle: Bundle) -> None:
    """A bundle of a group has GPUs from now on."""
    bundle.held_at = step.now
    for gpu, amount in resources.shares[bundle.share].devices.items():
        step.emit.gpu_reserved(
            step.time_ns, min(gpu, _GPU_MAX), amount / UNIT, NIL_WORKER, 0, group.id, bundle.index, group.job & _U32
        )


def tell_bundle_lets_go(step: Step, resources: Resources, group: Group, bundle: Bundle) -> None:
    """... and from now on no more; its share must still be there."""
    for gpu, amount in resources.shares[bundle.share].devices.items():
        step.emit.gpu_released(
            step.time_ns,
            min(gpu, _GPU_MAX),
            amount / UNIT,
            NIL_WORKER,
            0,
            group.id,
            bundle.index,
            step.now - bundle.held_at,
        )


def _bundle_of(lease: Lease) -> tuple[bytes, int]:
    return (lease.demand.placement.group, lease.bundle.index) if lease.bundle is not None else (NIL_TASK, -1)
