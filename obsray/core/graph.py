"""Graphs of calls: ``f.bind(...)`` describes a call without making it, ``node.execute(...)`` makes all of a graph.

A node is inert: what to call, with which arguments, of which some are nodes. A graph is turned into a flat plan once,
in an order in which every node comes after those it needs; each execution walks the plan and makes ordinary calls, so
data goes from worker to worker by reference, and everything is recorded as for any other call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from obsray.core.runtime.references import ObjectRef


class DAGNode:
    """One call of a graph that has not been made."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        self._args = args
        self._kwargs = kwargs
        self._options = dict(options or {})
        self._plan: Plan | None = None

    def _needs(self) -> Iterator[DAGNode]:
        """The nodes whose values this one takes."""
        yield from _nodes_in((self._args, self._kwargs))

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        raise NotImplementedError

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make all calls of the graph that ends here, with ``args`` and ``kwargs`` as its input.

        Returns a reference to the result (a list of them for several, a handle for an actor). Raises TypeError if the
        graph has an input and none was given, or the other way round.
        """
        if self._plan is None:
            self._plan = Plan(self)
        return self._plan.execute(args, kwargs)

    def experimental_compile(
        self, *, enable_asyncio: bool = False, _max_inflight_executions: int | None = None, **unknown: Any
    ) -> CompiledDAG:
        """The same graph, made ready: its order, its actors and its plans are prepared once.

        It runs over ordinary calls. ``_max_inflight_executions`` bounds how many executions may be unfinished
        (RayCgraphCapacityExceeded beyond); ``enable_asyncio`` makes no difference. Other options (buffers, timeouts of
        channels, communicators of GPUs) are a TypeError, because there are no channels.
        """
        if unknown:
            raise TypeError(
                f"experimental_compile() has no option {', '.join(map(repr, unknown))}: obsray runs a compiled graph "
                "over ordinary calls, so there are no channels and buffers to set up"
            )
        return CompiledDAG(self, _max_inflight_executions)

    def with_tensor_transport(self, *_: Any, **__: Any) -> DAGNode:
        """Refused: values go through shared memory."""
        raise NotImplementedError(
            "with_tensor_transport: tensors go from worker to worker through the object store; leave it out"
        )

    def options(self, **options: Any) -> DAGNode:
        """A copy of the node with other options for its call."""
        copy: DAGNode = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, _options={**self._options, **options}, _plan=None)
        return copy

    def get_args(self) -> tuple[Any, ...]:
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        return self._kwargs

    def get_options(self) -> dict[str, Any]:
        return self._options

    def _title(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        return f"({type(self).__name__}, {self._title()})"


class FunctionNode(DAGNode):
    """A call of a remote function."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        function = self._function.options(**self._options) if self._options else self._function
        return function.remote(*args, **kwargs)

    def get_options(self) -> dict[str, Any]:
        return {**self._function._options, **self._options}

    def _title(self) -> str:
        return str(self._function.__name__)


class ClassNode(DAGNode):
    """The making of an actor: ``C.bind(...)``. Each execution makes one; a compiled graph makes it once."""

    def __init__(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._class = cls
        #: The newest call of a method that was bound to it: the next one comes after it, as calls of a handle would.
        self._newest: ClassMethodNode | None = None

    def options(self, **options: Any) -> DAGNode:
        """A copy, another actor, with other options; nothing is bound to it yet."""
        copy = super().options(**options)
        copy.__dict__["_newest"] = None
        return copy

    def get_options(self) -> dict[str, Any]:
        return {**self._class._options, **self._options}

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        cls = self._class.options(**self._options) if self._options else self._class
        return cls.remote(*args, **kwargs)

    def __getattr__(self, name: str) -> _UnboundMethod:
        if name.startswith("_") or name not in self._class._methods:
            raise AttributeError(f"{self.__dict__.get('_class')!r} has no method {name!r}")
        return _UnboundMethod(self, name, {})

    def _title(self) -> str:
        return str(self._class.__name__)


class _UnboundMethod:
    """A method of an actor that a graph will make."""

    def __init__(self, owner: ClassNode, name: str, options: dict[str, Any]) -> None:
        self._owner, self._name, self._options = owner, name, options

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        owner = self._owner
        owner._class._methods[self._name].check(args, kwargs)
        node = ClassMethodNode(owner, self._name, args, kwargs, self._options, owner._newest)
        owner._newest = node
        return node

    def options(self, **options: Any) -> _UnboundMethod:
        return _UnboundMethod(self._owner, self._name, {**self._options, **options})


class ClassMethodNode(DAGNode):
    """A call of an actor's method; ``actor`` is a ``ClassNode`` or a handle. ``before``: the call that comes first."""

    def __init__(
        self, actor: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any],
        before: ClassMethodNode | None = None,
    ) -> None:  # fmt: skip
        super().__init__((actor, *args), kwargs, options)
        self._name = name
        self._before = before

    def _needs(self) -> Iterator[DAGNode]:
        if self._before is not None:
            yield self._before
        yield from super()._needs()

    def get_args(self) -> tuple[Any, ...]:
        return self._args[1:]

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        method = getattr(args[0], self._name)
        if self._options:
            method = method.options(**self._options)
        return method.remote(*args[1:], **kwargs)

    def _title(self) -> str:
        return self._name


