"""What virtual workers run: the code of tasks and methods, chosen by name.

``body(call)`` yields what it waits for and returns its Value (None for a plain 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS
from obsray.testing.programs import Item, Program, Sleep, Value

if TYPE_CHECKING:
    from obsray.testing.virtual_worker import Call

Body = Callable[["Call"], Program]

BODIES: dict[str, Body] = {}
_HEAVY_NS_MAX = 400 * MILLISECOND_NS


class UserError(Exception):
    """What user code raises."""


def body(name: str) -> Body:
    """The code of a function or method."""
    return BODIES[name]


def function(name: str) -> Callable[[Body], Body]:
    """Make ``name`` stand for a body."""

    def register(code: Body) -> Body:
        BODIES[name] = code
        return code

    return register


@function("no_op")
def _no_op(call: Call) -> Program:
    yield Sleep(call.process.chance.randint(1, 30) * MICROSECOND_NS)
    return Value(call.numbers[0])


@function("fixed")
def _fixed(call: Call) -> Program:
    yield Sleep(call.numbers[1])
    return Value(call.numbers[0])


@function("gated")
def _gated(call: Call) -> Program:
    """Each ``every``-th task of a line waits until all older ones have run, which obsray knows nothing of; each
    ``nested``-th waits for a task of its own as well."""
    number, line, every, nested = call.numbers
    if nested and number % nested == 0:
        yield from call.thread.get([call.thread.submit("no_op", number, cpus=0)])
    ran = call.process.simulator.ledger.ran_in_line.setdefault(line, set())
    while number % every == 0 and not ran.issuperset(range(number)):
        yield Sleep(MILLISECOND_NS)
    yield Sleep(call.process.chance.randint(1, 300) * MICROSECOND_NS)
    ran.add(number)
    return Value(number)


@function("heavy_tailed")
def _heavy_tailed(call: Call) -> Program:
    yield Sleep(min(_HEAVY_NS_MAX, int(call.process.chance.paretovariate(1.1) * 100 * MICROSECOND_NS)))
    return Value(call.numbers[0])


@function("add")
def _add(call: Call) -> Program:
    yield Sleep(50 * MICROSECOND_NS)
    return Value(call.numbers[0] + sum(argument.number for argument in call.arguments))


@function("large")
def _large(call: Call) -> Program:
    yield Sleep(200 * MICROSECOND_NS)
    return Value(call.numbers[0], size=call.numbers[1])


@function("add_large")
def _add_large(call: Call) -> Program:
    yield Sleep(100 * MICROSECOND_NS)
    return Value(call.numbers[0] + sum(argument.number for argument in call.arguments), size=call.numbers[1])


@function("flaky")
def _flaky(call: Call) -> Program:
    yield Sleep(100 * MICROSECOND_NS)
    if call.process.chance.random() < call.numbers[1] / 1000:
        raise UserError(f"attempt {call.attempt}")
    return Value(call.numbers[0])


@function("count_up")
def _count_up(call: Call) -> Program:
    """A stream of numbers; ``numbers`` are the first, how many, their size, and how often in a thousand it raises."""
    first, count, size, fails = call.numbers
    for number in range(first, first + count):
        yield Sleep(call.process.chance.randint(10, 1500) * MICROSECOND_NS)
        if fails and call.process.chance.random() < fails / 1000:
            raise UserError(f"attempt {call.attempt}")
        yield Item(Value(number, size=size))
    return None


@function("nested")
def _nested(call: Call) -> Program:
    """The number of leaves of a tree of tasks, counted by waiting for the subtrees."""
    width, depth = call.numbers
    if not depth:
        yield Sleep(100 * MICROSECOND_NS)
        return Value(1)
    children = [call.thread.submit("nested", width, depth - 1) for _ in range(width)]
    found = yield from call.thread.get(children)
    return Value(sum(value.number for value in found))


@function("spawn")
def _spawn(call: Call) -> Program:
    """A value that holds the reference to a task of the worker's own."""
    child = call.thread.submit("no_op", call.numbers[0])
    yield Sleep(20 * MICROSECOND_NS)
    return Value(1, (child,))


@function("put_inside")
def _put_inside(call: Call) -> Program:
    """A value that holds a reference to an object the worker put."""
    number, size = call.numbers
    inner = yield from call.thread.put(Value(number, size=size))
    return Value(1, (inner,))


@function("spawn_put")
def _spawn_put(call: Call) -> Program:
    """As ``spawn``, of a task whose value holds a reference to what it has put: the same worker may run it."""
    child = call.thread.submit("put_inside", *call.numbers)
    yield Sleep(20 * MICROSECOND_NS)
    return Value(1, (child,))


@function("give_back")
def _give_back(call: Call) -> Program:
    """A value that holds the references the task was called with."""
    yield Sleep(20 * MICROSECOND_NS)
    return Value(len(call.nested), call.nested)


@function("read_inside")
def _read_inside(call: Call) -> Program:
    found = yield from call.thread.get(list(call.nested))
    return Value(sum(value.number for value in found))


@function("pass_on")
def _pass_on(call: Call) -> Program:
    """Have the references read by a task of the worker's own."""
    child = call.thread.submit("read_inside", nested=list(call.nested))
    (value,) = yield from call.thread.get([child])
    return value


@function("call_actor")
def _call_actor(call: Call) -> Program:
    """Call an actor through a handle that came as an argument: ``numbers`` calls, each waited for or not."""
    count, wait = call.numbers
    (handle,) = call.nested
    client = call.process.handle(handle[:16], "Counter")
    calls = [call.process.call(client, "add", (1,), thread=call.thread) for _ in range(count)]
    if wait:
        yield from call.thread.get(calls)
    return Value(count)


@function("Counter.__init__")
def _counter(call: Call) -> Program:
    yield Sleep(300 * MICROSECOND_NS)
    assert call.instance is not None
    call.instance["total"] = call.numbers[0] if call.numbers else 0
    if call.numbers[1:] and call.numbers[1]:
        raise UserError("the constructor does not want to")
    call.keep(*call.nested)
    return None


@function("Counter.add")
def _counter_add(call: Call) -> Program:
    yield Sleep(20 * MICROSECOND_NS)
    assert call.instance is not None
    call.instance["total"] += call.numbers[0]
    return Value(call.instance["total"])


@function("Counter.large")
def _counter_large(call: Call) -> Program:
    yield Sleep(100 * MICROSECOND_NS)
    return Value(1, size=call.numbers[0])


@function("Counter.add_slowly")
def _counter_add_slowly(call: Call) -> Program:
    yield Sleep(call.process.chance.randint(0, 8) * MILLISECOND_NS)
    return (yield from _counter_add(call))


@function("Counter.keep")
def _counter_keep(call: Call) -> Program:
    yield Sleep(20 * MICROSECOND_NS)
    call.keep(*call.nested)
    return None


@function("Counter.read_kept")
def _counter_read_kept(call: Call) -> Program:
    found = yield from call.thread.get(call.kept())
    return Value(sum(value.number for value in found))


@function("Counter.let_go")
def _counter_let_go(call: Call) -> Program:
    yield Sleep(20 * MICROSECOND_NS)
    call.let_go()
    return None
