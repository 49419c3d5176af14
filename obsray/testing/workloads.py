"""What virtual drivers do: programs chosen by name, ``workload(thread, **parameters)``.

A workload checks what it gets, so a wrong result is found where it is seen; errors must be explained by a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.core.runtime.calls import ActorClient
from obsray.errors import (
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    OwnerDiedError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    WorkerCrashedError,
)
from obsray.testing.agenda import MILLISECOND_NS
from obsray.testing.programs import Program, Sleep, Steps, Value

if TYPE_CHECKING:
    from obsray.testing.virtual_thread import VirtualThread

WORKLOADS: dict[str, Callable[..., Program]] = {}


class WrongResult(AssertionError):
    """A program saw something that cannot be."""


def workload(code: Callable[..., Program]) -> Callable[..., Program]:
    """Make a program available to scenarios under its own name."""
    WORKLOADS[code.__name__] = code
    return code


# --- what programs of drivers share ----------------------------------------------------------------------------


def settled(thread: VirtualThread, identifier: bytes) -> Steps[Value | None]:
    """The value, or None for an error that faults excuse. Raises for one that nothing excuses."""
    try:
        (value,) = yield from thread.get([identifier])
    except RayError as error:
        excuse(thread, identifier, error)
        return None
    return value


def excuse(thread: VirtualThread, identifier: bytes, error: RayError) -> None:
    """Raise WrongResult unless some fault or the program itself explains this error."""
    simulator = thread.process.simulator
    faults = simulator.ledger.deaths + simulator.ledger.cuts
    match error:
        case TaskPlacementGroupRemoved() | ActorPlacementGroupRemoved():
            excused = simulator.ledger.groups_removed > 0
        case TaskCancelledError():
            excused = simulator.ledger.cancels > 0
        case ObjectFreedError():
            # Two nodes that lost each other for a moment have let go of what the other's processes held.
            excused = simulator.ledger.cuts > 0
        case OwnerDiedError() | ObjectLostError():
            # What a process owns ends with it, also if it ends in order.
            excused = faults + simulator.ledger.exits + simulator.ledger.files_lost > 0
        case ActorDiedError():
            excused = faults > 0 or error.actor_init_failed
        case ActorUnavailableError():
            excused = faults > 0
        case NodeDiedError():
            # What it had begun nobody knows.
            excused = faults > 0
        case WorkerCrashedError():
            excused = simulator.ledger.crashed_too_often(identifier[:16])
        case RayTaskError():
            excused = "UserError" in str(error) or simulator.ledger.cancels > 0
        case ObjectStoreFullError():
            excused = simulator.scenario.store_may_be_full
        case GetTimeoutError():
            excused = False
        case _:
            excused = False
    if not excused:
        raise WrongResult(f"{thread.name}: {identifier.hex()} failed: {type(error).__name__}: {error}") from error


def expect(thread: VirtualThread, identifier: bytes, number: int) -> Program:
    """Get the value, which must be ``number`` unless a fault explains that there is none."""
    value = yield from settled(thread, identifier)
    if value is not None and value.number != number:
        raise WrongResult(f"{thread.name}: {identifier.hex()} is {value.number}, should be {number}")
    return value


def pause(thread: VirtualThread, ms_max: float) -> Program:
    """Compute something for a while."""
    yield Sleep(thread.process.chance.randint(0, int(ms_max * MILLISECOND_NS)))


# --- workloads -------------------------------------------------------------------------------------------------


def _batches(
    thread: VirtualThread, name: str, tasks: int, batch: int, parameters: tuple[int, ...] = (), **options: Any
) -> Program:
    """Submit in batches; get each result and let it go."""
    for start in range(0, tasks, batch):
        numbers = range(start, min(start + batch, tasks))
        submitted = [(number, thread.submit(name, number, *parameters, **options)) for number in numbers]
        for number, identifier in submitted:
            yield from expect(thread, identifier, number)
            thread.drop(identifier)


@workload
def no_ops(thread: VirtualThread, tasks: int, batch: int = 500, cpus: float = 1) -> Program:
    """Tasks that do nothing."""
    yield from _batches(thread, "no_op", tasks, batch, cpus=cpus)


@workload
def fixed(thread: VirtualThread, tasks: int, run_ms: float, batch: int = 200, retries: int = 3) -> Program:
    """Tasks that all take as long."""
    yield from _batches(thread, "fixed", tasks, batch, (int(run_ms * MILLISECOND_NS),), retries=retries)


@workload
def gated(thread: VirtualThread, tasks: int, every: int, nested: int = 0) -> Program:
    """Tasks of which some wait for all older ones, by ways that obsray does not know: they would stand still if younger
    ones were given to all workers first. Each ``nested``-th also gets what a task of its own makes."""
    line = thread.process.chance.getrandbits(32)
    yield from _batches(thread, "gated", tasks, tasks, (line, every, nested), retries=-1)


@workload
def heavy_tailed(thread: VirtualThread, tasks: int, batch: int = 200, cpus: float = 1) -> Program:
    """Tasks of which a few take very long."""
    yield from _batches(thread, "heavy_tailed", tasks, batch, cpus=cpus)


@workload
def failing(thread: VirtualThread, tasks: int, fails_ratio: float, retry: bool, retries: int = 3) -> Program:
    """Tasks that raise now and then."""
    permille = int(fails_ratio * 1000)
    yield from _batches(thread, "flaky", tasks, 100, (permille,), retries=retries, retry_exceptions=retry)


@workload
def retiring(thread: VirtualThread, tasks: int, max_calls: int) -> Program:
    """Tasks whose worker ends after a few of them."""
    yield from _batches(thread, "no_op", tasks, 50, max_calls=max_calls)


@workload
def chains(thread: VirtualThread, chains: int, length: int) -> Program:
    """Each task takes the result of the one before; only the last is kept."""
    ends = []
    for chain in range(chains):
        last = thread.submit("no_op", chain)
        for _ in range(length):
            last, before = thread.submit("add", 1, arguments=[last]), last
            thread.drop(before)
        ends.append((chain + length, last))
    for number, last in ends:
        yield from expect(thread, last, number)


@workload
def fan_out_fan_in(thread: VirtualThread, rounds: int, width: int) -> Program:
    """One value goes to many tasks, all their results into one."""
    for number in range(rounds):
        source = yield from thread.put(Value(number))
        parts = [thread.submit("add", part, arguments=[source]) for part in range(width)]
        total = thread.submit("add", 0, arguments=parts)
        thread.drop(source, *parts)
        yield from expect(thread, total, number * width + sum(range(width)))
        thread.drop(total)


@workload
def read_twice(thread: VirtualThread, tasks: int) -> Program:
    """Results that are read by the driver, and again a while later."""
    made = [(number, thread.submit("no_op", number)) for number in range(tasks)]
    for _ in range(2):
        for number, identifier in made:
            yield from expect(thread, identifier, number)
        yield from pause(thread, 10)


@workload
def nested(thread: VirtualThread, roots: int, width: int, depth: int) -> Program:
    """Tasks that submit tasks and wait for them."""
    submitted = [thread.submit("nested", width, depth) for _ in range(roots)]
    for identifier in submitted:
        yield from expect(thread, identifier, width**depth)
        thread.drop(identifier)


@workload
def large_results(thread: VirtualThread, tasks: int, object_bytes: int, batch: int = 8, retries: int = 3) -> Program:
    """Results that lie in the store, read by the driver and by other tasks."""
    for start in range(0, tasks, batch):
        made = [thread.submit("large", number, object_bytes, retries=retries) for number in range(start, start + batch)]
        readers = [thread.submit("add", 1, arguments=[identifier]) for identifier in made]
        for number, (identifier, reader) in enumerate(zip(made, readers, strict=True), start):
            if thread.process.chance.random() < 0.5:
                yield from expect(thread, identifier, number)
            thread.drop(identifier)
            yield from expect(thread, reader, number + 1)
            thread.drop(reader)


@workload
def puts(thread: VirtualThread, objects: int, object_bytes: int, kept: int = 6) -> Program:
    """Objects that the driver puts, some kept for a while and read by tasks."""
    chance = thread.process.chance
    shelf: list[tuple[int, bytes]] = []
    for number in range(objects):
        size = chance.randint(1, object_bytes)
        try:
            identifier = yield from thread.put(Value(number, size=size))
        except ObjectStoreFullError as error:
            excuse(thread, bytes(20), error)
            continue
        shelf.append((number, identifier))
        if len(shelf) > kept:
            number, identifier = shelf.pop(chance.randrange(len(shelf)))
            reader = thread.submit("add", 0, arguments=[identifier])
            thread.drop(identifier)
            yield from expect(thread, reader, number)
            thread.drop(reader)


@workload
def references(thread: VirtualThread, rounds: int, object_bytes: int = 64) -> Program:
    """References inside values, going through many hands; whoever reads last must still find what was there."""
    chance = thread.process.chance
    for number in range(rounds):
        kind = chance.randrange(5)
        if kind == 0:
            outer = thread.submit("spawn", number)
        elif kind == 4:
            spawned = thread.submit("spawn_put", number, object_bytes)
            opened = yield from settled(thread, spawned)
            thread.drop(spawned)
            if opened is None:
                continue
            (outer,) = opened.inner
        elif kind == 1:
            outer = thread.submit("put_inside", number, object_bytes)
        else:
            inner = yield from thread.put(Value(number, size=object_bytes))
            outer = thread.submit("give_back", nested=[inner])
            thread.drop(inner)
        if kind == 3:
            opened = yield from settled(thread, outer)
            if opened is None:
                thread.drop(outer)
                continue
            (again,) = opened.inner
            thread.drop(outer)
            outer = thread.submit("give_back", nested=[again])
            thread.drop(again)
        yield from _read_inner(thread, outer, number)


def _read_inner(thread: VirtualThread, outer: bytes, number: int) -> Program:
    opened = yield from settled(thread, outer)
    thread.drop(outer)
    if opened is None:
        return
    yield from pause(thread, 1)
    (inner,) = opened.inner
    how = thread.process.chance.randrange(3)
    if how == 0:
        yield from expect(thread, inner, number)
        thread.drop(inner)
        return
    reader = thread.submit("read_inside" if how == 1 else "pass_on", nested=[inner])
    thread.drop(inner)
    yield from expect(thread, reader, number)
    thread.drop(reader)


@workload
def remade(thread: VirtualThread, rounds: int, length: int, object_bytes: int) -> Program:
    """Chains of large values of which only some are kept: whatever is lost, each has its value, and nothing fails."""
    chance = thread.process.chance
    for _ in range(rounds):
        made: list[tuple[int, bytes]] = []
        for _ in range(length):
            first = [made[-1]] if made else []
            second = [chance.choice(made)] if made and chance.random() < 0.3 else []
            inputs = first + [each for each in second if each not in first]
            identifier = thread.submit("add_large", 1, object_bytes, arguments=[each for _, each in inputs], retries=-1)
            made.append((1 + sum(value for value, _ in inputs), identifier))
            if chance.random() < 0.2:
                yield from pause(thread, 4)
        kept = [each for each in made if chance.random() < 0.4] or made[-1:]
        for each in made:
            if each not in kept:
                thread.drop(each[1])
        chance.shuffle(kept)
        for number, identifier in kept:
            how = chance.randrange(3)
            if how == 0:
                reader = thread.submit("read_inside", nested=[identifier], retries=-1)
            else:
                reader = thread.submit("add", 0, arguments=[identifier], retries=-1)
            if how == 2:
                yield from _certain(thread, identifier, number)
            yield from _certain(thread, reader, number)
            thread.drop(identifier, reader)


def _certain(thread: VirtualThread, identifier: bytes, number: int) -> Program:
    """Get the value, which must be ``number``: deaths are no excuse, only owners that cannot be reached are."""
    try:
        (value,) = yield from thread.get([identifier])
    except OwnerDiedError:
        if not thread.process.simulator.ledger.cuts:
            raise
        return
    if value.number != number:
        raise WrongResult(f"{thread.name}: {identifier.hex()} is {value.number}, should be {number}")


@workload
def one_by_one(thread: VirtualThread, tasks: int) -> Program:
    """Submit all, then take them as they become ready; now and then the wait gives up early."""
    chance = thread.process.chance
    left = [thread.submit("heavy_tailed", number) for number in range(tasks)]
    while left:
        timeout_ns = chance.randint(0, 20) * MILLISECOND_NS if chance.random() < 0.3 else None
        ready = yield from thread.wait(left, min(len(left), chance.randint(1, 4)), timeout_ns)
        for identifier in ready:
            left.remove(identifier)
            yield from settled(thread, identifier)
            thread.drop(identifier)


@workload
def forgetting(thread: VirtualThread, tasks: int, kept_ratio: float) -> Program:
    """Most references are dropped before their tasks have run; some gets give up early."""
    chance = thread.process.chance
    kept = []
    for number in range(tasks):
        name = chance.choice(("no_op", "heavy_tailed"))
        identifier = thread.submit(name, number)
        if chance.random() < 0.3:
            reader = thread.submit("add", 0, arguments=[identifier])
            thread.drop(identifier)
            identifier = reader
        if chance.random() < kept_ratio:
            kept.append((number, identifier))
        else:
            thread.drop(identifier)
        if chance.random() < 0.1:
            yield from pause(thread, 3)
    for number, identifier in kept:
        try:
            yield from thread.get([identifier], timeout_ns=chance.randint(0, 5) * MILLISECOND_NS)
        except GetTimeoutError:
            yield from expect(thread, identifier, number)
        except RayError as error:
            excuse(thread, identifier, error)
        thread.drop(identifier)


@workload
def actors(
    thread: VirtualThread, actors: int, calls: int, restarts: int = 0, retries: int = 0, callers: int = 0,
    cpus: float = 0,
) -> Program:  # fmt: skip
    """Actors called by the driver and by tasks that got a handle; calls of one caller run in order."""
    process, chance = thread.process, thread.process.chance
    for _ in range(actors):
        client = process.create_actor("Counter", (0,), thread=thread, restarts=restarts, cpus=cpus)
        handle = client.id + bytes(4)
        others = [thread.submit("call_actor", 5, chance.randrange(2), nested=[handle]) for _ in range(callers)]
        made = []
        for number in range(calls):
            method = "add" if chance.random() < 0.9 else "add_slowly"
            if chance.random() < 0.1:
                source = thread.submit("no_op", number)
                made.append(process.call(client, method, (1,), thread=thread, nested=[source], retries=retries))
                thread.drop(source)
            elif chance.random() < 0.1:
                source = thread.submit("heavy_tailed", number)
                made.append(process.call(client, method, (1,), thread=thread, arguments=[source], retries=retries))
                thread.drop(source)
            else:
                made.append(process.call(client, method, (1,), thread=thread, retries=retries))
            if chance.random() < 0.05:
                yield from pause(thread, 2)
        yield from _check_counts(thread, made, restarts)
        for identifier in others:
            yield from settled(thread, identifier)
        thread.drop(*made, *others, handle)


def _check_counts(thread: VirtualThread, made: list[bytes], restarts: int) -> Program:
    """Without restarts every result is greater than the one before."""
    before = 0
    for identifier in made:
        value = yield from settled(thread, identifier)
        if value is not None and not restarts:
            if value.number <= before:
                raise WrongResult(f"{thread.name}: a call counted {value.number} after {before}")
            before = value.number


@workload
def beside_each_other(
    thread: VirtualThread, actors: int, calls: int, at_a_time: int, restarts: int = 0, retries: int = 0
) -> Program:
    """Actors (threaded, or with an event loop) whose calls run beside each other, in any order; each counts once."""
    process, chance = thread.process, thread.process.chance
    for _ in range(actors):
        client = process.create_actor("Counter", (0,), thread=thread, restarts=restarts, at_a_time=at_a_time)
        made = []
        for number in range(calls):
            method = "add_slowly" if chance.random() < 0.7 else "add"
            source = thread.submit("heavy_tailed", number) if chance.random() < 0.2 else b""
            arguments = [source] if source else None
            made.append(process.call(client, method, (1,), thread=thread, arguments=arguments, retries=retries))
            if source:
                thread.drop(source)
            if chance.random() < 0.2:
                yield from pause(thread, 2)
        counts = []
        for identifier in made:
            value = yield from settled(thread, identifier)
            if value is not None:
                counts.append(value.number)
        if not restarts and (len(set(counts)) < len(counts) or not all(0 < each <= calls for each in counts)):
            raise WrongResult(f"{thread.name}: {calls} calls counted {sorted(counts)}")
        thread.drop(*made, client.id + bytes(4))


@workload
def streams(
    thread: VirtualThread, streams: int, items: int, object_bytes: int = 64, backpressure: int = -1,
    abandoned_ratio: float = 0.0, fails_ratio: float = 0.0, retries: int = 3,
) -> Program:  # fmt: skip
    """Streaming tasks: their items come in order, each once, however often the task begins; some are not taken to
    the end."""
    process, chance = thread.process, thread.process.chance
    for number in range(streams):
        first = 1000 * number
        stream, ended = process.stream(
            "count_up", (first, items, object_bytes, int(1000 * fails_ratio)), thread=thread,
            backpressure=backpressure, retries=retries,
        )  # fmt: skip
        enough = chance.randint(0, items) if chance.random() < abandoned_ratio else items + 1
        taken, failed = 0, False
        while taken < enough:
            identifier = yield from thread.next_item(stream)
            if identifier is None:
                break
            value = yield from settled(thread, identifier)
            thread.drop(identifier)
            if value is not None and value.number != first + taken:
                raise WrongResult(f"{thread.name}: item {taken} is {value.number}, should be {first + taken}")
            taken, failed = taken + 1, failed or value is None
            yield from pause(thread, 1)
        if taken >= enough:
            thread.abandon(stream)
        elif not failed and taken != items:
            raise WrongResult(f"{thread.name}: a stream of {items} items ended after {taken}")
        if chance.random() < 0.5:
            yield from settled(thread, ended)
        thread.drop(ended)


@workload
def bursts(thread: VirtualThread, rounds: int, tasks: int, run_ms: float, pause_ms: float, cpus: float = 1) -> Program:
    """Much to do at once, then nothing for a while, again and again."""
    for _ in range(rounds):
        yield from _batches(thread, "fixed", tasks, tasks, (int(run_ms * MILLISECOND_NS),), retries=-1, cpus=cpus)
        yield Sleep(int(pause_ms * MILLISECOND_NS))


@workload
def exact_counters(thread: VirtualThread, actors: int, calls: int, every: int) -> Program:
    """Actors that save their state every so many calls: whenever they are killed, each call counts once."""
    process, chance = thread.process, thread.process.chance
    for _ in range(actors):
        client = process.create_actor("Counter", (0,), thread=thread, restarts=-1, checkpoint_every=every)
        made = []
        for _ in range(calls):
            made.append(process.call(client, "add", (1,), thread=thread, retries=-1))
            if chance.random() < 0.2:
                yield from pause(thread, 2)
        for number, identifier in enumerate(made, 1):
            value = yield from expect(thread, identifier, number)
            if value is None:
                raise WrongResult(f"{thread.name}: a call failed although it may be retried without bound")
        thread.drop(*made, client.id + bytes(4))


@workload
def large_answers(thread: VirtualThread, actors: int, calls: int, object_bytes: int) -> Program:
    """Actors whose results lie in the store."""
    process = thread.process
    for _ in range(actors):
        client = process.create_actor("Counter", (0,), thread=thread, restarts=1)
        made = [process.call(client, "large", (object_bytes,), thread=thread) for _ in range(calls)]
        for identifier in made:
            yield from expect(thread, identifier, 1)
        thread.drop(*made, client.id + bytes(4))


@workload
def keepers(thread: VirtualThread, rounds: int, in_constructor: bool = False) -> Program:
    """Actors that keep references they were called with after the caller has let go."""
    process = thread.process
    for number in range(rounds):
        inner = yield from thread.put(Value(number))
        client = process.create_actor("Counter", (0,), thread=thread, nested=[inner] if in_constructor else None)
        handle = client.id + bytes(4)
        if not in_constructor:
            kept = process.call(client, "keep", thread=thread, nested=[inner])
            yield from settled(thread, kept)
            thread.drop(kept)
        thread.drop(inner)
        yield from pause(thread, 3)
        read = process.call(client, "read_kept", thread=thread)
        yield from expect(thread, read, number)
        gone = process.call(client, "let_go", thread=thread)
        yield from settled(thread, gone)
        thread.drop(read, gone, handle)


@workload
def short_lived_actors(thread: VirtualThread, actors: int, broken_ratio: float = 0.2) -> Program:
    """Actors whose handles go away at once, before or after a call; some cannot be built."""
    process, chance = thread.process, thread.process.chance
    for _ in range(actors):
        broken = int(chance.random() < broken_ratio)
        client: ActorClient = process.create_actor("Counter", (0, broken), thread=thread, cpus=chance.choice((0, 1)))
        handle = client.id + bytes(4)
        made = [process.call(client, "add", (1,), thread=thread) for _ in range(chance.randrange(3))]
        if chance.random() < 0.5:
            thread.drop(handle)
            handle = b""
        for identifier in made:
            value = yield from settled(thread, identifier)
            if broken and value is not None:
                raise WrongResult(f"{thread.name}: an actor that could not be built answered")
        thread.drop(*made, *([handle] if handle else []))
        yield from pause(thread, 2)


@workload
def placement_groups(
    thread: VirtualThread, rounds: int, cpus: int, tasks: int = 8, removed_ratio: float = 0.4
) -> Program:
    """Groups that are made, used by tasks and actors, and removed: when all is done, in the middle, or before they
    are there. What runs in a group never holds more than its bundles."""
    process, chance = thread.process, thread.process.chance
    for number in range(rounds):
        bundles = [chance.randint(1, max(1, cpus // 2)) for _ in range(chance.randint(1, 2))]
        group, ready = process.create_group(bundles, chance.choice(("PACK", "SPREAD", "STRICT_PACK")), thread=thread)
        impatient = chance.random() < removed_ratio
        if not impatient:
            yield from thread.get([ready])
        made = [
            thread.submit(
                "fixed", number, 2 * MILLISECOND_NS, group=group, cpus=chance.choice((0, 1)),
                bundle=chance.randrange(-1, len(bundles)), retries=chance.choice((0, 3)),
            )
            for _ in range(tasks)
        ]  # fmt: skip
        # It holds no CPU for life: in a bundle of one the tasks would wait for its end.
        client = process.create_actor("Counter", (0, 0), thread=thread, group=group, restarts=2)
        calls = [process.call(client, "add", (1,), thread=thread) for _ in range(2)]
        if impatient:
            yield from pause(thread, 6)
            process.remove_group(group)
        for identifier in made:
            value = yield from settled(thread, identifier)
            if value is not None and value.number != number:
                raise WrongResult(f"{thread.name}: {identifier.hex()} is {value.number}, should be {number}")
        for identifier in calls:
            yield from settled(thread, identifier)
        if not impatient:
            process.remove_group(group)
        thread.drop(ready, client.id + bytes(4), *made, *calls)