class ResultNode(DAGNode):
    """One result of a call that has several."""

    def __init__(self, call: DAGNode, index: int) -> None:
        super().__init__((call,), {})
        self._index = index

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        return args[0][self._index]

    def _title(self) -> str:
        return f"result {self._index}"


def results_of(node: ClassMethodNode, returns: Any) -> ClassMethodNode | tuple[ResultNode, ...]:
    """What a bound call of an actor's method is: a node, or one for each of its results if it has several."""
    if isinstance(returns, int) and returns > 1:
        return tuple(ResultNode(node, index) for index in range(returns))
    return node


class Input:
    """What one execution was given."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs

    def whole(self) -> Any:
        """The input as one value."""
        if len(self.args) == 1 and not self.kwargs:
            return self.args[0]
        raise TypeError(
            f"the graph takes its input as one value and was given {len(self.args)} values and "
            f"{len(self.kwargs)} keywords; use input[0] or input.name in the graph to take several"
        )

    def part(self, key: Any, is_attribute: bool) -> Any:
        """One part: a positional or keyword argument, or an element or attribute of the only argument."""
        if len(self.args) == 1 and not self.kwargs:
            only = self.args[0]
            if is_attribute:
                return getattr(only, key)
            if key == 0 and (isinstance(only, ObjectRef) or not hasattr(type(only), "__getitem__")):
                return only
            return only[key]
        try:
            return self.args[key] if isinstance(key, int) else self.kwargs[key]
        except (IndexError, KeyError):
            names = ", ".join(map(repr, self.kwargs)) or "none"
            raise TypeError(
                f"the graph needs its input {key!r}: it was given {len(self.args)} values and the keywords {names}"
            ) from None


class InputNode(DAGNode):
    """What ``execute`` is given: ``with InputNode() as input: graph = f.bind(input)``.

    ``input`` is the only argument; ``input[0]`` and ``input.name`` are arguments if there are several, and an element
    or attribute of it if there is one.
    """

    def __init__(self, input_type: Any = None) -> None:
        super().__init__((), {})
        self._input_type = input_type

    def __enter__(self) -> InputNode:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        return given.whole()

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("__") or "_args" not in self.__dict__:
            raise AttributeError(name)
        return InputAttributeNode(self, name, True)

    def __getitem__(self, key: Any) -> InputAttributeNode:
        return InputAttributeNode(self, key, False)

    def _title(self) -> str:
        return "input"


class InputAttributeNode(DAGNode):
    """A part of the input."""

    def __init__(self, whole: InputNode, key: Any, is_attribute: bool) -> None:
        super().__init__((), {})
        self._whole, self._key, self._is_attribute = whole, key, is_attribute

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        return given.part(self._key, self._is_attribute)

    def _title(self) -> str:
        return f"input.{self._key}" if self._is_attribute else f"input[{self._key!r}]"


class MultiOutputNode(DAGNode):
    """Several nodes whose values are all wanted: executes to a list."""

    def __init__(self, args: list[DAGNode] | tuple[DAGNode, ...], other_args_to_resolve: Any = None) -> None:
        if not isinstance(args, (list, tuple)) or not args or not all(isinstance(each, DAGNode) for each in args):
            raise ValueError("MultiOutputNode takes a list of at least one node")
        super().__init__(tuple(args), {})

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any], given: Input) -> Any:
        return list(args)

    def _title(self) -> str:
        return "outputs"


class Plan:
    """A graph in the order in which its calls are made, with the place of each node's value."""

    def __init__(self, root: DAGNode) -> None:
        self.order: list[DAGNode] = []
        self.place: dict[int, int] = {}
        self._sort(root)
        self.has_input = any(isinstance(node, (InputNode, InputAttributeNode)) for node in self.order)
        #: Values that stay the same in all executions: actors of a compiled graph.
        self.fixed: dict[int, Any] = {}

    def _sort(self, root: DAGNode) -> None:
        """Depth first without recursion: a graph may be a chain of thousands."""
        stack: list[tuple[DAGNode, Iterator[DAGNode]]] = [(root, root._needs())]
        open_ = {id(root)}
        while stack:
            node, needs = stack[-1]
            need = next(needs, None)
            if need is None:
                stack.pop()
                self.place[id(node)] = len(self.order)
                self.order.append(node)
            elif id(need) not in self.place and id(need) not in open_:
                open_.add(id(need))
                stack.append((need, need._needs()))

    def execute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make every call; returns the value of the last node."""
        if not self.has_input and (args or kwargs):
            raise TypeError("the graph has no InputNode, so execute() takes no arguments")
        given = Input(args, kwargs)
        values: list[Any] = []
        fixed = self.fixed
        for number, node in enumerate(self.order):
            if number in fixed:
                values.append(fixed[number])
                continue
            called_with, by_name = self._filled((node._args, node._kwargs), values)
            values.append(node._make(called_with, by_name, given))
        return values[-1]

    def _filled(self, value: Any, values: list[Any]) -> Any:
        """``value`` with what became of the nodes in place of the nodes."""
        if isinstance(value, DAGNode):
            return values[self.place[id(value)]]
        kind = type(value)
        if kind is dict:
            return {key: self._filled(each, values) for key, each in value.items()}
        if kind is list:
            return [self._filled(each, values) for each in value]
        if kind is tuple:
            return tuple(self._filled(each, values) for each in value)
        return value


class CompiledDAG:
    """A graph that is ready to be executed many times; its actors were made once."""

    def __init__(self, root: DAGNode, inflight_max: int | None) -> None:
        if inflight_max is not None and (not isinstance(inflight_max, int) or inflight_max < 1):
            raise ValueError(f"_max_inflight_executions={inflight_max!r}: must be a number >= 1")
        if isinstance(root, (InputNode, InputAttributeNode, ClassNode)):
            raise ValueError(f"a graph must end in a call to be compiled, not in {root}")
        self._plan: Plan | None = Plan(root)
        self._inflight_max = inflight_max
        self._inflight: list[Any] = []
        for number, node in enumerate(self._plan.order):
            if isinstance(node, ClassNode):
                before = [self._plan.fixed.get(each) for each in range(number)]
                if any(self._plan.place[id(need)] not in self._plan.fixed for need in node._needs()):
                    raise ValueError(f"{node} takes a value of the graph: make the actor first and bind its handle")
                args, kwargs = self._plan._filled((node._args, node._kwargs), before)
                self._plan.fixed[number] = node._make(args, kwargs, Input((), {}))

    def _ready(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("the compiled graph was torn down; compile it again")
        return self._plan

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As ``DAGNode.execute``: a reference, or a list of them for a ``MultiOutputNode``."""
        plan = self._ready()
        if self._inflight_max is not None:
            self._check_room()
        found = plan.execute(args, kwargs)
        if self._inflight_max is not None:
            self._inflight.append(found[-1] if isinstance(found, list) else found)
        return found

    def _check_room(self) -> None:
        from obsray.core.runtime.session import current
        from obsray.errors import RayCgraphCapacityExceeded

        if self._inflight:
            count = len(self._inflight)
            _, self._inflight = current().values.wait(self._inflight, count, 0, fetch_local=False)
        if self._inflight_max is not None and len(self._inflight) >= self._inflight_max:
            raise RayCgraphCapacityExceeded(
                f"{len(self._inflight)} executions are not finished and _max_inflight_executions is "
                f"{self._inflight_max}: get() some of their results first"
            )

    async def execute_async(self, *args: Any, **kwargs: Any) -> Any:
        """``execute`` for coroutines: returns what can be awaited for the result, or a list of such."""
        return self.execute(*args, **kwargs)

    def teardown(self, kill_actors: bool = False) -> None:
        """Forget the graph; with ``kill_actors`` also end all actors it calls. May be called twice."""
        plan, self._plan = self._plan, None
        self._inflight.clear()
        if plan is None:
            return
        if kill_actors:
            from obsray.core.runtime.session import current

            handles = [*plan.fixed.values(), *(n._args[0] for n in plan.order if isinstance(n, ClassMethodNode))]
            for handle in handles:
                if not isinstance(handle, DAGNode):
                    current().kill_actor(handle._actor, restart=False)

    def visualize(self, filename: str | None = None, format: str = "dot", view: bool = False) -> str:
        """The graph as text for Graphviz (``"dot"``) or for people (``"ascii"``); also written to ``filename``."""
        plan = self._ready()
        draw: dict[str, Callable[[Plan], str]] = {"dot": _as_dot, "ascii": _as_text}
        if format not in draw or view:
            raise ValueError(f'format={format!r}, view={view!r}: "dot" and "ascii" can be made, and not shown')
        text = draw[format](plan)
        if filename is not None:
            with open(filename, "w") as out:
                out.write(text)
        return text


def _as_dot(plan: Plan) -> str:
    lines = ["digraph obsray {"]
    for number, node in enumerate(plan.order):
        title = node._title().replace('"', "'")
        lines.append(f'  n{number} [label="{title}"];')
        lines += [f"  n{plan.place[id(need)]} -> n{number};" for need in node._needs()]
    return "\n".join([*lines, "}", ""])


def _as_text(plan: Plan) -> str:
    lines = []
    for number, node in enumerate(plan.order):
        needs = ", ".join(str(plan.place[id(need)]) for need in node._needs())
        lines.append(f"{number}: {node._title()}" + (f" <- {needs}" if needs else ""))
    return "\n".join(lines) + "\n"


def _nodes_in(value: Any) -> Iterator[DAGNode]:
    if isinstance(value, DAGNode):
        yield value
    elif type(value) is dict:
        for each in value.values():
            yield from _nodes_in(each)
    elif type(value) in (list, tuple):
        for each in value:
            yield from _nodes_in(each)
