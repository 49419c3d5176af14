"""Table 3: a policy that answers batches of states, as an actor and behind a web server, over the number of clients.

Clients are the same processes in both cases and make a new batch for each request. Evaluating takes 10 ms for small
states and 5 ms for large ones, on a device that is only waited for, so what is left to see is the way of the states.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import obsray
from benchmarks.paper.experiment import Run
from benchmarks.paper.policy import BATCH, LARGE, POLICIES, SMALL, Policy
from benchmarks.paper.result import Axis, Chart, Claim, Result, Row, Series, between, series_of, significant

ACTOR, RAW, JSON = "actor", "HTTP, bytes", "HTTP, JSON"
#: States a second of the paper: Clipper, Ray.
PAPER = {SMALL.name: ("4,400", "6,200"), LARGE.name: ("290", "6,900")}


class Server:
    """The actor that serves."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def evaluate(self, states: np.ndarray) -> np.ndarray:
        return self.policy.actions(states)


class Client:
    """Asks again and again, and checks every answer."""

    def __init__(self, policy: Policy, server: Any, port: int) -> None:
        self.policy, self.server = policy, server
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, way: str, begin: float, seconds: float) -> tuple[float, int]:
        """From ``begin`` for so long: seconds that it took, and how many batches were answered."""
        ask = {ACTOR: self._actor, RAW: self._raw, JSON: self._json}[way]
        self.policy.check(7, ask(self.policy.batch(7)))
        while (left := begin - time.monotonic()) > 0:
            time.sleep(left)
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            self.policy.check(count, ask(self.policy.batch(count)))
            count += 1
        return time.monotonic() - began, count

    def _actor(self, states: np.ndarray) -> np.ndarray:
        answer: np.ndarray = obsray.get(self.server.evaluate.remote(states))
        return answer

    def _raw(self, states: np.ndarray) -> np.ndarray:
        return np.frombuffer(self._post("/raw", states.tobytes()), dtype=np.float32)

    def _json(self, states: np.ndarray) -> np.ndarray:
        return np.array(json.loads(self._post("/json", json.dumps(states.tolist()).encode())), dtype=np.float32)

    def _post(self, path: str, body: bytes) -> bytes:
        self.connection.request("POST", path, body)
        response = self.connection.getresponse()
        answer = response.read()
        assert response.status == 200, f"the web server answered {response.status}"
        return answer


RemoteServer: Any = obsray.remote(num_cpus=0)(Server)
RemoteClient: Any = obsray.remote(num_cpus=0)(Client)


@contextmanager
def web_server(policy: Policy) -> Iterator[int]:
    """Its port. It ends when its standard input does."""
    command = [sys.executable, "-m", "benchmarks.paper.web_server", policy.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


def body(run: Run) -> Result:
    clients_max, seconds = run.pick((4, 1.5), (2, 0.2))
    counts = [count for count in (1, 2, 4) if count <= clients_max]
    rates: dict[str, dict[str, dict[float, list[float]]]] = {}
    obsray.init(num_cpus=2, include_dashboard=False)
    try:
        for policy in POLICIES.values():
            found = rates[policy.name] = {way: defaultdict(list) for way in (ACTOR, RAW, JSON)}
            with web_server(policy) as port:
                server = RemoteServer.remote(policy)
                clients = [RemoteClient.remote(policy, server, port) for _ in range(clients_max)]
                for _ in range(run.pick(3, 1)):
                    for count in counts:
                        for way in found:
                            begin = time.monotonic() + 0.1
                            asked = [client.ask.remote(way, begin, seconds) for client in clients[:count]]
                            answers = obsray.get(asked)
                            found[way][count].append(sum(BATCH * batches / took for took, batches in answers))
                del server, clients
            for count in counts:
                words = ", ".join(f"{way} {between(some[count], '/s')}" for way, some in found.items())
                run.say(f"{policy.name}, {count} clients: {words}")
    finally:
        obsray.shutdown()
    return result(rates)


def result(rates: dict[str, dict[str, dict[float, list[float]]]]) -> Result:
    charts, rows = [], []
    lines: dict[str, dict[str, Series]] = {}
    for number, (name, found) in enumerate(rates.items()):
        lines[name] = {way: series_of(way, some) for way, some in found.items()}
        possible = {count: [BATCH / POLICIES[name].seconds] for count in found[ACTOR]}
        charts.append(
            Chart(
                f"serving-{('small', 'large')[number]}",
                f"Table 3: {name}",
                Axis("clients", log=True),
                Axis("states/s", log=True),
                [*lines[name].values(), series_of("evaluation alone", possible, True)],
            )
        )
        one = min(found[ACTOR])
        for way, paper in ((JSON, f"Clipper: {PAPER[name][0]}/s"), (RAW, "–"), (ACTOR, f"Ray: {PAPER[name][1]}/s")):
            rows.append(Row(f"{name}, 1 client, {way}", paper, between(found[way][one], "/s")))
    large = lines[LARGE.name]
    ratios = {
        (name, way): lines[name][ACTOR].at(1) / lines[name][way].at(1) for name in POLICIES for way in (RAW, JSON)
    }
    first, second, share = SMALL.name, LARGE.name, large[ACTOR].at(1) / (BATCH / LARGE.seconds)
    rows += [
        Row("actor : HTTP with JSON, small states", "1.4 × (computed)", f"{significant(ratios[first, JSON])} ×"),
        Row("actor : HTTP with JSON, large states", "24 × (computed)", f"{significant(ratios[second, JSON])} ×"),
        Row("actor : HTTP with bytes, large states", "–", f"{significant(ratios[second, RAW])} ×"),
    ]
    claims = [
        Claim(
            "small states: the actor is a little faster",
            f"{significant(ratios[first, RAW])} × HTTP with bytes",
            ratios[first, RAW] >= 1,
        ),
        Claim(
            "large states: an order of magnitude faster than an interface of text",
            f"{significant(ratios[second, JSON])} ×",
            ratios[second, JSON] >= 10,
        ),
        Claim(
            "large states cost the actor little: most of what evaluation allows",
            f"{100 * share:.0f} %",
            share >= 0.5,
        ),
        Claim(
            "the larger the states, the larger the difference",
            f"{significant(ratios[first, RAW])} × and {significant(ratios[second, RAW])} × HTTP with bytes",
            ratios[second, RAW] > ratios[first, RAW],
        ),
    ]
    return Result(charts, rows, claims)
