"""The loop of the Ray paper's figure 3: simulators as actors, rollouts, a policy that is updated from them.

A bandit with ten arms stands for the simulator, a softmax over arms for the policy, and REINFORCE for the update. The
driver only passes references: a policy goes from the task that made it to all simulators, and the rollouts go from
them to the next update. Every random number comes from a seed, so the same loop in one process gives the same policy.
"""

from __future__ import annotations

import numpy as np

import obsray

ARMS = 10
SIMULATORS = 4
ROUNDS = 60
STEPS = 50
LEARNING_RATE = 0.5

Rollout = tuple[np.ndarray, np.ndarray]


def probabilities(policy: np.ndarray) -> np.ndarray:
    """How likely the policy is to pull each arm."""
    weights = np.exp(policy - policy.max())
    return weights / weights.sum()


class Simulator:
    """A bandit whose arms pay differently well; it remembers how far its own chance has come."""

    def __init__(self, seed: int) -> None:
        self.chance = np.random.default_rng(seed)
        self.pays = np.linspace(0, 1, ARMS)

    def rollout(self, policy: np.ndarray, steps: int) -> Rollout:
        """The arms that the policy pulled, and what each paid."""
        arms = self.chance.choice(ARMS, size=steps, p=probabilities(policy))
        return arms, self.pays[arms] + self.chance.normal(0, 0.1, size=steps)


def create_policy() -> np.ndarray:
    """Every arm is as likely as the others."""
    return np.zeros(ARMS)


def update_policy(policy: np.ndarray, *rollouts: Rollout) -> np.ndarray:
    """One step towards arms that paid more than the average."""
    arms = np.concatenate([arms for arms, _ in rollouts])
    paid = np.concatenate([paid for _, paid in rollouts])
    advantage = paid - paid.mean()
    step = np.bincount(arms, weights=advantage, minlength=ARMS) - probabilities(policy) * advantage.sum()
    return policy + LEARNING_RATE * step / np.sqrt(len(arms))


def train() -> np.ndarray:
    """The loop: all of it is submitted at once, and waits for itself."""
    simulators = [obsray.remote(Simulator).options(num_cpus=0).remote(seed) for seed in range(SIMULATORS)]
    update = obsray.remote(update_policy)
    policy = obsray.remote(create_policy).remote()
    for _ in range(ROUNDS):
        rollouts = [simulator.rollout.remote(policy, STEPS) for simulator in simulators]
        policy = update.remote(policy, *rollouts)
    return obsray.get(policy)


def train_alone() -> np.ndarray:
    """The same loop in this process."""
    simulators = [Simulator(seed) for seed in range(SIMULATORS)]
    policy = create_policy()
    for _ in range(ROUNDS):
        policy = update_policy(policy, *(simulator.rollout(policy, STEPS) for simulator in simulators))
    return policy


def main() -> None:
    policy = train()
    assert np.array_equal(policy, train_alone()), "the order of the loop does not decide what is learned"
    best = int(policy.argmax())
    assert best == ARMS - 1, f"arm {best} was learned, arm {ARMS - 1} pays best"
    print(f"{ROUNDS} updates from {ROUNDS * SIMULATORS} rollouts of {STEPS} steps")
    print(f"the policy pulls the best arm with probability {probabilities(policy)[best]:.2f}")
    print("the loop in one process learns the same, to the last bit")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
