"""Collective operations of actors, tasks and drivers over numpy arrays and torch tensors, in place.

    from obsray.util import collective as col

    col.init_collective_group(world_size=4, rank=rank, group_name="gradients")   # in each of the four
    col.allreduce(gradient, "gradients")

Data goes from member to member over sockets, round a ring; nothing passes through an actor. Whatever fails, fails
for all members with a ``CollectiveError``: ``CollectiveMismatchError`` if they did not ask for the same (the group can
be used on), ``CollectiveTimeoutError`` if one is late, ``CollectiveMemberDiedError`` if one is gone (the group is
broken: destroy it everywhere and form it again). Members may be on any node of a cluster: on one machine they are
connected by unix sockets, between machines by TCP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from obsray.core import api
from obsray.core.protocol.lifecycle import CollectiveState
from obsray.errors import CollectiveError
from obsray.util.collective.group import Group, Words, shape_words
from obsray.util.collective.rendezvous import key_of, rendezvous
from obsray.util.collective.types import Backend, ReduceOp, Tensor, ufunc_of

DEFAULT = "default"
#: Milliseconds that members wait for one another.
TIMEOUT_MS = 30_000

_lock = threading.Lock()
_groups: dict[str, Group] = {}

_Prepared = tuple[Words, int, Callable[[float], None]]


# --- groups ------------------------------------------------------------------------------------------------------


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str | Backend = Backend.OBSRAY,
    group_name: str = DEFAULT,
    gloo_timeout: int = TIMEOUT_MS,
) -> None:
    """Become member ``rank`` of a group of ``world_size``; waits for the others.

    ``gloo_timeout`` (milliseconds, for any backend) is how long members wait for one another, now and in every
    operation. Backends differ in name only. Raises ValueError and TypeError for bad arguments, RuntimeError if this
    process is a member already, CollectiveError if the group cannot be formed.
    """
    chosen = Backend.of(backend)
    _check_name(group_name)
    for name, value in (("world_size", world_size), ("rank", rank), ("gloo_timeout", gloo_timeout)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: must be a whole number")
    if world_size < 1 or not 0 <= rank < world_size or gloo_timeout < 1:
        raise ValueError(
            f"world_size={world_size}, rank={rank}, gloo_timeout={gloo_timeout}: ranks count from 0 to world_size - 1, "
            "and the time must be positive"
        )
    session = api.session()
    with _lock:
        if _current(group_name) is not None:
            raise RuntimeError(f"this process is a member of group {group_name!r} already: destroy it first")
        group = _groups[group_name] = Group(session, group_name, rank, world_size, chosen, gloo_timeout / 1000)
    try:
        group.form()
    except BaseException:
        with _lock:
            if _groups.get(group_name) is group:
                del _groups[group_name]
        raise


def create_collective_group(
    actors: Sequence[Any],
    world_size: int,
    ranks: Sequence[int],
    backend: str | Backend = Backend.OBSRAY,
    group_name: str = DEFAULT,
    gloo_timeout: int = TIMEOUT_MS,
) -> None:
    """Declare, from anywhere, that ``actors[i]`` is member ``ranks[i]``; each joins with its first operation.

    Raises ValueError unless there is one actor for each rank, RuntimeError if the group was declared already.
    """
    chosen = Backend.of(backend)
    _check_name(group_name)
    if len(actors) != world_size or sorted(ranks) != list(range(world_size)):
        raise ValueError(f"{len(actors)} actors with ranks {list(ranks)}: need one for each of {world_size} ranks")
    if not all(isinstance(actor, api.ActorHandle) for actor in actors) or len(set(actors)) != len(actors):
        raise ValueError("actors must be different actor handles")
    facts = {
        "ranks": {actor._actor.hex(): rank for actor, rank in zip(actors, ranks, strict=True)},
        "members": world_size,
        "backend": chosen.value,
        "timeout_ms": gloo_timeout,
    }
    if not api.get(rendezvous().declare.remote(key_of(group_name), facts)):
        raise RuntimeError(f"group {group_name!r} was declared already: destroy it first")


def destroy_collective_group(group_name: str = DEFAULT) -> None:
    """Leave the group, and forget its declaration. Does nothing if there is none."""
    _check_name(group_name)
    with _lock:
        group = _groups.pop(group_name, None)
    if group is not None:
        group.leave()
    if api.is_initialized():
        api.get(rendezvous().withdraw.remote(key_of(group_name)))


def is_group_initialized(group_name: str = DEFAULT) -> bool:
    """Whether this process is a member."""
    return _member(group_name) is not None


def get_rank(group_name: str = DEFAULT) -> int:
    """This process' rank, -1 if it is no member."""
    group = _member(group_name)
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = DEFAULT) -> int:
    """The number of members, -1 if this process is none."""
    group = _member(group_name)
    return -1 if group is None else group.members


