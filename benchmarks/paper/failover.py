"""Figure 10a: how long a client of the control store waits when that is killed, and whether it forgets anything.

One client writes and reads keys of 25 bytes with values of 512 bytes, one request at a time. The control store is
killed by SIGKILL; either another node has a standby that takes over, or its own node starts it again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field

import obsray
from benchmarks.paper.cluster import cluster, processes
from benchmarks.paper.experiment import Run
from benchmarks.paper.result import Axis, Chart, Claim, Mark, Point, Result, Row, Series, between, significant
from obsray.cluster_utils import ClusterNode
from obsray.experimental import internal_kv

KEY_BYTES, VALUE_BYTES, KEYS = 25, 512, 500
STANDBY, ALONE = "a standby takes over", "its node starts it again"
#: Points of the curve: the slowest request in each interval.
BIN_SECONDS = 0.1
#: Who waits because of the kill is among those that ask until then.
AFTERMATH_SECONDS = 1.0


@dataclass(slots=True)
class Trace:
    """Requests of one run: (seconds since its begin, seconds until the answer), and what was acknowledged."""

    requests: list[tuple[float, float]] = field(default_factory=list)
    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    killed_at: float = 0.0

    def slowest_ms(self, of_the_kill: bool) -> float:
        """Of those that were under way at the kill or asked soon after it, or of all others."""
        return 1e3 * max(seconds for at, seconds in self.requests if of_the_kill == self._near(at, seconds))

    def _near(self, at: float, seconds: float) -> bool:
        return at + seconds >= self.killed_at and at <= self.killed_at + AFTERMATH_SECONDS

    def usual_ms(self) -> float:
        ordered = sorted(seconds for _, seconds in self.requests)
        return 1e3 * ordered[len(ordered) // 2]


def kill_control_store(head: ClusterNode) -> None:
    """SIGKILL to the one that serves: the head's, a standby belongs to another node."""
    (victim,) = (each for each in processes()["control store"] if each.ppid() == head.pid)
    os.kill(victim.pid, signal.SIGKILL)


def requests(head: ClusterNode, seconds: float, kill_at: float, chance: random.Random) -> Trace:
    """Writes and reads in turn for so long. Raises AssertionError if a read gives anything but the last write."""
    trace = Trace()
    keys = [f"key-{number}".ljust(KEY_BYTES, "-").encode() for number in range(KEYS)]
    # The client is connected by then: its first request loads what it needs for that.
    internal_kv._internal_kv_exists(keys[0])
    began, killed = time.perf_counter(), False
    while (now := time.perf_counter() - began) < seconds:
        if not killed and now >= kill_at:
            kill_control_store(head)
            killed, trace.killed_at = True, now
        key, value = chance.choice(keys), chance.randbytes(VALUE_BYTES)
        asked = time.perf_counter()
        internal_kv._internal_kv_put(key, value, overwrite=True)
        written = time.perf_counter()
        trace.acknowledged[key] = value
        answer = internal_kv._internal_kv_get(key)
        read = time.perf_counter()
        assert answer == value, "a write that was acknowledged is not what is read"
        trace.requests += [(asked - began, written - asked), (written - began, read - written)]
    for key, value in trace.acknowledged.items():
        assert internal_kv._internal_kv_get(key) == value, "a write that was acknowledged is lost"
    return trace


@obsray.remote
def still_there(number: int) -> int:
    return number


def body(run: Run) -> Result:
    seconds, kill_at = run.pick((8.0, 4.2), (2.5, 1.0))
    traces: dict[str, list[Trace]] = defaultdict(list)
    chance = random.Random(10)
    for _ in range(run.pick(3, 1)):
        for name in (STANDBY, ALONE):
            with cluster([{"num_cpus": 1}, {"num_cpus": 1, "standby": name == STANDBY}]) as (_, nodes):
                traces[name].append(requests(nodes[0], seconds, kill_at, chance))
                assert obsray.get(still_there.remote(7)) == 7
            last = traces[name][-1]
            run.say(f"{name}: {len(last.requests)} requests, slowest {last.slowest_ms(True):.0f} ms, none lost")
    return result(traces, kill_at)


def curve(name: str, trace: Trace) -> Series:
    slowest: dict[int, float] = defaultdict(float)
    for at, seconds in trace.requests:
        slowest[int(at / BIN_SECONDS)] = max(slowest[int(at / BIN_SECONDS)], 1e3 * seconds)
    return Series(name, [Point(number * BIN_SECONDS, [ms]) for number, ms in sorted(slowest.items())])


def result(traces: dict[str, list[Trace]], kill_at: float) -> Result:
    chart = Chart(
        "failover",
        "Figure 10a: latency of the control store, which is killed once",
        Axis("time (s)"),
        Axis(f"slowest request in {BIN_SECONDS:g} s (ms)", log=True),
        [curve(name, some[0]) for name, some in traces.items()],
        [Mark(kill_at, "killed")],
    )
    slowest = {name: [trace.slowest_ms(True) for trace in some] for name, some in traces.items()}
    count = sum(len(trace.requests) for some in traces.values() for trace in some)
    rows = [
        Row(f"longest wait of the client: {name}", "< 30 ms" if name == STANDBY else "–", between(times, " ms"))
        for name, times in slowest.items()
    ]
    usual = [trace.usual_ms() for some in traces.values() for trace in some]
    rows.append(Row("a request otherwise (median)", "–", between(usual, " ms")))
    others = [trace.slowest_ms(False) for some in traces.values() for trace in some]
    rows.append(Row("the slowest request otherwise", "–", between(others, " ms")))
    rows.append(Row("requests, and acknowledged writes that were lost", "–, none", f"{count:,}, 0"))
    worst = max(slowest[STANDBY])
    claims = [
        Claim("the client waits less than 30 ms", f"{significant(worst)} ms", worst < 30),
        Claim("the client notices nothing but the wait: no error, no acknowledged write lost", "none", True),
        Claim(
            "a member that is ready takes over sooner than one that is started",
            f"{significant(worst)} against {significant(max(slowest[ALONE]))} ms",
            worst < max(slowest[ALONE]),
        ),
    ]
    return Result([chart], rows, claims)
