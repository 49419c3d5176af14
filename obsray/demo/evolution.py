"""Evolution strategies: train a small network to balance a pole, with simulator actors and a parameter actor.

Each generation the parameter actor's current weights go to the simulators by reference; a simulator plays the
episodes of a block of perturbed networks; the scores go back to the parameter actor by reference, which steps.
The driver only connects references and watches. A perturbation is drawn from (seed, generation, member), so it
does not matter who plays it: the run in one process gives the same weights to the last bit.

The pole: Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult learning control
problems", 1983. The search: Salimans et al., "Evolution strategies as a scalable alternative to reinforcement
learning", 2017.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import obsray
from obsray.demo.parts import Failed, PartResult
from obsray.demo.progress import Progress

Array = NDArray[np.float64]

GRAVITY = 9.8
CART_KG = 1.0
POLE_KG = 0.1
POLE_HALF_METRES = 0.5
FORCE_NEWTONS = 10.0
STEP_SECONDS = 0.02
ANGLE_MAX = 12 * math.pi / 180
POSITION_MAX_METRES = 2.4
STEPS_MAX = 500

INPUTS = 4
HIDDEN = 16
WEIGHTS = INPUTS * HIDDEN + HIDDEN + HIDDEN + 1


@dataclass(frozen=True, slots=True)
class Search:
    """How large the search is. ``members`` are perturbed networks in a generation, half of them mirrored."""

    generations: int
    members: int
    episodes: int
    blocks: int
    seed: int = 7
    noise: float = 0.15
    learning_rate: float = 0.4

    @property
    def pairs_per_block(self) -> int:
        return self.members // 2 // self.blocks


def play(networks: Array, starts: Array) -> Array:
    """Steps survived by each network (rows of ``networks``) from each start (rows of ``starts``), at most STEPS_MAX.

    All episodes advance together. Every operation is element by element, so an episode's course does not depend on
    which others are played beside it.
    """
    count, episodes = len(networks), len(starts)
    first = networks[:, : INPUTS * HIDDEN].reshape(count, 1, INPUTS, HIDDEN)
    bias = networks[:, INPUTS * HIDDEN : (INPUTS + 1) * HIDDEN].reshape(count, 1, HIDDEN)
    second = networks[:, (INPUTS + 1) * HIDDEN : (INPUTS + 2) * HIDDEN].reshape(count, 1, HIDDEN)
    offset = networks[:, -1].reshape(count, 1)
    x, v, angle, spin = (np.broadcast_to(starts[:, i], (count, episodes)).copy() for i in range(INPUTS))
    alive = np.ones((count, episodes), dtype=bool)
    steps = np.zeros((count, episodes))
    total_kg = CART_KG + POLE_KG
    for _ in range(STEPS_MAX):
        hidden = bias + x[..., None] * first[:, :, 0]
        hidden += v[..., None] * first[:, :, 1]
        hidden += angle[..., None] * first[:, :, 2]
        hidden += spin[..., None] * first[:, :, 3]
        np.tanh(hidden, out=hidden)
        hidden *= second
        decision = offset.copy() + hidden[..., 0]
        for unit in range(1, HIDDEN):
            decision += hidden[..., unit]
        force = np.where(decision > 0, FORCE_NEWTONS, -FORCE_NEWTONS)
        cos, sin = np.cos(angle), np.sin(angle)
        pull = (force + POLE_KG * POLE_HALF_METRES * spin * spin * sin) / total_kg
        spin_rate = (GRAVITY * sin - cos * pull) / (POLE_HALF_METRES * (4 / 3 - POLE_KG * cos * cos / total_kg))
        v_rate = pull - POLE_KG * POLE_HALF_METRES * spin_rate * cos / total_kg
        x += STEP_SECONDS * v
        v += STEP_SECONDS * v_rate
        angle += STEP_SECONDS * spin
        spin += STEP_SECONDS * spin_rate
        alive &= (np.abs(x) <= POSITION_MAX_METRES) & (np.abs(angle) <= ANGLE_MAX)
        if not alive.any():
            break
        steps += alive
        # A fallen pole stays where it is: its numbers would grow without bound.
        for state in (x, v, angle, spin):
            state *= alive
    return steps


def perturbations(search: Search, generation: int, block: int) -> Array:
    """The block's random directions, one row each; each row has its own seed."""
    first = block * search.pairs_per_block
    rows = [
        np.random.default_rng((search.seed, generation, first + row)).standard_normal(WEIGHTS)
        for row in range(search.pairs_per_block)
    ]
    return np.stack(rows)


def starts_of(search: Search, generation: int) -> Array:
    """Where the episodes of a generation begin; the same for all members, so that scores compare."""
    chance = np.random.default_rng((search.seed, generation, search.members))
    spread = np.array([0.5, 0.5, 0.1, 0.5])
    starts: Array = chance.uniform(-spread, spread, (search.episodes, INPUTS))
    return starts


def score_block(search: Search, generation: int, block: int, weights: Array) -> Array:
    """Mean steps survived of weights + noise and weights - noise, for each direction of the block: shape (pairs, 2)."""
    directions = search.noise * perturbations(search, generation, block)
    starts = starts_of(search, generation)
    networks = np.concatenate([weights + directions, weights - directions])
    scores = play(networks, starts).mean(axis=1)
    pairs: Array = scores.reshape(2, -1).T.copy()
    return pairs


