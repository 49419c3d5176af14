"""Data-parallel training with an allreduce: actors that keep equal copies of a model by summing their gradients.

Each actor draws its own batches; after ``collective.allreduce`` all of them hold the same mean gradient, bit for bit,
so their models stay equal without a server. At the end the telemetry says what went over the ring.
"""

from __future__ import annotations

import numpy as np

import obsray
from obsray.util import collective, state

MEMBERS = 3
FEATURES = 50_000
ROUNDS = 5


@obsray.remote(num_cpus=0)
class Trainer:
    """One copy of the model."""

    def __init__(self, rank: int) -> None:
        collective.init_collective_group(MEMBERS, rank, group_name="trainers")
        self.chance = np.random.default_rng(rank)
        self.weights = np.zeros(FEATURES)

    def gradient(self) -> np.ndarray:
        """What this copy's batch says."""
        return self.chance.normal(size=FEATURES) + self.weights

    def train(self, rounds: int) -> np.ndarray:
        for _ in range(rounds):
            mean = self.gradient()
            collective.allreduce(mean, "trainers")
            mean /= MEMBERS
            self.weights -= 0.1 * mean
        return self.weights


def train_alone(rounds: int) -> np.ndarray:
    """The same training in this process."""
    chances = [np.random.default_rng(rank) for rank in range(MEMBERS)]
    weights = np.zeros(FEATURES)
    for _ in range(rounds):
        weights -= 0.1 * np.mean([chance.normal(size=FEATURES) + weights for chance in chances], axis=0)
    return weights


def sent_bytes() -> list[tuple[int, int]]:
    """For each allreduce of each member: bytes of its array, and bytes it sent."""
    rows = state.ask(None, lambda views: views.store.rows("collective_ended"))
    return [(row["data_bytes"], row["sent_bytes"]) for row in rows if row["operation"] == "allreduce"]


def main() -> None:
    trainers = [Trainer.remote(rank) for rank in range(MEMBERS)]
    first, *others = obsray.get([trainer.train.remote(ROUNDS) for trainer in trainers])
    assert all(np.array_equal(first, other) for other in others), "copies differ"
    assert np.allclose(first, train_alone(ROUNDS)), "the model is not the one that one process trains"
    operations = sent_bytes()
    assert len(operations) == MEMBERS * ROUNDS
    data, sent = operations[0]
    least = 2 * (MEMBERS - 1) / MEMBERS
    assert sent / data < least * 1.01, (sent, data)
    print(f"{MEMBERS} copies of {FEATURES} weights are equal bit by bit after {ROUNDS} rounds")
    print(f"each member sent {sent / data:.2f} times its array; no ring can do with less than {least:.2f}")
    print("one process trains the same model")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
