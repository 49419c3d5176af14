"""Aggregation in a tree: many partial results become one, without any process seeing them all.

Tasks make histograms of parts of a large sample. A flat reduction sends all of them to one task; a tree of tasks merges
them four at a time, on whatever worker has time, and its depth grows with the logarithm of the number of parts.
Afterwards the timeline shows what ran when.
"""

from __future__ import annotations

import math

import numpy as np

import obsray

PARTS = 64
FAN_IN = 4
ROWS = 20_000
EDGES = np.linspace(-4, 4, 81)


def histogram(part: int) -> np.ndarray:
    """How the rows of one part are distributed."""
    return np.histogram(np.random.default_rng(part).normal(size=ROWS), EDGES)[0]


@obsray.remote
def sample(part: int) -> np.ndarray:
    return histogram(part)


@obsray.remote
def merge(*counts: np.ndarray) -> np.ndarray:
    """The sum of a few."""
    return np.sum(counts, axis=0)


def flat(parts: list[obsray.ObjectRef[np.ndarray]]) -> obsray.ObjectRef[np.ndarray]:
    """One task merges all."""
    return merge.remote(*parts)


def tree(parts: list[obsray.ObjectRef[np.ndarray]]) -> tuple[obsray.ObjectRef[np.ndarray], int]:
    """Tasks merge a few at a time until one is left. Also how many levels that takes."""
    level, levels = parts, 0
    while len(level) > 1:
        level = [merge.remote(*level[at : at + FAN_IN]) for at in range(0, len(level), FAN_IN)]
        levels += 1
    return level[0], levels


def main() -> None:
    parts = [sample.remote(part) for part in range(PARTS)]
    root, levels = tree(parts)
    merged, at_once = obsray.get([root, flat(parts)])

    alone = np.sum([histogram(part) for part in range(PARTS)], axis=0)
    assert np.array_equal(merged, alone) and np.array_equal(at_once, alone)
    assert levels == math.ceil(math.log(PARTS, FAN_IN))
    inside = int(merged[(EDGES[:-1] >= -1 - 1e-9) & (EDGES[1:] <= 1 + 1e-9)].sum()) / int(merged.sum())
    assert 0.67 < inside < 0.70, inside
    merges = [event for event in obsray.timeline() if event["name"] == "task::merge"]
    print(f"{PARTS} histograms became one in {levels} levels of at most {FAN_IN} each")
    print(f"{len(merges)} merges are on the timeline, the flat one among them")
    print(f"{inside:.1%} of {merged.sum()} values lie within one standard deviation; one process counts the same")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
