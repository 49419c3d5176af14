"""A model behind an async actor that gathers requests into batches, and clients that ask it at the same time.

The actor keeps the model; requests that arrive while a batch is computed form the next one. So many small requests cost
few large computations, and each client still gets its own answer. A second actor takes over under the same name.
"""

from __future__ import annotations

import asyncio

import numpy as np

import obsray

INPUTS = 16
CLASSES = 4
CLIENTS = 6
REQUESTS = 50


def weights_of(version: int) -> np.ndarray:
    """The model of a version."""
    return np.random.default_rng(version).normal(size=(INPUTS, CLASSES))


@obsray.remote(num_cpus=0)
class Model:
    """Answers requests in batches."""

    def __init__(self, version: int) -> None:
        self.version, self.weights = version, weights_of(version)
        self.waiting: list[tuple[np.ndarray, asyncio.Future[int]]] = []
        self.batches = self.requests = 0

    async def predict(self, features: np.ndarray) -> tuple[int, int]:
        """The class of one input, and the version that says so."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append((features, answer))
        if len(self.waiting) == 1:
            # The first of a batch computes it, after the others that are here already have joined.
            await asyncio.sleep(0)
            self._compute()
        return await answer, self.version

    def _compute(self) -> None:
        batch, self.waiting = self.waiting, []
        scores = np.stack([features for features, _ in batch]) @ self.weights
        for (_, answer), best in zip(batch, scores.argmax(axis=1), strict=True):
            answer.set_result(int(best))
        self.batches, self.requests = self.batches + 1, self.requests + len(batch)

    async def counts(self) -> tuple[int, int]:
        return self.requests, self.batches


@obsray.remote
def client(number: int) -> list[tuple[np.ndarray, int, int]]:
    """Ask the model that is called "model" many times; what was asked, and the answers."""
    model = obsray.get_actor("model")
    inputs = np.random.default_rng(1000 + number).normal(size=(REQUESTS, INPUTS))
    answers = obsray.get([model.predict.remote(features) for features in inputs])
    return [(features, *answer) for features, answer in zip(inputs, answers, strict=True)]


def serve(version: int) -> tuple[int, int]:
    """Put a version into service and let all clients ask it. Returns requests and batches."""
    model = Model.options(name="model").remote(version)
    for answers in obsray.get([client.remote(number) for number in range(CLIENTS)]):
        for features, best, by in answers:
            assert by == version, f"version {by} answered"
            assert best == int((features @ weights_of(version)).argmax()), "an answer of another request"
    counts = obsray.get(model.counts.remote())
    obsray.kill(model)
    return counts


def main() -> None:
    for version in (1, 2):
        requests, batches = serve(version)
        assert requests == CLIENTS * REQUESTS and batches <= requests
        print(f"version {version} answered {requests} requests of {CLIENTS} clients in batches")
    print("every client got the answers that the model gives one by one")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
