"""A recorded job run again on paper: the same graph and durations, on as many workers and as fast as one likes.

A context's program is a list of actions: so much computing, then a submission or a wait. Tasks run when their arguments
are there and what they ask for is free on a node where they may run; as the scheduler has it, whoever holds least comes
first. Calls of an actor wait in a line of its own. Each task keeps the latency that its start had beyond what it waited
for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from obsray.telemetry.answers.replay_leases import Leases, Process
from obsray.telemetry.answers.replay_model import FRESH, KEPT, Model
from obsray.telemetry.answers.replay_processors import Line

_ACT, _ENDED, _STARTED, _DO, _FAILED, _AGAIN, _GIVES_UP, _ITEM = range(8)


@dataclass(frozen=True)
class Change:
    """What is different in a replay. Factors say how many times faster; ``workers`` how many times as much of
    everything, infinity included."""

    workers: float = 1.0
    functions: dict[str, float] = field(default_factory=dict)
    network: float = 1.0
    driver: float = 1.0
    no_stragglers: bool = False

    def described(self) -> str:
        """The change in words."""
        said = []
        if self.workers != 1:
            said.append("unlimited workers" if self.workers == float("inf") else f"{self.workers:g} x workers")
        said += [f"{name} {factor:g} x faster" for name, factor in self.functions.items()]
        if self.network != 1:
            said.append(f"network {self.network:g} x faster")
        if self.driver != 1:
            said.append(f"driver {self.driver:g} x faster")
        if self.no_stragglers:
            said.append("no stragglers (runs of a function capped at its 95th percentile)")
        return ", ".join(said) or "nothing changed"


class Replay:
    """One replay: a clock, what is free, who waits. ``run`` says how long the job takes, from its first submission to
    its end; ``starts`` and ``ends`` are then the seconds of each task (None: it never came to that)."""

    def __init__(self, model: Model, change: Change) -> None:
        self.model, self.change = model, change
        run, fetch = model.changed(change)
        self.fixed = (fetch + model.other).tolist()
        self.run_seconds, self.run_before = run.tolist(), model.run.tolist()
        self.latency = model.latency.tolist()
        self.actor, self.context = model.actor.tolist(), model.context.tolist()
        self.leases = Leases(model, change.workers, self._later, self._begin)
        #: Who submits what drivers and actors do.
        self.owners: dict[int, Process] = {}
        self.actions: dict[int, Callable[[], None]] = {}
        self.slots = list(model.slots)
        self.lines: list[deque[int]] = [deque() for _ in self.slots]
        self.missing = list(model.missing)
        self.tries = {task: deque(tries) for task, tries in model.tries.items()}
        count = model.count
        self.submitted = [False] * count
        #: Of tasks and, behind tasks and drivers, of items.
        self.done = [False] * (count + len(model.graph.drivers) + model.item_count)
        self.starts: list[float | None] = [None] * count
        self.ends: list[float | None] = [None] * count
        self.step: dict[int, int] = {}
        self.waiters: dict[int, list[tuple[int, int]]] = {}
        #: Context -> how many of what it waits for are missing, which wait that is.
        self.wanted: dict[int, list[int]] = {}
        self.heap: list[tuple[float, int, int, int]] = []
        self.order, self.now, self.last = 0, 0.0, 0.0
        #: What drivers that hand out short tasks compute, by context.
        self.lines_of: dict[int, Line] = {}
        if model.handing.any:
            drivers = range(count, count + len(model.graph.drivers))
            self.lines_of = {context: Line(self.leases.processors, self._clock) for context in drivers}

    def _clock(self) -> float:
        return self.now

    def run(self) -> float:
        self.leases.open()
        for number in range(len(self.model.graph.drivers)):
            self._advance(self.model.count + number)
        handlers = {
            _ACT: self._act, _ENDED: self._ended, _STARTED: self._started, _DO: self._do,
            _FAILED: self._failed, _AGAIN: self._again, _GIVES_UP: self._gives_up,
            _ITEM: self._item,
        }  # fmt: skip
        while self.heap:
            self.now, _, what, which = heapq.heappop(self.heap)
            self.leases.now = self.now
            handlers[what](which)
        return self.last

    @property
    def unfinished(self) -> int:
        """How many tasks had not ended when nothing was left to be done."""
        return self.model.count - sum(self.done[: self.model.count])

    def _at(self, seconds: float, what: int, which: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (self.now + seconds, self.order, what, which))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._at(seconds, _DO, self.order + 1)
        self.actions[self.order] = action

    def _do(self, which: int) -> None:
        self.actions.pop(which)()

    # --- contexts --------------------------------------------------------------------------------------------

    def _speed(self, context: int) -> float:
        """By how much computing in a context is shorter."""
        if context >= self.model.count:
            return 1.0 / self.change.driver
        before = self.run_before[context]
        return self.run_seconds[context] / before if before > 0 else 1.0

    def _advance(self, context: int, news: float = 0.0) -> None:
        """The computing before a context's next action begins."""
        step, program = self.step.get(context, 0), self.model.program.get(context, [])
        if step < len(program):
            seconds, line = program[step][0] * self._speed(context), self.lines_of.get(context)
            if line is None:
                self._at(news + seconds, _ACT, context)
                return
            drivers = self.model.handing.drivers
            computed = seconds * drivers.computing
            self._later(news + seconds * drivers.resting, lambda: line.do(computed, lambda: self._act(context)))
        elif context < self.model.count:
            self._at(news + self.model.tail.get(context, 0.0) * self._speed(context), _ENDED, context)
        else:
            self.last = max(self.last, self.now + news)

    def _act(self, context: int) -> None:
        step = self.step.get(context, 0)
        what = self.model.program[context][step][1]
        if what >= 0 and self.model.first_submission_seconds:
            process = self._owner(context)
            if not process.submitted:
                process.submitted = True
                self.leases.begin_with(self.model.first_submission_seconds, lambda: self._act(context))
                return
        self.step[context] = step + 1
        if what >= 0:
            self.submitted[what] = True
            if self.actor[what] >= 0:
                self.lines[self.actor[what]].append(what)
            if not self.missing[what]:
                self._ready(what)
            self._advance(context)
            return
        wait = -1 - what
        tasks, need, news, limit = self.model.awaited[wait]
        open_ = [task for task in tasks if not self.done[task]]
        left = need - (len(tasks) - len(open_))
        if left <= 0:
            # It was about nothing that is known: then it lasts as long as it did.
            self._advance(context, 0.0 if tasks else news)
            return
        self.wanted[context] = [left, wait]
        for task in open_:
            self.waiters.setdefault(task, []).append((context, wait))
        if limit != float("inf"):
            self._at(limit, _GIVES_UP, context)
        if context < self.model.count and self.actor[context] < 0:
            self.leases.waits(context)

    def _goes_on(self, context: int, news: float) -> None:
        """A wait is over. A task goes on at once, as the scheduler has it: its CPU may be taken twice for a while."""
        del self.wanted[context]
        if context < self.model.count and self.actor[context] < 0:
            self.leases.goes_on(context)
        self._advance(context, news)

    def _gives_up(self, context: int) -> None:
        wanted = self.wanted.get(context)
        if wanted is not None and self.model.program[context][self.step[context] - 1][1] == -1 - wanted[1]:
            self._goes_on(context, 0.0)

    # --- tasks -----------------------------------------------------------------------------------------------

    def _ready(self, task: int) -> None:
        if self.actor[task] >= 0:
            self._call(self.actor[task])
            return
        self.leases.line_up(task, self._owner(self.context[task]))

    def _owner(self, context: int) -> Process:
        """The process in which a context is."""
        lease = self.leases.lease_of.get(context)
        if lease is not None:
            return lease.process
        # Of an actor all calls are in one; a task that has ended leaves what it submitted to nobody in particular.
        actor = self.actor[context] if context < self.model.count else -1
        return self.owners.setdefault(-1 - actor if actor >= 0 else context, Process(True, True))

    def _call(self, actor: int) -> None:
        """The calls of an actor that can run, in the order in which they were made."""
        line = self.lines[actor]
        while self.slots[actor] > 0:
            task = next((one for one in line if not self.missing[one]), None)
            if task is None:
                return
            line.remove(task)
            self.slots[actor] -= 1
            self._at(self.latency[task], _STARTED, task)

    def _begin(self, task: int, kind: int) -> None:
        """A task was given a worker."""
        tries = self.tries.get(task)
        if tries:
            self._at(tries[0][0], _FAILED, task)
        elif kind == FRESH and (self.model.members[task] == 1 or self.model.handing.short[task]):
            self.leases.begin_with(self.model.first_task_seconds, lambda: self._started(task))
        elif self.model.handing.short[task]:
            self._at(self.model.handing.apart[task] if kind == KEPT else self.model.usual[kind], _STARTED, task)
        else:
            self._at(self.model.latency_of(task, kind), _STARTED, task)

    def _started(self, task: int) -> None:
        self.starts[task] = self.now
        for after, item in self.model.items.get(task, ()):
            self._at(after * self._speed(task), _ITEM, item)
        if task in self.model.program:
            self._advance(task)
            return
        if self.model.handing.short[task]:
            self._short(task)
            return
        seconds, lease = self.fixed[task] + self.run_seconds[task], self.leases.lease_of.get(task)
        function = self.model.name_of[task]
        more = self.model.first_run_seconds.get(function, 0.0)
        if more and lease is not None and not self.leases.endless and function not in lease.process.ran:
            lease.process.ran.add(function)
            self.leases.begin_with(more, lambda: self._at(seconds, _ENDED, task))
        else:
            self._at(seconds, _ENDED, task)

    def _short(self, task: int) -> None:
        """A task that its driver pushed ahead runs: it computes where others do, and rests."""
        handing, speed = self.model.handing, self._speed(task)
        rest = handing.rest[task] * speed + handing.idle[task]
        self.leases.processors.compute(
            self.now, handing.work[task] + handing.cpu[task] * speed, lambda: self._at(rest, _ENDED, task)
        )

    def _left(self, task: int, ahead: int = 0) -> None:
        """A task has left its place."""
        if self.actor[task] >= 0:
            self.slots[self.actor[task]] += 1
            self._call(self.actor[task])
        else:
            self.leases.over(task, ahead)

    def _failed(self, task: int) -> None:
        _, pause = self.tries[task].popleft()
        self._left(task)
        self._at(pause, _AGAIN, task)

    def _again(self, task: int) -> None:
        """What is tried again goes to the front."""
        self.leases.line_up(task, self._owner(self.context[task]), front=True)

    def _ended(self, task: int) -> None:
        self.ends[task] = self.now
        line = self.lines_of.get(self.context[task]) if self.model.handing.short[task] else None
        if line is None:
            self._left(task)
            self._heard(task)
            return
        members, lease = self.model.members[task], self.leases.lease_of[task]
        ahead = self.model.handing.ahead(self.run_seconds[task] / members)

        def heard() -> None:
            self._heard(task)
            self.leases.heard(lease, task, ahead)

        self._left(task, ahead)
        line.do(self._hearing(task), heard)

    def _hearing(self, task: int) -> float:
        """What a driver computes for a result."""
        return self.model.handing.drivers.heard_seconds * self.model.members[task] / self.change.driver

    def _heard(self, task: int) -> None:
        """Its owner knows that a task has ended."""
        self.done[task] = True
        self.last = max(self.last, self.now)
        for consumer in self.model.feeds.get(task, ()):
            self.missing[consumer] -= 1
            if not self.missing[consumer] and self.submitted[consumer]:
                self._ready(consumer)
        self._told(task)

    def _item(self, item: int) -> None:
        self.done[item] = True
        self._told(item)

    def _told(self, what: int) -> None:
        """Whoever waited for a task or an item may go on."""
        for context, wait in self.waiters.pop(what, ()):
            wanted = self.wanted.get(context)
            if wanted is None or wanted[1] != wait:
                continue
            wanted[0] -= 1
            if wanted[0] == 0:
                news = self.model.awaited[wait][2]
                if self.lines_of and what < self.model.count and self.model.handing.short[what]:
                    news = max(0.0, news - self._hearing(what))
                self._goes_on(context, news)
