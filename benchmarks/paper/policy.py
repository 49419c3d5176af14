"""The policy that is served in Table 3: from a batch of states to one action each, behind an actor and behind HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

BATCH = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """``state_bytes`` of each state of a batch, and what evaluating a batch takes (on a device that is not here)."""

    name: str
    state_bytes: int
    seconds: float

    def batch(self, seed: int) -> np.ndarray:
        """A batch of states that differ."""
        states = np.zeros((BATCH, self.state_bytes // 4), dtype=np.float32)
        states[:] = np.arange(seed, seed + BATCH, dtype=np.float32)[:, None]
        return states

    def actions(self, states: np.ndarray) -> np.ndarray:
        """Needs the whole state, its first and last number."""
        time.sleep(self.seconds)
        found: np.ndarray = states[:, 0] + states[:, -1]
        return found

    def check(self, seed: int, actions: np.ndarray) -> None:
        assert np.array_equal(actions, 2 * np.arange(seed, seed + BATCH, dtype=np.float32)), "actions of other states"


SMALL = Policy("small states, 4 KB", 4_096, 0.010)
LARGE = Policy("large states, 100 KB", 102_400, 0.005)
POLICIES = {policy.name: policy for policy in (SMALL, LARGE)}
