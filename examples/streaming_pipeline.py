"""A pipeline over a stream: a generator task yields batches, workers transform them while it goes on, a sink adds up.

The generator is slowed down by its consumers (``_generator_backpressure_num_objects``), so an endless source would need
no more memory than a short one. The driver holds references only; batches go from worker to worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import obsray

BATCHES = 40
ROWS = 5_000
IN_FLIGHT = 4


def batch_number(number: int) -> np.ndarray:
    """What the source reads: readings of a sensor that is off the mark now and then."""
    chance = np.random.default_rng(number)
    readings = chance.normal(20, 2, size=ROWS)
    readings[chance.random(ROWS) < 0.01] = np.nan
    return readings


@obsray.remote(num_returns="streaming", _generator_backpressure_num_objects=IN_FLIGHT)
def source() -> Iterator[np.ndarray]:
    for number in range(BATCHES):
        yield batch_number(number)


def clean(batch: np.ndarray) -> np.ndarray:
    """Without readings that are none."""
    return batch[~np.isnan(batch)]


@obsray.remote(num_cpus=0)
class Sink:
    """Adds up what comes, in whatever order."""

    def __init__(self) -> None:
        self.batches, self.rows, self.total = 0, 0, 0.0

    def add(self, batch: np.ndarray) -> int:
        self.batches += 1
        self.rows += len(batch)
        self.total += float(batch.sum())
        return self.batches

    def report(self) -> tuple[int, int, float]:
        return self.batches, self.rows, self.total / self.rows


def main() -> None:
    sink, stage = Sink.remote(), obsray.remote(clean)
    pending: list[obsray.ObjectRef[int]] = []
    for batch in source.remote():
        pending.append(sink.add.remote(stage.remote(batch)))
        if len(pending) > IN_FLIGHT:
            # As many batches are under way as there may be: the oldest has to arrive first.
            _, pending = obsray.wait(pending, num_returns=1)
    obsray.get(pending)
    batches, rows, mean = obsray.get(sink.report.remote())

    whole = np.concatenate([clean(batch_number(number)) for number in range(BATCHES)])
    assert (batches, rows) == (BATCHES, len(whole)), (batches, rows, len(whole))
    assert abs(mean - whole.mean()) < 1e-9
    print(f"{batches} batches went through three stages, at most {IN_FLIGHT} of them ahead of their consumer")
    print(f"{BATCHES * ROWS - rows} of {BATCHES * ROWS} readings were dropped; the mean of the others is {mean:.3f}")
    print("one process, with everything in memory at once, finds the same")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
