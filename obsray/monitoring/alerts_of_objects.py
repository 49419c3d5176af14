"""Alerts about objects: room, disk, transfers, loss."""

from __future__ import annotations

from obsray.monitoring.rules import CRITICAL, WARNING, Alert

_OBJECTS = "obsray-objects"

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ObsrayObjectStoreFillingUp",
        WARNING,
        "obsray_object_store_used_bytes / obsray_object_store_capacity_bytes > 0.8\n"
        "and predict_linear(obsray_object_store_used_bytes[15m], 1800) > obsray_object_store_capacity_bytes",
        "The object store of node {{ $labels.node }} is {{ $value | humanizePercentage }} full and "
        "will be full in half an hour",
        "At the rate of the last quarter of an hour the store is full within thirty minutes.",
        "Then objects are written to disk, which is slower, and what is being read stays where it is.",
        ("obsray list objects --sort=-bytes", "obsray status", "obsray list functions"),
        "Drop references that are not needed any more; objects are freed with the last of them.",
        _OBJECTS,
        "5m",
    ),
    Alert(
        "ObsrayObjectStoreFull",
        WARNING,
        "obsray_object_allocations_waiting > 0",
        "{{ $value }} processes wait for room in the object store of node {{ $labels.node }}",
        "Objects cannot be stored until others are written to disk or freed.",
        "The tasks that make them stand still, and fail after store_wait_seconds_max.",
        ("obsray list objects --sort=-bytes", "obsray status", "obsray list objects --filter state=SPILLED"),
        "Pinned objects cannot move: let go of arrays that came from get(), or make the store larger.",
        _OBJECTS,
        "2m",
    ),
    Alert(
        "ObsrayObjectAllocationFailed",
        CRITICAL,
        "increase(obsray_object_allocation_failures_total[10m]) > 0",
        "Node {{ $labels.node }} had no room for objects, in memory and on disk",
        "The store and the directory for spilled objects are full.",
        "Tasks and puts fail with ObjectStoreFullError.",
        ("obsray list objects --sort=-bytes", "obsray list objects --filter state=SPILLED", "obsray status"),
        "Free disk space below the session directory, raise spill_bytes_max, or hold fewer objects at once.",
        _OBJECTS,
    ),
    Alert(
        "ObsraySpillThrash",
        WARNING,
        "rate(obsray_object_spilled_bytes_total[5m]) > 5e7 and rate(obsray_object_restored_bytes_total[5m]) > 5e7",
        "Node {{ $labels.node }} writes objects to disk and reads them back, {{ $value | humanize1024 }}B/s",
        "What is written to disk is soon needed again.",
        "Work runs at the speed of the disk.",
        ("obsray list objects --filter state=SPILLED", "obsray status", "obsray list functions"),
        "The working set is larger than the store: fewer tasks at once, or a larger store.",
        _OBJECTS,
        "10m",
    ),
    Alert(
        "ObsrayObjectsLost",
        WARNING,
        "increase(obsray_objects_lost_total[10m]) > 0",
        "Objects of node {{ $labels.node }} can no longer be read",
        "A spilled file is damaged, or the last copy of an object went with its node.",
        "Tasks that made them run again if somebody needs them; what was put by hand is gone.",
        ("obsray list objects --filter state=LOST", "obsray list nodes", "obsray story OBJECT"),
        "If no node died, check the disk of that node.",
        _OBJECTS,
    ),
    Alert(
        "ObsrayObjectRebuildFailed",
        CRITICAL,
        "increase(obsray_object_rebuild_failures_total[10m]) > 0",
        "Lost values cannot be made again",
        "A lost object was needed, and its task may not run again: no retries left, or it was put by hand.",
        "Whoever waits for it gets ObjectLostError.",
        ("obsray list objects --filter state=LOST", "obsray list tasks --filter state=FAILED", "obsray story OBJECT"),
        "Run the program again; allow more retries for functions whose results are large.",
        _OBJECTS,
    ),
    Alert(
        "ObsrayObjectTransferStalled",
        CRITICAL,
        "sum by (cluster, node) (obsray_object_pulls_inflight) > 0\n"
        "unless sum by (cluster, node) (rate(obsray_object_received_bytes_total[5m])) > 0",
        "{{ $value }} objects are on their way to node {{ $labels.node }} and none arrives",
        "Transfers have begun, and for minutes not one was complete.",
        "Tasks wait for arguments that do not come.",
        ("obsray list objects --sort=-transfers", "obsray list nodes", "obsray logs node"),
        "Look at the network between the nodes; a node that is gone is noticed by itself, one that hangs late.",
        _OBJECTS,
        "2m",
    ),
    Alert(
        "ObsrayObjectTransfersFailing",
        WARNING,
        "increase(obsray_object_transfers_failed_total[10m]) > 5",
        "Objects of other nodes do not come to node {{ $labels.node }}",
        "Transfers break and are given up.",
        "Tasks start late or fail for lost arguments.",
        ("obsray list nodes", "obsray logs node", "obsray list objects --filter state=LOST"),
        "If no node died meanwhile, the network between them breaks connections.",
        _OBJECTS,
    ),
)