def nccl_available() -> bool:
    """False: the backend of that name works, through host memory."""
    return False


def gloo_available() -> bool:
    """True: the backend of that name is obsray's own ring."""
    return True


def _check_name(group_name: str) -> None:
    if not isinstance(group_name, str) or not group_name:
        raise ValueError(f"group_name={group_name!r}: must be a text that is not empty")


def _current(group_name: str) -> Group | None:
    """The membership that counts now. Called with the lock held."""
    group = _groups.get(group_name)
    if group is None:
        return None
    executor = group.session.executor
    in_actor = executor is None or executor.actor is not None
    # A task's membership ends with the task: its process goes on with another one.
    if group.session.closed or (not in_actor and group.task != group._running_task()):
        del _groups[group_name]
        group.leave()
        return None
    return group


def _member(group_name: str) -> Group | None:
    with _lock:
        group = _current(group_name)
    return None if group is None or group.state is CollectiveState.FORMING else group


def _group(group_name: str) -> Group:
    """The group to operate in; an actor that was declared a member joins now."""
    _check_name(group_name)
    group = _member(group_name)
    if group is not None:
        return group
    actor = api.get_runtime_context().get_actor_id()
    facts = api.get(rendezvous().declaration.remote(key_of(group_name)))
    if actor is None or facts is None or actor not in facts["ranks"]:
        raise CollectiveError(
            f"this process is no member of group {group_name!r}: call init_collective_group() in it, or declare it "
            "with create_collective_group()",
            group_name,
        )
    init_collective_group(facts["members"], facts["ranks"][actor], facts["backend"], group_name, facts["timeout_ms"])
    return _group(group_name)


# --- operations --------------------------------------------------------------------------------------------------


def allreduce(tensor: Any, group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM) -> None:
    """Replace ``tensor`` with what the members' tensors reduce to; all of them get the same bits."""
    group = _group(group_name)

    def prepare() -> _Prepared:
        mine = Tensor(tensor, writes=True)
        ufunc = ufunc_of(op, mine.work.dtype)

        def body(deadline: float) -> None:
            group.all_reduce(mine.flat, ufunc, deadline)
            mine.finish()

        return {**shape_words(mine), "op": int(op)}, mine.work.nbytes, body

    group.operate("allreduce", prepare)


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM) -> None:
    """As ``allreduce``, but only the tensor of ``dst_rank`` changes."""
    group = _group(group_name)

    def prepare() -> _Prepared:
        _check_rank(group, dst_rank, "dst_rank")
        mine = Tensor(tensor, writes=group.rank == dst_rank)
        ufunc = ufunc_of(op, mine.work.dtype)

        def body(deadline: float) -> None:
            group.chain(mine.flat, dst_rank, ufunc, deadline)
            if group.rank == dst_rank:
                mine.finish()

        return {**shape_words(mine), "op": int(op), "dst_rank": dst_rank}, mine.work.nbytes, body

    group.operate("reduce", prepare)


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = DEFAULT) -> None:
    """Replace the tensor of every member with that of ``src_rank``."""
    group = _group(group_name)

    def prepare() -> _Prepared:
        _check_rank(group, src_rank, "src_rank")
        mine = Tensor(tensor, writes=group.rank != src_rank)

        def body(deadline: float) -> None:
            group.chain(mine.flat, src_rank, None, deadline)
            if group.rank != src_rank:
                mine.finish()

        return {**shape_words(mine), "src_rank": src_rank}, mine.work.nbytes, body

    group.operate("broadcast", prepare)


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = DEFAULT) -> None:
    """Write the tensor of rank i into ``tensor_list[i]``, for all members."""
    group = _group(group_name)

    def prepare() -> _Prepared:
        mine = Tensor(tensor, writes=False)
        all_ = _list_of(group, tensor_list, mine, writes=True)

        def body(deadline: float) -> None:
            np.copyto(all_[group.rank].work, mine.work)
            group.all_gather([each.flat for each in all_], deadline)
            for each in all_:
                each.finish()

        return shape_words(mine), mine.work.nbytes, body

    group.operate("allgather", prepare)


