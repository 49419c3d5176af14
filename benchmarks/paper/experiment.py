"""Which experiments there are, and what one is given."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.paper.result import Result

T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """``quick``: a few seconds, to see that it works; what comes out is no measurement."""

    quick: bool
    out: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)

    def pick(self, full: T, quick: T) -> T:
        return quick if self.quick else full

    def say(self, line: str) -> None:
        """Tell how far it is, and what was found."""
        self.out(f"  {time.monotonic() - self.started:5.1f} s  {line}")


@dataclass(frozen=True, slots=True)
class Experiment:
    """``figure``: in the paper, its number or "Table 3". ``seconds``: about how long it takes on two cores."""

    name: str
    figure: str
    title: str
    seconds: int

    @property
    def place(self) -> str:
        """Where it is in the paper."""
        return self.figure if self.figure.startswith("Table") else f"Figure {self.figure}"

    def body(self) -> Callable[[Run], Result]:
        found: Callable[[Run], Result] = importlib.import_module(f"benchmarks.paper.{self.name}").body
        return found


EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment("locality", "8a", "Tasks go to their data", 60),
        Experiment("scaling", "8b", "Throughput grows with nodes", 60),
        Experiment("store", "9", "The object store of one node", 45),
        Experiment("memory", "10b", "Two million tasks in bounded memory", 60),
        Experiment("allreduce", "12", "A ring allreduce, and what scheduling delay costs it", 60),
        Experiment("failover", "10a", "The control store is killed", 60),
        Experiment("task_recovery", "11a", "Nodes are killed under chains of tasks", 40),
        Experiment("actor_recovery", "11b", "A node is killed under actors, with and without checkpoints", 60),
        Experiment("serving", "Table 3", "An actor that serves, beside a web server", 60),
        Experiment("simulation", "Table 4", "Simulations without a barrier", 60),
    )
}
