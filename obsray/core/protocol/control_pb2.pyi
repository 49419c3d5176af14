# Generated from obsray/core/protocol/control.proto by scripts/generate_protocol.py; edit that and run this.
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_ALIVE: _ClassVar[NodeState]
    NODE_STATE_SUSPECTED: _ClassVar[NodeState]
    NODE_STATE_DEAD: _ClassVar[NodeState]

class NodeStanding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STANDING_MEMBER: _ClassVar[NodeStanding]
    NODE_STANDING_UNKNOWN: _ClassVar[NodeStanding]
    NODE_STANDING_FENCED: _ClassVar[NodeStanding]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_ENDED: _ClassVar[JobState]

class ActorState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTOR_STATE_DEPENDENCIES_UNREADY: _ClassVar[ActorState]
    ACTOR_STATE_PENDING_CREATION: _ClassVar[ActorState]
    ACTOR_STATE_ALIVE: _ClassVar[ActorState]
    ACTOR_STATE_RESTARTING: _ClassVar[ActorState]
    ACTOR_STATE_DEAD: _ClassVar[ActorState]

class GroupState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GROUP_STATE_PENDING: _ClassVar[GroupState]
    GROUP_STATE_PREPARED: _ClassVar[GroupState]
    GROUP_STATE_CREATED: _ClassVar[GroupState]
    GROUP_STATE_REMOVED: _ClassVar[GroupState]
    GROUP_STATE_RESCHEDULING: _ClassVar[GroupState]