def reducescatter(tensor: Any, tensor_list: list[Any], group_name: str = DEFAULT, op: ReduceOp = ReduceOp.SUM) -> None:
    """Write into ``tensor`` of rank i what ``tensor_list[i]`` of all members reduces to. The lists do not change."""
    group = _group(group_name)

    def prepare() -> _Prepared:
        mine = Tensor(tensor, writes=True)
        all_ = _list_of(group, tensor_list, mine, writes=False)
        ufunc = ufunc_of(op, mine.work.dtype)

        def body(deadline: float) -> None:
            parts = [each.flat.copy() for each in all_]
            group.reduce_scatter(parts, ufunc, deadline)
            np.copyto(mine.flat, parts[group.rank])
            mine.finish()

        return {**shape_words(mine), "op": int(op)}, mine.work.nbytes * group.members, body

    group.operate("reducescatter", prepare)


def send(tensor: Any, dst_rank: int, group_name: str = DEFAULT) -> None:
    """Send ``tensor`` to ``dst_rank``, which has to ``recv`` it; waits until it does."""
    _one_way(tensor, dst_rank, group_name, sends=True)


def recv(tensor: Any, src_rank: int, group_name: str = DEFAULT) -> None:
    """Replace ``tensor`` with the one that ``src_rank`` sends."""
    _one_way(tensor, src_rank, group_name, sends=False)


def _one_way(tensor: Any, rank: int, group_name: str, sends: bool) -> None:
    group = _group(group_name)
    _check_rank(group, rank, "dst_rank" if sends else "src_rank")
    if rank == group.rank:
        raise ValueError(f"rank {rank} is this process itself")

    def prepare() -> _Prepared:
        mine = Tensor(tensor, writes=not sends)

        def body(deadline: float) -> None:
            group.one_way(mine.flat, rank, sends, deadline)
            if not sends:
                mine.finish()

        return shape_words(mine), mine.work.nbytes, body

    names = ("send", "recv") if sends else ("recv", "send")
    group.operate(names[0], prepare, [rank], names[1])


def barrier(group_name: str = DEFAULT) -> None:
    """Wait until every member is here."""
    group = _group(group_name)
    group.operate("barrier", lambda: ({}, 0, lambda deadline: None))


def _check_rank(group: Group, rank: Any, name: str) -> None:
    if not isinstance(rank, int) or not 0 <= rank < group.members:
        raise ValueError(f"{name}={rank!r}: group {group.name!r} has the ranks 0 to {group.members - 1}")


def _list_of(group: Group, given: Any, like: Tensor, writes: bool) -> list[Tensor]:
    if not isinstance(given, (list, tuple)) or len(given) != group.members:
        raise ValueError(f"tensor_list must be a list of {group.members} tensors, one for each member")
    found = [Tensor(each, writes) for each in given]
    for rank, each in enumerate(found):
        if (each.work.dtype, each.work.shape) != (like.work.dtype, like.work.shape):
            raise ValueError(
                f"tensor_list[{rank}] is {each.work.dtype} of shape {each.work.shape}, "
                f"tensor is {like.work.dtype} of {like.work.shape}"
            )
    return found


def _several_devices(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            f"{name}(): a member has one tensor here; make one member (actor or task) for each GPU and have each call "
            f"{name.removesuffix('_multigpu')}()"
        )

    refuse.__name__, refuse.__doc__ = name, "Refused: a member has one tensor."
    return refuse


allreduce_multigpu = _several_devices("allreduce_multigpu")
reduce_multigpu = _several_devices("reduce_multigpu")
broadcast_multigpu = _several_devices("broadcast_multigpu")
allgather_multigpu = _several_devices("allgather_multigpu")
reducescatter_multigpu = _several_devices("reducescatter_multigpu")
send_multigpu = _several_devices("send_multigpu")
recv_multigpu = _several_devices("recv_multigpu")


def synchronize(gpu_id: int = 0) -> None:
    """Nothing to do: an operation is done when it returns."""


__all__ = [
    "Backend", "ReduceOp", "allgather", "allgather_multigpu", "allreduce", "allreduce_multigpu", "barrier", "broadcast",
    "broadcast_multigpu", "create_collective_group", "destroy_collective_group", "get_collective_group_size",
    "get_rank", "gloo_available", "init_collective_group", "is_group_initialized", "nccl_available", "recv",
    "recv_multigpu", "reduce", "reduce_multigpu", "reducescatter", "reducescatter_multigpu", "send", "send_multigpu",
    "synchronize",
]  # fmt: skip