class Learner:
    """The weights and the search's step; used by the parameter actor and by the run in one process."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.weights: Array = np.zeros(WEIGHTS)
        self.momentum: Array = np.zeros(WEIGHTS)
        self.rewards: list[float] = []

    def step(self, generation: int, scores: list[Array]) -> float:
        """Move along the directions weighted by the ranks of their scores; the generation's mean score."""
        directions = np.concatenate([perturbations(self.search, generation, block) for block in range(len(scores))])
        pairs = np.concatenate(scores)
        ranks = pairs.ravel().argsort(kind="stable").argsort(kind="stable").reshape(pairs.shape)
        weight = (ranks[:, 0] - ranks[:, 1]) / (pairs.size - 1)
        gradient = (weight[:, None] * directions).sum(axis=0) / (len(pairs) * self.search.noise)
        self.momentum = 0.8 * self.momentum + 0.2 * gradient
        self.weights = self.weights + self.search.learning_rate * self.momentum
        self.rewards.append(float(pairs.mean()))
        return self.rewards[-1]


@obsray.remote
class Parameters:
    """Holds the weights; the only one that changes them."""

    def __init__(self, search: Search) -> None:
        self.learner = Learner(search)

    def current(self) -> Array:
        return self.learner.weights

    def step(self, generation: int, *scores: Array) -> float:
        return self.learner.step(generation, list(scores))

    def outcome(self) -> tuple[Array, list[float]]:
        return self.learner.weights, self.learner.rewards


@obsray.remote
class Simulator:
    """Plays episodes."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def score(self, generation: int, block: int, weights: Array) -> Array:
        return score_block(self.search, generation, block, weights)


def train_distributed(search: Search, simulators: int, progress: Progress) -> tuple[Array, list[float], int, str]:
    """Weights, mean score per generation, number of actor calls, and the id of the last step's task."""
    parameters: Any = cast(Any, Parameters).remote(search)
    crew: list[Any] = [cast(Any, Simulator).remote(search) for _ in range(simulators)]
    calls = 0
    step = None
    for generation in range(search.generations):
        weights = parameters.current.remote()
        scores = [crew[block % simulators].score.remote(generation, block, weights) for block in range(search.blocks)]
        step = parameters.step.remote(generation, *scores)
        calls += 2 + search.blocks
        reward = obsray.get(step)
        progress.advance(note=f"{reward:.0f} steps upright")
    weights, rewards = obsray.get(parameters.outcome.remote())
    for actor in (parameters, *crew):
        obsray.kill(actor)
    assert step is not None
    return weights, rewards, calls + 1, step.task_id().hex()


def train_alone(search: Search, progress: Progress) -> tuple[Array, list[float]]:
    """The same search in this process: the same functions, one block after the other."""
    learner = Learner(search)
    for generation in range(search.generations):
        scores = [score_block(search, generation, block, learner.weights) for block in range(search.blocks)]
        reward = learner.step(generation, scores)
        progress.advance(note=f"{reward:.0f} steps upright")
    return learner.weights, learner.rewards


def run(progress: Progress, *, quick: bool = False) -> PartResult:
    """Train with actors and again in this process alone; same seeds must give the same weights, and it must learn."""
    simulators = max(1, int(obsray.cluster_resources().get("CPU", 1)))
    search = Search(
        generations=16 if quick else 30,
        members=64 if quick else 128,
        episodes=8 if quick else 16,
        # A multiple of the simulators, so that each plays the same number of blocks.
        blocks=2 if quick else 4,
    )

    progress.begin("evolution", search.generations, "generations")
    started = time.perf_counter()
    weights, rewards, calls, story = train_distributed(search, min(simulators, search.blocks), progress)
    seconds = time.perf_counter() - started

    progress.begin("evolution, one process", search.generations, "generations")
    started = time.perf_counter()
    expected_weights, expected_rewards = train_alone(search, progress)
    seconds_alone = time.perf_counter() - started

    if not np.allclose(rewards, expected_rewards, rtol=1e-9) or not np.allclose(weights, expected_weights, rtol=1e-9):
        raise Failed(f"evolution: rewards {rewards[-3:]} differ from the one-process run's {expected_rewards[-3:]}")
    first, last = rewards[0], max(rewards[-3:])
    if last < 2 * first:
        raise Failed(f"evolution: did not learn: the pole stood {first:.0f} steps at first, {last:.0f} at the end")
    episodes = search.generations * search.members * search.episodes
    same = "to the last bit" if np.array_equal(weights, expected_weights) else "within 1e-9"
    return PartResult(
        name="evolution",
        tasks=calls,
        seconds=seconds,
        seconds_alone=seconds_alone,
        story=story,
        did=f"{episodes:,} episodes of cart-pole in {search.generations} generations, {min(simulators, search.blocks)} "
        f"simulator actors and a parameter actor; the pole stands {first:.0f} → {rewards[-1]:.0f} of {STEPS_MAX} steps",
        checked=f"weights equal the one-process run's {same}",
        facts={"episodes": episodes, "reward_first": first, "reward_last": rewards[-1], "generations": len(rewards)},
    )
