"""A sharded parameter server: each shard is an actor, workers are tasks that send it gradients.

Linear regression, synchronous: in each round every worker fetches the weights of all shards, computes the gradient of
its own rows, and each shard takes the sum of its part. The weights that the workers use come to them by reference.
"""

from __future__ import annotations

import numpy as np

import obsray

FEATURES = 8
SHARDS = 2
WORKERS = 4
ROWS_PER_WORKER = 200
ROUNDS = 120
LEARNING_RATE = 0.3


@obsray.remote(num_cpus=0)
class Shard:
    """Some of the weights."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size)

    def read(self) -> np.ndarray:
        return self.weights.copy()

    def step(self, *gradients: np.ndarray) -> np.ndarray:
        """Go down the mean of the gradients; returns the new weights."""
        self.weights -= LEARNING_RATE * np.mean(gradients, axis=0)
        return self.weights.copy()


def rows_of(worker: int, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The examples that a worker has: inputs, and what they lead to with a little noise."""
    chance = np.random.default_rng(worker)
    inputs = chance.normal(size=(ROWS_PER_WORKER, FEATURES))
    return inputs, inputs @ truth + chance.normal(scale=0.01, size=ROWS_PER_WORKER)


@obsray.remote(num_returns=SHARDS)
def gradient(rows: tuple[np.ndarray, np.ndarray], *weights: np.ndarray) -> list[np.ndarray]:
    """The gradient of the squared error on these rows, one part for each shard."""
    inputs, wanted = rows
    error = inputs @ np.concatenate(weights) - wanted
    return np.split(inputs.T @ error / len(wanted), SHARDS)


def main() -> None:
    truth = np.arange(FEATURES) - 2.5
    shards = [Shard.remote(FEATURES // SHARDS) for _ in range(SHARDS)]
    rows = [obsray.put(rows_of(worker, truth)) for worker in range(WORKERS)]
    weights = [shard.read.remote() for shard in shards]
    for _ in range(ROUNDS):
        parts = [gradient.remote(mine, *weights) for mine in rows]
        weights = [shard.step.remote(*(part[i] for part in parts)) for i, shard in enumerate(shards)]
    learned = np.concatenate(obsray.get(weights))

    everything = [rows_of(worker, truth) for worker in range(WORKERS)]
    inputs, wanted = (np.concatenate(columns) for columns in zip(*everything, strict=True))
    exact = np.linalg.lstsq(inputs, wanted, rcond=None)[0]
    assert np.allclose(learned, exact, atol=1e-6), (learned, exact)
    print(f"{WORKERS} workers, {SHARDS} shards, {ROUNDS} rounds: {ROUNDS * WORKERS} gradients of {FEATURES} weights")
    print("learned:", " ".join(f"{weight:.2f}" for weight in learned))
    print("least squares in one process gives the same weights")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
