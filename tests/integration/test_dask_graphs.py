"""Graphs as dask makes them run on the runtime, with or without dask."""

from __future__ import annotations

import operator

import pytest

import obsray
from obsray.util import spark
from obsray.util.dask import enable_dask_on_ray, ray_dask_get


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=2, include_dashboard=False)
    yield
    obsray.shutdown()


def test_a_graph_of_tuples_is_computed():
    graph = {
        "x": 1,
        "y": "x",
        ("add-1f", 0): (operator.add, "x", (operator.mul, "y", 10)),
        ("add-1f", 1): (sum, [("add-1f", 0), "x", 5]),
        "unused": (operator.truediv, 1, 0),
    }
    assert ray_dask_get(graph, ("add-1f", 1)) == 17
    assert ray_dask_get(graph, [["x", ("add-1f", 0)], [("add-1f", 1)]]) == ((1, 11), (17,))


def test_a_graph_of_task_objects_is_computed():
    class Task:
        def __init__(self, function, *dependencies):
            self.function, self.dependencies = function, frozenset(dependencies)

        def __call__(self, values):
            return self.function(values)

    graph = {"a": Task(lambda _: 2), "b": Task(lambda values: values["a"] ** 5, "a")}
    assert ray_dask_get(graph, ["b"], ray_remote_args={"num_cpus": 0.5}) == (32,)


def test_what_is_wrong_with_a_graph_is_said():
    with pytest.raises(KeyError, match="nowhere"):
        ray_dask_get({}, "nowhere")
    with pytest.raises(ValueError, match="cycle"):
        ray_dask_get({"a": (abs, "b"), "b": (abs, "a")}, "a")
    with pytest.raises(ZeroDivisionError):
        ray_dask_get({"a": (operator.truediv, 1, 0)}, "a")


def test_a_long_chain_of_tasks_needs_no_recursion():
    graph = {0: 0} | {n: (operator.add, n - 1, 1.0) for n in range(1, 1500)}
    graph = {f"k{n}": (task if n == 0 else (operator.add, f"k{n - 1}", 1.0)) for n, task in graph.items()}
    assert ray_dask_get(graph, "k1499") == 1499


def test_what_needs_other_packages_says_so():
    with pytest.raises(ImportError):
        enable_dask_on_ray()
    with pytest.raises(NotImplementedError, match="Spark executors"):
        spark.setup_ray_cluster(max_worker_nodes=1)
