"""Graphs of calls run as the calls would."""

from __future__ import annotations

import asyncio

import pytest

import obsray
from obsray.dag import InputNode, MultiOutputNode
from obsray.exceptions import RayCgraphCapacityExceeded


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=2, include_dashboard=False)
    yield
    obsray.shutdown()


@obsray.remote
def add(a, b=1):
    return a + b


@obsray.remote
class Counter:
    def __init__(self, start):
        self.count = start

    def add(self, amount):
        self.count += amount
        return self.count


def test_a_graph_of_functions_makes_each_call_once(tmp_path):
    @obsray.remote
    def traced(x):
        with open(tmp_path / "calls", "a") as out:
            out.write("x")
        return x

    shared = traced.bind(1)
    graph = add.bind(shared, b=add.bind(shared, shared))
    assert obsray.get(graph.execute()) == 3
    assert (tmp_path / "calls").read_text() == "x"


def test_the_input_is_one_value_or_several():
    with InputNode() as value:
        graph = add.bind(value, value)
    assert obsray.get(graph.execute(4)) == 8
    with InputNode() as value:
        graph = MultiOutputNode([add.bind(value[0], value["b"]), add.bind(value.b)])
    assert obsray.get(graph.execute(1, b=5)) == [6, 6]
    with InputNode() as value:
        graph = add.bind(value["left"], value["right"])
    assert obsray.get(graph.execute({"left": 1, "right": 2})) == 3
    with pytest.raises(TypeError, match="one value"):
        add.bind(InputNode()).execute()
    with pytest.raises(TypeError, match="no InputNode"):
        add.bind(1).execute(2)


def test_actors_are_made_by_each_execution_and_once_by_a_compiled_graph():
    counter = Counter.bind(10)
    with InputNode() as amount:
        graph = counter.add.bind(amount)
    assert [obsray.get(graph.execute(1)) for _ in range(2)] == [11, 11]
    compiled = graph.experimental_compile()
    assert [obsray.get(compiled.execute(1)) for _ in range(3)] == [11, 12, 13]
    compiled.teardown()
    with pytest.raises(RuntimeError, match="torn down"):
        compiled.execute(1)


def test_calls_bound_to_one_actor_are_made_in_their_order_whether_or_not_their_values_are_used():
    counter, other = Counter.bind(10), Counter.bind(100)
    first = counter.add.bind(0)
    counter.add.bind(2)
    counter.add.options(name="named").bind(4)
    other.add.bind(6)
    graph = add.bind(counter.add.bind(0), other.add.bind(0))
    assert obsray.get(graph.execute()) == 16 + 106
    assert obsray.get(first.execute()) == 10, "what was bound later is no part of it"
    compiled = graph.experimental_compile()
    assert [obsray.get(compiled.execute()) for _ in range(2)] == [122, 134]
    named = counter.options(name="apart")
    assert obsray.get(named.add.bind(0).execute()) == 10 and named.get_options() == {"name": "apart"}
    assert add.options(num_cpus=0).bind(1).options(name="x").get_options() == {"num_cpus": 0, "name": "x"}


def test_a_call_with_several_results_is_several_nodes():
    @obsray.remote
    class Pairs:
        @obsray.method(num_returns=2)
        def pair(self, x):
            return x, x + 1

    pairs = Pairs.remote()
    with InputNode() as value:
        first, second = pairs.pair.bind(value)
        graph = MultiOutputNode([second, add.bind(first, second)])
    assert obsray.get(graph.execute(1)) == [2, 3]
    assert obsray.get(graph.experimental_compile().execute(2)) == [3, 5]
    (only,) = [pairs.pair.options(num_returns=1).bind(5)]
    assert obsray.get(only.execute()) == (5, 6)


def test_methods_of_living_actors_are_part_of_graphs():
    actor = Counter.remote(0)
    with InputNode() as amount:
        graph = MultiOutputNode([actor.add.bind(amount), add.bind(actor.add.bind(amount), 100)])
    compiled = graph.experimental_compile()
    assert obsray.get(compiled.execute(1)) == [1, 102]

    async def main():
        return [await each for each in await compiled.execute_async(1)]

    assert asyncio.run(main()) == [3, 104]
    assert "add" in compiled.visualize(format="ascii") and "->" in compiled.visualize()
    compiled.teardown(kill_actors=True)
    with pytest.raises(obsray.exceptions.RayActorError):
        obsray.get(actor.add.remote(1))


def test_a_long_chain_needs_no_recursion():
    graph = add.bind(0)
    for _ in range(1500):
        graph = add.options(num_cpus=0).bind(graph)
    assert obsray.get(graph.execute()) == 1501


def test_a_compiled_graph_takes_as_many_executions_as_it_was_told(tmp_path):
    @obsray.remote
    def waits(path):
        while not path.exists():
            pass
        return 1

    with InputNode() as path:
        compiled = waits.bind(path).experimental_compile(_max_inflight_executions=1)
    first = compiled.execute(tmp_path / "gate")
    with pytest.raises(RayCgraphCapacityExceeded):
        compiled.execute(tmp_path / "gate")
    (tmp_path / "gate").touch()
    assert obsray.get(first) == 1
    assert obsray.get(compiled.execute(tmp_path / "gate")) == 1


def test_arguments_that_do_not_fit_are_refused_where_they_are_bound():
    living = Counter.remote(1)
    wrong = [
        lambda: add.bind(), lambda: add.bind(1, 2, 3), lambda: add.bind(1, c=2), lambda: Counter.bind(),
        lambda: Counter.bind(1, 2), lambda: Counter.bind(1).add.bind(), lambda: Counter.bind(1).add.bind(1, x=2),
        lambda: living.add.bind(), lambda: living.add.bind(1, 2),
    ]  # fmt: skip
    for bind in wrong:
        with pytest.raises(TypeError):
            bind()


def test_what_a_graph_cannot_do_is_said():
    with pytest.raises(TypeError, match="ordinary calls"):
        add.bind(1).experimental_compile(_buffer_size_bytes=1)
    with pytest.raises(NotImplementedError, match="object store"):
        add.bind(1).with_tensor_transport("nccl")
    with pytest.raises(ValueError, match="list of at least one node"):
        MultiOutputNode([])