class Table(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TABLE_ALL: _ClassVar[Table]
    TABLE_NODES: _ClassVar[Table]
    TABLE_JOBS: _ClassVar[Table]
    TABLE_ACTORS: _ClassVar[Table]
    TABLE_KEYS: _ClassVar[Table]
    TABLE_FUNCTIONS: _ClassVar[Table]
    TABLE_GROUPS: _ClassVar[Table]
NODE_STATE_ALIVE: NodeState
NODE_STATE_SUSPECTED: NodeState
NODE_STATE_DEAD: NodeState
NODE_STANDING_MEMBER: NodeStanding
NODE_STANDING_UNKNOWN: NodeStanding
NODE_STANDING_FENCED: NodeStanding
JOB_STATE_RUNNING: JobState
JOB_STATE_ENDED: JobState
ACTOR_STATE_DEPENDENCIES_UNREADY: ActorState
ACTOR_STATE_PENDING_CREATION: ActorState
ACTOR_STATE_ALIVE: ActorState
ACTOR_STATE_RESTARTING: ActorState
ACTOR_STATE_DEAD: ActorState
GROUP_STATE_PENDING: GroupState
GROUP_STATE_PREPARED: GroupState
GROUP_STATE_CREATED: GroupState
GROUP_STATE_REMOVED: GroupState
GROUP_STATE_RESCHEDULING: GroupState
TABLE_ALL: Table
TABLE_NODES: Table
TABLE_JOBS: Table
TABLE_ACTORS: Table
TABLE_KEYS: Table
TABLE_FUNCTIONS: Table
TABLE_GROUPS: Table

class NodeDescription(_message.Message):
    __slots__ = ("node", "host", "pid", "address", "resources", "labels", "version", "name", "session", "head")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    host: str
    pid: int
    address: str
    resources: _containers.ScalarMap[str, int]
    labels: _containers.ScalarMap[str, str]
    version: str
    name: str
    session: str
    head: bool
    def __init__(self, node: _Optional[bytes] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., address: _Optional[str] = ..., resources: _Optional[_Mapping[str, int]] = ..., labels: _Optional[_Mapping[str, str]] = ..., version: _Optional[str] = ..., name: _Optional[str] = ..., session: _Optional[str] = ..., head: _Optional[bool] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("description", "incarnation", "state", "registered_at_ns", "state_changed_at_ns", "reason")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    description: NodeDescription
    incarnation: int
    state: NodeState
    registered_at_ns: int
    state_changed_at_ns: int
    reason: str
    def __init__(self, description: _Optional[_Union[NodeDescription, _Mapping]] = ..., incarnation: _Optional[int] = ..., state: _Optional[_Union[NodeState, str]] = ..., registered_at_ns: _Optional[int] = ..., state_changed_at_ns: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RegisterNodeRequest(_message.Message):
    __slots__ = ("request_id", "node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    node: NodeDescription
    def __init__(self, request_id: _Optional[bytes] = ..., node: _Optional[_Union[NodeDescription, _Mapping]] = ...) -> None: ...

class RegisterNodeReply(_message.Message):
    __slots__ = ("incarnation", "heartbeat_seconds", "suspect_seconds", "dead_seconds", "jobs_above", "control_addresses", "control_epoch")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    JOBS_ABOVE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CONTROL_EPOCH_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    heartbeat_seconds: float
    suspect_seconds: float
    dead_seconds: float
    jobs_above: int
    control_addresses: _containers.RepeatedScalarFieldContainer[str]
    control_epoch: int
    def __init__(self, incarnation: _Optional[int] = ..., heartbeat_seconds: _Optional[float] = ..., suspect_seconds: _Optional[float] = ..., dead_seconds: _Optional[float] = ..., jobs_above: _Optional[int] = ..., control_addresses: _Optional[_Iterable[str]] = ..., control_epoch: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("node", "incarnation", "available", "backlog_tasks")
    class AvailableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_TASKS_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    incarnation: int
    available: _containers.ScalarMap[str, int]
    backlog_tasks: int
    def __init__(self, node: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., available: _Optional[_Mapping[str, int]] = ..., backlog_tasks: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("standing", "control_addresses", "control_epoch")
    STANDING_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CONTROL_EPOCH_FIELD_NUMBER: _ClassVar[int]
    standing: NodeStanding
    control_addresses: _containers.RepeatedScalarFieldContainer[str]
    control_epoch: int
    def __init__(self, standing: _Optional[_Union[NodeStanding, str]] = ..., control_addresses: _Optional[_Iterable[str]] = ..., control_epoch: _Optional[int] = ...) -> None: ...

class ReportUnreachableRequest(_message.Message):
    __slots__ = ("node", "by", "by_incarnation", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    BY_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    by: bytes
    by_incarnation: int
    reason: str
    def __init__(self, node: _Optional[bytes] = ..., by: _Optional[bytes] = ..., by_incarnation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ReportUnreachableReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveNodeRequest(_message.Message):
    __slots__ = ("request_id", "node", "incarnation", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    node: bytes
    incarnation: int
    reason: str
    def __init__(self, request_id: _Optional[bytes] = ..., node: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaveNodeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeclareNode(_message.Message):
    __slots__ = ("node", "incarnation", "state", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    incarnation: int
    state: NodeState
    reason: str
    def __init__(self, node: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., state: _Optional[_Union[NodeState, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job", "state", "driver", "driver_pid", "entrypoint", "namespace", "node", "started_at_ns", "ended_at_ns", "cause")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    DRIVER_PID_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    job: int
    state: JobState
    driver: bytes
    driver_pid: int
    entrypoint: str
    namespace: str
    node: bytes
    started_at_ns: int
    ended_at_ns: int
    cause: int
    def __init__(self, job: _Optional[int] = ..., state: _Optional[_Union[JobState, str]] = ..., driver: _Optional[bytes] = ..., driver_pid: _Optional[int] = ..., entrypoint: _Optional[str] = ..., namespace: _Optional[str] = ..., node: _Optional[bytes] = ..., started_at_ns: _Optional[int] = ..., ended_at_ns: _Optional[int] = ..., cause: _Optional[int] = ...) -> None: ...

class StartJobRequest(_message.Message):
    __slots__ = ("request_id", "driver", "driver_pid", "entrypoint", "namespace", "node", "job")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    DRIVER_PID_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    driver: bytes
    driver_pid: int
    entrypoint: str
    namespace: str
    node: bytes
    job: int
    def __init__(self, request_id: _Optional[bytes] = ..., driver: _Optional[bytes] = ..., driver_pid: _Optional[int] = ..., entrypoint: _Optional[str] = ..., namespace: _Optional[str] = ..., node: _Optional[bytes] = ..., job: _Optional[int] = ...) -> None: ...

class StartJobReply(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: int
    def __init__(self, job: _Optional[int] = ...) -> None: ...

class EndJobRequest(_message.Message):
    __slots__ = ("request_id", "job", "cause")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    job: int
    cause: int
    def __init__(self, request_id: _Optional[bytes] = ..., job: _Optional[int] = ..., cause: _Optional[int] = ...) -> None: ...

class EndJobReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ActorDescription(_message.Message):
    __slots__ = ("actor", "class_name", "name", "namespace", "detached", "job", "owner", "restarts_max", "meta")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_MAX_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    actor: bytes
    class_name: str
    name: str
    namespace: str
    detached: bool
    job: int
    owner: bytes
    restarts_max: int
    meta: bytes
    def __init__(self, actor: _Optional[bytes] = ..., class_name: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., detached: _Optional[bool] = ..., job: _Optional[int] = ..., owner: _Optional[bytes] = ..., restarts_max: _Optional[int] = ..., meta: _Optional[bytes] = ...) -> None: ...

class Actor(_message.Message):
    __slots__ = ("description", "state", "incarnation", "node", "worker", "address", "cause", "detail", "registered_at_ns", "state_changed_at_ns")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    description: ActorDescription
    state: ActorState
    incarnation: int
    node: bytes
    worker: bytes
    address: str
    cause: int
    detail: str
    registered_at_ns: int
    state_changed_at_ns: int
    def __init__(self, description: _Optional[_Union[ActorDescription, _Mapping]] = ..., state: _Optional[_Union[ActorState, str]] = ..., incarnation: _Optional[int] = ..., node: _Optional[bytes] = ..., worker: _Optional[bytes] = ..., address: _Optional[str] = ..., cause: _Optional[int] = ..., detail: _Optional[str] = ..., registered_at_ns: _Optional[int] = ..., state_changed_at_ns: _Optional[int] = ...) -> None: ...

class RegisterActorRequest(_message.Message):
    __slots__ = ("request_id", "actor", "node", "node_incarnation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    actor: ActorDescription
    node: bytes
    node_incarnation: int
    def __init__(self, request_id: _Optional[bytes] = ..., actor: _Optional[_Union[ActorDescription, _Mapping]] = ..., node: _Optional[bytes] = ..., node_incarnation: _Optional[int] = ...) -> None: ...

class RegisterActorReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpdateActorRequest(_message.Message):
    __slots__ = ("request_id", "actor", "node", "node_incarnation", "state", "incarnation", "worker", "address", "cause", "detail")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    actor: bytes
    node: bytes
    node_incarnation: int
    state: ActorState
    incarnation: int
    worker: bytes
    address: str
    cause: int
    detail: str
    def __init__(self, request_id: _Optional[bytes] = ..., actor: _Optional[bytes] = ..., node: _Optional[bytes] = ..., node_incarnation: _Optional[int] = ..., state: _Optional[_Union[ActorState, str]] = ..., incarnation: _Optional[int] = ..., worker: _Optional[bytes] = ..., address: _Optional[str] = ..., cause: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class UpdateActorReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetNamedActorRequest(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class GetNamedActorReply(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: Actor
    def __init__(self, actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class ListActorsRequest(_message.Message):
    __slots__ = ("namespace", "named_only", "living_only", "actors_max", "after")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAMED_ONLY_FIELD_NUMBER: _ClassVar[int]
    LIVING_ONLY_FIELD_NUMBER: _ClassVar[int]
    ACTORS_MAX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    named_only: bool
    living_only: bool
    actors_max: int
    after: bytes
    def __init__(self, namespace: _Optional[str] = ..., named_only: _Optional[bool] = ..., living_only: _Optional[bool] = ..., actors_max: _Optional[int] = ..., after: _Optional[bytes] = ...) -> None: ...

class ListActorsReply(_message.Message):
    __slots__ = ("actors", "more")
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    more: bool
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("resources", "selector")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.ScalarMap[str, int]
    selector: _containers.RepeatedCompositeFieldContainer[LabelTerm]
    def __init__(self, resources: _Optional[_Mapping[str, int]] = ..., selector: _Optional[_Iterable[_Union[LabelTerm, _Mapping]]] = ...) -> None: ...

class LabelTerm(_message.Message):
    __slots__ = ("label", "operator", "values")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    label: str
    operator: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, label: _Optional[str] = ..., operator: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class GroupDescription(_message.Message):
    __slots__ = ("group", "name", "namespace", "strategy", "detached", "job", "owner", "bundles")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    DETACHED_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    BUNDLES_FIELD_NUMBER: _ClassVar[int]
    group: bytes
    name: str
    namespace: str
    strategy: str
    detached: bool
    job: int
    owner: bytes
    bundles: _containers.RepeatedCompositeFieldContainer[Bundle]
    def __init__(self, group: _Optional[bytes] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., strategy: _Optional[str] = ..., detached: _Optional[bool] = ..., job: _Optional[int] = ..., owner: _Optional[bytes] = ..., bundles: _Optional[_Iterable[_Union[Bundle, _Mapping]]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("description", "state", "node", "nodes", "detail", "registered_at_ns", "state_changed_at_ns")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    description: GroupDescription
    state: GroupState
    node: bytes
    nodes: _containers.RepeatedScalarFieldContainer[bytes]
    detail: str
    registered_at_ns: int
    state_changed_at_ns: int
    def __init__(self, description: _Optional[_Union[GroupDescription, _Mapping]] = ..., state: _Optional[_Union[GroupState, str]] = ..., node: _Optional[bytes] = ..., nodes: _Optional[_Iterable[bytes]] = ..., detail: _Optional[str] = ..., registered_at_ns: _Optional[int] = ..., state_changed_at_ns: _Optional[int] = ...) -> None: ...

class RegisterGroupRequest(_message.Message):
    __slots__ = ("request_id", "group", "node", "node_incarnation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    group: GroupDescription
    node: bytes
    node_incarnation: int
    def __init__(self, request_id: _Optional[bytes] = ..., group: _Optional[_Union[GroupDescription, _Mapping]] = ..., node: _Optional[bytes] = ..., node_incarnation: _Optional[int] = ...) -> None: ...

class RegisterGroupReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpdateGroupRequest(_message.Message):
    __slots__ = ("request_id", "group", "node", "node_incarnation", "state", "nodes", "detail")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    group: bytes
    node: bytes
    node_incarnation: int
    state: GroupState
    nodes: _containers.RepeatedScalarFieldContainer[bytes]
    detail: str
    def __init__(self, request_id: _Optional[bytes] = ..., group: _Optional[bytes] = ..., node: _Optional[bytes] = ..., node_incarnation: _Optional[int] = ..., state: _Optional[_Union[GroupState, str]] = ..., nodes: _Optional[_Iterable[bytes]] = ..., detail: _Optional[str] = ...) -> None: ...

class UpdateGroupReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FindGroupRequest(_message.Message):
    __slots__ = ("group", "namespace", "name")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    group: bytes
    namespace: str
    name: str
    def __init__(self, group: _Optional[bytes] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class FindGroupReply(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: Group
    def __init__(self, group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class PutKeyRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "key", "value", "overwrite", "node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    namespace: str
    key: bytes
    value: bytes
    overwrite: bool
    node: bytes
    def __init__(self, request_id: _Optional[bytes] = ..., namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., overwrite: _Optional[bool] = ..., node: _Optional[bytes] = ...) -> None: ...

class PutKeyReply(_message.Message):
    __slots__ = ("written", "existed")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    written: bool
    existed: bool
    def __init__(self, written: _Optional[bool] = ..., existed: _Optional[bool] = ...) -> None: ...

class GetKeyRequest(_message.Message):
    __slots__ = ("namespace", "key")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    key: bytes
    def __init__(self, namespace: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class GetKeyReply(_message.Message):
    __slots__ = ("found", "value")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    def __init__(self, found: _Optional[bool] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteKeyRequest(_message.Message):
    __slots__ = ("request_id", "namespace", "key", "prefix", "node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    namespace: str
    key: bytes
    prefix: bool
    node: bytes
    def __init__(self, request_id: _Optional[bytes] = ..., namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., prefix: _Optional[bool] = ..., node: _Optional[bytes] = ...) -> None: ...

class DeleteKeyReply(_message.Message):
    __slots__ = ("keys_deleted",)
    KEYS_DELETED_FIELD_NUMBER: _ClassVar[int]
    keys_deleted: int
    def __init__(self, keys_deleted: _Optional[int] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("namespace", "prefix")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    prefix: bytes
    def __init__(self, namespace: _Optional[str] = ..., prefix: _Optional[bytes] = ...) -> None: ...

class ListKeysReply(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PutFunctionRequest(_message.Message):
    __slots__ = ("request_id", "hash", "blob", "name", "node")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    request_id: bytes
    hash: bytes
    blob: bytes
    name: str
    node: bytes
    def __init__(self, request_id: _Optional[bytes] = ..., hash: _Optional[bytes] = ..., blob: _Optional[bytes] = ..., name: _Optional[str] = ..., node: _Optional[bytes] = ...) -> None: ...

class PutFunctionReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFunctionRequest(_message.Message):
    __slots__ = ("hash",)
    HASH_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    def __init__(self, hash: _Optional[bytes] = ...) -> None: ...

class GetFunctionReply(_message.Message):
    __slots__ = ("blob", "name")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    blob: bytes
    name: str
    def __init__(self, blob: _Optional[bytes] = ..., name: _Optional[str] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ("rows_max", "tables")
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    rows_max: int
    tables: _containers.RepeatedScalarFieldContainer[Table]
    def __init__(self, rows_max: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[Table, str]]] = ...) -> None: ...

class KeySpace(_message.Message):
    __slots__ = ("namespace", "keys", "value_bytes")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    keys: int
    value_bytes: int
    def __init__(self, namespace: _Optional[str] = ..., keys: _Optional[int] = ..., value_bytes: _Optional[int] = ...) -> None: ...

class FunctionRow(_message.Message):
    __slots__ = ("hash", "name", "blob_bytes")
    HASH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    name: str
    blob_bytes: int
    def __init__(self, hash: _Optional[bytes] = ..., name: _Optional[str] = ..., blob_bytes: _Optional[int] = ...) -> None: ...

class GetStateReply(_message.Message):
    __slots__ = ("epoch", "sequence", "nodes", "jobs", "actors", "key_spaces", "functions", "truncated", "groups", "storage")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    KEY_SPACES_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    sequence: int
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    key_spaces: _containers.RepeatedCompositeFieldContainer[KeySpace]
    functions: _containers.RepeatedCompositeFieldContainer[FunctionRow]
    truncated: bool
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    storage: str
    def __init__(self, epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., key_spaces: _Optional[_Iterable[_Union[KeySpace, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[FunctionRow, _Mapping]]] = ..., truncated: _Optional[bool] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., storage: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("epoch", "after_sequence", "tables")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    after_sequence: int
    tables: _containers.RepeatedScalarFieldContainer[Table]
    def __init__(self, epoch: _Optional[int] = ..., after_sequence: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[Table, str]]] = ...) -> None: ...

class KeyChange(_message.Message):
    __slots__ = ("namespace", "key", "deleted")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    key: bytes
    deleted: bool
    def __init__(self, namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., deleted: _Optional[bool] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("sequence", "changed_at_ns", "node", "job", "actor", "key", "function", "group")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    changed_at_ns: int
    node: Node
    job: Job
    actor: Actor
    key: KeyChange
    function: FunctionRow
    group: Group
    def __init__(self, sequence: _Optional[int] = ..., changed_at_ns: _Optional[int] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ..., key: _Optional[_Union[KeyChange, _Mapping]] = ..., function: _Optional[_Union[FunctionRow, _Mapping]] = ..., group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("changes", "sequence")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    sequence: int
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., sequence: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("sequence", "incarnations", "nodes", "buried", "marked", "jobs", "jobs_ended", "spans", "actors", "actors_dead", "groups", "groups_removed", "keys", "functions", "answers")
    class Key(_message.Message):
        __slots__ = ("namespace", "key", "value")
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        key: bytes
        value: bytes
        def __init__(self, namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...
    class Function(_message.Message):
        __slots__ = ("hash", "name", "blob")
        HASH_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        BLOB_FIELD_NUMBER: _ClassVar[int]
        hash: bytes
        name: str
        blob: bytes
        def __init__(self, hash: _Optional[bytes] = ..., name: _Optional[str] = ..., blob: _Optional[bytes] = ...) -> None: ...
    class Span(_message.Message):
        __slots__ = ("span", "highest")
        SPAN_FIELD_NUMBER: _ClassVar[int]
        HIGHEST_FIELD_NUMBER: _ClassVar[int]
        span: int
        highest: int
        def __init__(self, span: _Optional[int] = ..., highest: _Optional[int] = ...) -> None: ...
    class Answer(_message.Message):
        __slots__ = ("method", "request_id", "reply")
        METHOD_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
        REPLY_FIELD_NUMBER: _ClassVar[int]
        method: str
        request_id: bytes
        reply: bytes
        def __init__(self, method: _Optional[str] = ..., request_id: _Optional[bytes] = ..., reply: _Optional[bytes] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    BURIED_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    JOBS_ENDED_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    ACTORS_DEAD_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    incarnations: int
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    buried: _containers.RepeatedScalarFieldContainer[bytes]
    marked: _containers.RepeatedScalarFieldContainer[bytes]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    jobs_ended: _containers.RepeatedScalarFieldContainer[int]
    spans: _containers.RepeatedCompositeFieldContainer[Snapshot.Span]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    actors_dead: _containers.RepeatedScalarFieldContainer[bytes]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    groups_removed: _containers.RepeatedScalarFieldContainer[bytes]
    keys: _containers.RepeatedCompositeFieldContainer[Snapshot.Key]
    functions: _containers.RepeatedCompositeFieldContainer[Snapshot.Function]
    answers: _containers.RepeatedCompositeFieldContainer[Snapshot.Answer]
    def __init__(self, sequence: _Optional[int] = ..., incarnations: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., buried: _Optional[_Iterable[bytes]] = ..., marked: _Optional[_Iterable[bytes]] = ..., jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., jobs_ended: _Optional[_Iterable[int]] = ..., spans: _Optional[_Iterable[_Union[Snapshot.Span, _Mapping]]] = ..., actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ..., actors_dead: _Optional[_Iterable[bytes]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., groups_removed: _Optional[_Iterable[bytes]] = ..., keys: _Optional[_Iterable[_Union[Snapshot.Key, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[Snapshot.Function, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[Snapshot.Answer, _Mapping]]] = ...) -> None: ...

class JournalEntry(_message.Message):
    __slots__ = ("monotonic_ns", "wall_ns", "register_node", "heartbeat", "leave_node", "declare_node", "start_job", "end_job", "register_actor", "update_actor", "put_key", "delete_key", "put_function", "register_group", "update_group")
    MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    WALL_NS_FIELD_NUMBER: _ClassVar[int]
    REGISTER_NODE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    LEAVE_NODE_FIELD_NUMBER: _ClassVar[int]
    DECLARE_NODE_FIELD_NUMBER: _ClassVar[int]
    START_JOB_FIELD_NUMBER: _ClassVar[int]
    END_JOB_FIELD_NUMBER: _ClassVar[int]
    REGISTER_ACTOR_FIELD_NUMBER: _ClassVar[int]
    UPDATE_ACTOR_FIELD_NUMBER: _ClassVar[int]
    PUT_KEY_FIELD_NUMBER: _ClassVar[int]
    DELETE_KEY_FIELD_NUMBER: _ClassVar[int]
    PUT_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REGISTER_GROUP_FIELD_NUMBER: _ClassVar[int]
    UPDATE_GROUP_FIELD_NUMBER: _ClassVar[int]
    monotonic_ns: int
    wall_ns: int
    register_node: RegisterNodeRequest
    heartbeat: HeartbeatRequest
    leave_node: LeaveNodeRequest
    declare_node: DeclareNode
    start_job: StartJobRequest
    end_job: EndJobRequest
    register_actor: RegisterActorRequest
    update_actor: UpdateActorRequest
    put_key: PutKeyRequest
    delete_key: DeleteKeyRequest
    put_function: PutFunctionRequest
    register_group: RegisterGroupRequest
    update_group: UpdateGroupRequest
    def __init__(self, monotonic_ns: _Optional[int] = ..., wall_ns: _Optional[int] = ..., register_node: _Optional[_Union[RegisterNodeRequest, _Mapping]] = ..., heartbeat: _Optional[_Union[HeartbeatRequest, _Mapping]] = ..., leave_node: _Optional[_Union[LeaveNodeRequest, _Mapping]] = ..., declare_node: _Optional[_Union[DeclareNode, _Mapping]] = ..., start_job: _Optional[_Union[StartJobRequest, _Mapping]] = ..., end_job: _Optional[_Union[EndJobRequest, _Mapping]] = ..., register_actor: _Optional[_Union[RegisterActorRequest, _Mapping]] = ..., update_actor: _Optional[_Union[UpdateActorRequest, _Mapping]] = ..., put_key: _Optional[_Union[PutKeyRequest, _Mapping]] = ..., delete_key: _Optional[_Union[DeleteKeyRequest, _Mapping]] = ..., put_function: _Optional[_Union[PutFunctionRequest, _Mapping]] = ..., register_group: _Optional[_Union[RegisterGroupRequest, _Mapping]] = ..., update_group: _Optional[_Union[UpdateGroupRequest, _Mapping]] = ...) -> None: ...
