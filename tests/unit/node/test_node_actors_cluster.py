"""Actors of several nodes: where they run, who keeps them, what their names lead to, and how they end."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster_bench import ClusterBench, Member
from node_bench import actor_spec

from obsray.core.node.intake import Malformed
from obsray.core.node.resources import UNIT
from obsray.core.node.step import DisconnectPeer, KeepCheckpoint, RemoveCheckpoints
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState
from obsray.ids import NIL_WORKER, SEQUENCE_ACTOR, SEQUENCE_DETACHED_ACTOR, mark_of, task_id
from obsray.telemetry.events import DeathCause


def create(cluster: ClusterBench, home: Member, owner: bytes, number: int = 1, **changes: Any) -> bytes:
    kind = SEQUENCE_DETACHED_ACTOR if changes.get("detached") else SEQUENCE_ACTOR
    actor = task_id(owner, number, kind)
    changes = {"job": home.machine.clients[owner].job, **changes}
    home.send(owner, m.CreateActor(number, actor_spec(actor, owner, **changes)))
    cluster.settle()
    return actor


def elsewhere(cluster: ClusterBench, home: Member, owner: bytes, number: int = 1, **changes: Any) -> bytes:
    """An actor that only a node with the resource "there" can hold."""
    needs = {"resources": {"there": UNIT}, "held": {"there": UNIT}, **changes}
    return create(cluster, home, owner, number, **needs)


def worker_of(cluster: ClusterBench, actor: bytes) -> bytes:
    return next(node.actors.actors[actor].worker for node in cluster.nodes if actor in node.actors.actors)


def at(cluster: ClusterBench, worker: bytes) -> Member:
    return next(node for node in cluster.nodes if node.node[:4] == mark_of(worker))


def becomes_alive(cluster: ClusterBench, actor: bytes) -> bytes:
    """Its worker was told what to be, and its constructor returns."""
    worker = worker_of(cluster, actor)
    node = at(cluster, worker)
    assert [each.spec["actor"] for each in node.take(worker, m.StartActor)] == [actor]
    node.send(worker, m.ActorReady(actor, 7))
    cluster.settle()
    return worker


def news(member: Member, client: bytes) -> list[m.ActorChanged]:
    return member.take(client, m.ActorChanged)


def states(member: Member, client: bytes) -> list[ActorState]:
    return [ActorState(each.state) for each in news(member, client)]


@pytest.fixture
def cluster() -> ClusterBench:
    """Two nodes that have "there", and a head that has not."""
    return ClusterBench({"cpus": 2}, {"cpus": 2, "custom": {"there": 1}}, {"cpus": 2, "custom": {"there": 1}})


def test_an_actor_lives_where_the_labels_are_that_it_prefers():
    cluster = ClusterBench({"cpus": 2}, {"cpus": 2}, {"cpus": 1, "labels": {"side": "right"}})
    head = cluster.nodes[0]
    driver = head.driver()
    wish = {"placement": {"preferred": [["side", "in", ["right"]]]}, "resources": {"CPU": UNIT}, "held": {"CPU": UNIT}}
    homes = [at(cluster, worker_of(cluster, create(cluster, head, driver, number, **wish))) for number in (1, 2)]
    assert homes == [cluster.nodes[2], head]


def test_an_actor_that_waits_at_a_full_node_goes_to_one_that_joins():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, full = cluster.nodes
    driver = head.driver()
    first, second = (create(cluster, head, driver, number, held={"CPU": UNIT}) for number in (1, 2))
    becomes_alive(cluster, first)
    cluster.pass_time(0.5)
    new = cluster.add(cpus=1)
    cluster.pass_time(0.5)
    assert at(cluster, becomes_alive(cluster, second)) is new
    assert (full.leased(), new.leased()) == (1, 1)
    for member in cluster.nodes:
        member.machine.check_invariants()


def test_an_actor_runs_where_it_can_and_is_kept_where_its_owner_is(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = elsewhere(cluster, head, driver)
    worker = becomes_alive(cluster, actor)
    other = at(cluster, worker)
    assert other is not head and other.free("there") == 0
    (told,) = news(head, driver)
    assert (told.state, told.worker, told.path) == (ActorState.ALIVE, worker, other.facts.address)
    assert other.actors.actors == {}
    (placed,) = head.records.named("actor_placed")
    assert (placed["node"], placed["worker"]) == (other.node, worker)


def test_clients_of_any_node_hear_where_an_actor_is_and_reach_it_there(cluster):
    head, first, second = cluster.nodes
    driver = head.driver()
    here = create(cluster, head, driver)
    there = elsewhere(cluster, head, driver, 2)
    for actor in (here, there):
        becomes_alive(cluster, actor)
    beside = at(cluster, worker_of(cluster, there))
    clients = {head: driver, first: first.driver(), second: second.driver()}
    paths = {}
    for member, client in clients.items():
        member.take(client)
        for actor in (here, there):
            member.send(client, m.WatchActor(actor))
            cluster.settle()
            (told,) = news(member, client)
            paths[member, actor] = told.path
    third = second if beside is first else first
    assert paths[head, here].endswith(".sock")
    assert paths[first, here] == paths[second, here] == ""
    assert paths[head, there] == paths[third, there] == beside.facts.address
    assert paths[beside, there] == ""


def test_what_a_worker_elsewhere_says_reaches_the_home_and_ends_the_worker(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = elsewhere(cluster, head, driver)
    worker = worker_of(cluster, actor)
    other = at(cluster, worker)
    other.send(worker, m.ActorFailed(actor, b"pickled error", False))
    cluster.settle()
    (told,) = news(head, driver)
    assert (told.state, told.error) == (ActorState.DEAD, b"pickled error")
    assert [type(each) for each in other.take(worker)] == [m.StartActor, m.Exit]
    other.worker_dies(worker, signal=0)
    cluster.settle()
    assert news(head, driver) == [] and other.free("there") == 1


def test_an_actor_whose_process_dies_elsewhere_starts_again_and_callers_hear_of_the_actor_first(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = elsewhere(cluster, head, driver, restarts_max=1)
    worker = becomes_alive(cluster, actor)
    head.take(driver)
    at(cluster, worker).worker_dies(worker, signal=11, tail="Traceback: boom")
    cluster.settle()
    told = [each for each in head.take(driver) if isinstance(each, m.ActorChanged | m.WorkerDied)]
    assert [type(each) for each in told] == [m.ActorChanged, m.WorkerDied]
    assert told[0].state == ActorState.RESTARTING and told[0].cause == DeathCause.SIGNAL
    assert "boom" in told[0].detail and "on node node" in told[0].detail
    again = becomes_alive(cluster, actor)
    assert again != worker
    at(cluster, again).worker_dies(again)
    cluster.settle()
    assert states(head, driver)[-1] is ActorState.DEAD


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_actor_survives_its_node_only_if_it_may_start_again(cluster, restarts):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = elsewhere(cluster, head, driver, restarts_max=restarts)
    lost = at(cluster, becomes_alive(cluster, actor))
    head.take(driver)
    cluster.kill(lost)
    found = news(head, driver)
    assert found[0].cause == DeathCause.NODE_DIED and lost.facts.name in found[0].detail
    if not restarts:
        assert [each.state for each in found] == [ActorState.DEAD]
        return
    assert [each.state for each in found] == [ActorState.RESTARTING]
    again = becomes_alive(cluster, actor)
    assert at(cluster, again) not in (head, lost)
    assert head.actors.actors[actor].incarnation == 1


@pytest.mark.parametrize("signal", [0, 9], ids=["in order", "killed"])
def test_a_process_that_ends_with_a_node_that_leaves_is_no_end_of_its_actor_however_early_its_home_hears(
    cluster, signal
):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = elsewhere(cluster, head, driver, restarts_max=1)
    worker = becomes_alive(cluster, actor)
    leaver = at(cluster, worker)
    head.take(driver)
    cluster.say(leaver.node, head.node, m.encode(m.NodeLeaves("somebody asked", False)))
    cluster.settle()
    if not signal:
        leaver.send(worker, m.Goodbye())
    leaver.worker_dies(worker, signal=signal)
    cluster.settle()
    told = [each for each in head.take(driver) if isinstance(each, m.ActorChanged | m.WorkerDied)]
    assert [(type(each), each.cause) for each in told] == [
        (m.ActorChanged, DeathCause.NODE_DIED), (m.WorkerDied, DeathCause.NODE_DIED)
    ]  # fmt: skip
    assert told[0].state == ActorState.RESTARTING and "somebody asked" in told[0].detail
    assert at(cluster, becomes_alive(cluster, actor)) not in (head, leaver)


def test_an_actor_that_waited_at_a_node_that_died_waits_somewhere_else():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1, "custom": {"there": 1}})
    head, lost = cluster.nodes
    driver = head.driver()
    first = elsewhere(cluster, head, driver, 1)
    second = elsewhere(cluster, head, driver, 2)
    assert worker_of(cluster, first) != NIL_WORKER and worker_of(cluster, second) == NIL_WORKER
    cluster.kill(lost)
    assert worker_of(cluster, second) == NIL_WORKER
    cluster.add(cpus=1, custom={"there": 1})
    cluster.pass_time(1)
    assert at(cluster, worker_of(cluster, second)) is cluster.nodes[2]


def test_an_actor_tied_to_a_node_that_died_never_runs(cluster):
    head, lost, _ = cluster.nodes
    driver = head.driver()
    where = {"node": lost.node, "soft": False}
    placed = create(cluster, head, driver, 1, placement=where, restarts_max=-1)
    assert at(cluster, becomes_alive(cluster, placed)) is lost
    needs = {"there": UNIT}
    holding = create(cluster, head, driver, 2, placement=where, resources=needs, held=needs)
    waiting = create(cluster, head, driver, 3, placement=where, resources=needs, held=needs)
    assert worker_of(cluster, holding) != NIL_WORKER and worker_of(cluster, waiting) == NIL_WORKER
    head.take(driver)
    cluster.kill(lost)
    last = {each.actor: each for each in news(head, driver)}
    for actor in (placed, waiting):
        assert (last[actor].state, last[actor].cause) == (ActorState.DEAD, DeathCause.UNSCHEDULABLE)


def test_when_the_home_is_gone_its_actors_end_everywhere_and_watchers_hear_the_truth(cluster):
    head, home, other = cluster.nodes
    driver, watcher = home.driver(), head.driver()
    actor = create(cluster, home, driver, placement={"node": other.node}, restarts_max=-1)
    worker = becomes_alive(cluster, actor)
    assert at(cluster, worker) is other
    head.send(watcher, m.WatchActor(actor))
    cluster.settle()
    head.take(watcher)
    cluster.kill(home)
    (told,) = news(head, watcher)
    assert (told.state, told.cause) == (ActorState.DEAD, DeathCause.NODE_DIED)
    assert "the node of its owner died" in told.detail and "node1" in told.detail
    assert other.killed() == [worker]
    other.worker_dies(worker)
    assert other.free("CPU") == 2 and other.machine.guests.by_worker == {}
    # Whoever asks later hears the same.
    head.send(watcher, m.WatchActor(actor))
    assert "the node of its owner died" in news(head, watcher)[0].detail


def test_who_watches_over_a_link_that_breaks_asks_again(cluster):
    head, home, _ = cluster.nodes
    driver, watcher = home.driver(), head.driver()
    actor = create(cluster, home, driver)
    head.send(watcher, m.WatchActor(actor))
    cluster.settle()
    assert states(head, watcher) == [ActorState.PENDING_CREATION]
    cluster.cut(head, home)
    becomes_alive(cluster, actor)
    assert news(head, watcher) == []
    cluster.pass_time(1)
    assert states(head, watcher)[-1] is ActorState.ALIVE


@pytest.mark.parametrize("graceful", [False, True])
def test_anybody_with_a_handle_can_end_an_actor_wherever_it_runs(cluster, graceful):
    head, first, second = cluster.nodes
    driver, other = head.driver(), second.driver()
    actor = create(cluster, head, driver, placement={"node": first.node}, restarts_max=-1)
    worker = becomes_alive(cluster, actor)
    second.send(other, m.KillActor(actor, False, graceful))
    cluster.settle()
    if graceful:
        assert [type(each) for each in first.take(worker)] == [m.Exit]
        assert head.actors.actors[actor].state is ActorState.ALIVE
        first.worker_dies(worker, signal=0)
        cluster.settle()
    else:
        assert first.killed() == [worker]
    assert head.actors.actors[actor].state is ActorState.DEAD
    assert head.actors.actors[actor].cause is DeathCause.KILLED_BY_REQUEST


def test_an_actor_that_is_killed_while_it_waits_elsewhere_is_not_looked_for_any_more():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1, "custom": {"there": 1}})
    head, other = cluster.nodes
    driver = head.driver()
    first, second = (elsewhere(cluster, head, driver, number) for number in (1, 2))
    assert set(other.machine.guests.waiting) <= {second}
    head.send(driver, m.KillActor(second, False, False))
    cluster.settle()
    assert other.machine.guests.waiting == {} and not head.machine.delegation.actors_away
    assert worker_of(cluster, first) != NIL_WORKER


def test_a_worker_that_is_found_for_an_actor_that_was_killed_meanwhile_ends(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    actor = task_id(driver, 1, SEQUENCE_ACTOR)
    spec = actor_spec(actor, driver, resources={"there": UNIT}, held={"there": UNIT})
    head.send(driver, m.CreateActor(1, spec))
    (other,) = (cluster.member(node) for node in {head.actors.actors[actor].asked})
    cluster.deliver(head.node, other.node)
    other.workers_join()
    (worker,) = other.machine.guests.by_worker
    head.send(driver, m.KillActor(actor, False, False))
    cluster.settle()
    assert states(head, driver) == [ActorState.DEAD]
    assert other.killed() == [worker]
    other.worker_dies(worker)
    cluster.settle()
    assert other.free("there") == 1


def test_an_environment_that_cannot_be_made_elsewhere_is_the_end(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    runtime = {"key": "k", "env_vars": {}, "pip": ["nonsense"]}
    actor = elsewhere(cluster, head, driver, runtime=runtime)
    asked = cluster.member(head.actors.actors[actor].asked)
    (environment,) = asked.pool.environments.environments.values()
    asked.do(asked.machine.environment_made, environment.id, {}, 0, "no such package")
    cluster.settle()
    (told,) = news(head, driver)
    assert (told.state, told.cause) == (ActorState.DEAD, DeathCause.ENVIRONMENT_FAILED)
    assert "no such package" in told.detail


def test_a_job_ends_its_actors_on_all_nodes_but_detached_ones(cluster):
    head, first, second = cluster.nodes
    driver = first.driver()
    plain = create(cluster, first, driver, 1, placement={"node": second.node})
    kept = create(cluster, first, driver, 2, placement={"node": second.node}, detached=True)
    gone, stays = becomes_alive(cluster, plain), becomes_alive(cluster, kept)
    assert kept in head.actors.actors and plain in first.actors.actors
    first.leave(driver)
    cluster.settle()
    assert second.killed() == [gone]
    assert head.actors.actors[kept].state is ActorState.ALIVE and worker_of(cluster, kept) == stays


# --- names ----------------------------------------------------------------------------------------------------


def reply(cluster: ClusterBench, member: Member, client: bytes, message: Any) -> m.Reply:
    member.send(client, message)
    cluster.settle()
    (found,) = member.take(client, m.Reply)
    return found


def ask(cluster: ClusterBench, member: Member, client: bytes, name: str, namespace: str = "") -> Any:
    request = m.Request(77, "get_actor", {"name": name, "namespace": namespace})
    return reply(cluster, member, client, request).value


def test_a_name_leads_to_the_same_actor_on_every_node_and_is_free_after_its_death(cluster):
    head, first, second = cluster.nodes
    clients = [(member, member.driver()) for member in cluster.nodes]
    _, driver = clients[1]
    actor = create(cluster, first, driver, name="counter")
    assert [each.error for each in first.take(driver, m.Reply)] == [""]
    assert [ask(cluster, *each, "counter")["actor"] for each in clients] == [actor] * 3
    listed = m.Request(9, "list_actors", {"namespace": None})
    assert [reply(cluster, *each, listed).value for each in clients] == [[{"name": "counter", "namespace": ""}]] * 3
    rival = actor_spec(task_id(clients[2][1], 1, SEQUENCE_ACTOR), clients[2][1], name="counter")
    assert reply(cluster, *clients[2], m.CreateActor(5, rival)).kind == "name_taken"
    first.send(driver, m.KillActor(actor, False, False))
    cluster.settle()
    assert [ask(cluster, *each, "counter") for each in clients] == [None] * 3
    assert reply(cluster, *clients[2], m.CreateActor(6, rival)).error == ""
    cluster.kill(second)
    assert ask(cluster, *clients[0], "counter") is None
    assert head.actors.actors == {} and second.actors.names.asked == {}


def test_of_two_nodes_that_want_a_name_at_once_one_gets_it(cluster):
    _, first, second = cluster.nodes
    results = {}
    drivers = {member: member.driver() for member in (first, second)}
    cluster.control_answers = False
    for member, driver in drivers.items():
        spec = actor_spec(task_id(driver, 1, SEQUENCE_ACTOR), driver, name="one")
        member.send(driver, m.CreateActor(1, spec))
        assert member.take(driver, m.Reply) == []
    cluster.control_answers = True
    cluster.settle()
    for member, driver in drivers.items():
        (answer,) = member.take(driver, m.Reply)
        results[member] = answer.kind
    assert sorted(results.values()) == ["", "name_taken"]
    (winner,) = (member for member, kind in results.items() if not kind)
    for member, driver in drivers.items():
        assert ask(cluster, member, driver, "one")["actor"] == task_id(drivers[winner], 1, SEQUENCE_ACTOR)


def test_without_the_control_store_a_name_is_refused_with_a_reason_and_other_actors_start(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    cluster.control_answers = False
    create(cluster, head, driver, 1, name="n")
    actor = create(cluster, head, driver, 2)
    becomes_alive(cluster, actor)
    head.send(driver, m.Request(3, "get_actor", {"name": "x", "namespace": ""}))
    head.send(driver, m.Request(4, "list_actors", {"namespace": None}))
    head.take(driver)
    cluster.control_is_away()
    answers = {each.request: each for each in head.take(driver, m.Reply)}
    assert {each.kind for each in answers.values()} == {"unavailable"} and set(answers) == {1, 3, 4}
    cluster.control_answers = True
    assert (
        reply(
            cluster, head, driver, m.CreateActor(5, actor_spec(task_id(driver, 5, SEQUENCE_ACTOR), driver, name="n"))
        ).error
        == ""
    )


def test_an_actor_whose_owner_ends_before_it_has_its_name_gives_it_back(cluster):
    head = cluster.nodes[0]
    driver = head.driver()
    cluster.control_answers = False
    actor = create(cluster, head, driver, name="n")
    head.leave(driver)
    cluster.control_answers = True
    cluster.settle()
    assert head.actors.actors[actor].state is ActorState.DEAD and cluster.names == {}


# --- what is saved ---------------------------------------------------------------------------------------------


def test_what_an_actor_saves_elsewhere_is_kept_at_its_home(cluster):
    head, first, _ = cluster.nodes
    driver = head.driver()
    actor = elsewhere(cluster, head, driver, checkpoint={"every": 1}, restarts_max=1)
    worker = worker_of(cluster, actor)
    node = at(cluster, worker)
    (start,) = node.take(worker, m.StartActor)
    assert start.spec["checkpoint"] == {"every": 1, "distant": True}
    kept = {"what": "keep", "actor": actor, "file": "1.state", "data": b"state", "append": False, "gone": ["0.calls"]}
    node.send(worker, m.Request(7, "checkpoint", kept))
    cluster.settle()
    (write,) = head.take_effects(KeepCheckpoint)
    assert (write.actor, write.file, write.data, write.gone) == (actor, "1.state", b"state", ("0.calls",))
    head.do(head.machine.requests.checkpoint_done, write, None, "")
    cluster.settle()
    assert [(each.request, each.error) for each in node.take(worker, m.Reply)] == [(7, "")]
    # Nobody else may, and nobody writes anywhere else.
    stranger = first.driver()
    assert reply(cluster, first, stranger, m.Request(8, "checkpoint", kept)).kind == "not_allowed"
    with pytest.raises(Malformed):
        head.send(driver, m.Request(9, "checkpoint", {**kept, "file": "../../x"}))
    node.worker_dies(worker)
    assert node.take_effects(RemoveCheckpoints) == [RemoveCheckpoints(actor)]


# --- detached actors ------------------------------------------------------------------------------------------


def test_a_detached_actor_is_kept_by_the_head_and_found_by_later_drivers_on_any_node(cluster):
    head, first, _ = cluster.nodes
    driver = first.driver()
    actor = create(cluster, first, driver, name="keeper", detached=True)
    assert [each.error for each in first.take(driver, m.Reply)] == [""]
    worker = becomes_alive(cluster, actor)
    assert states(first, driver)[-1] is ActorState.ALIVE
    assert actor in head.actors.actors and first.actors.actors == {}
    first.leave(driver)
    cluster.settle()
    assert head.actors.actors[actor].state is ActorState.ALIVE
    for member in cluster.nodes:
        later = member.driver(b"late")
        assert ask(cluster, member, later, "keeper")["actor"] == actor
        member.send(later, m.WatchActor(actor))
        cluster.settle()
        assert news(member, later)[0].worker == worker
    home = at(cluster, worker)
    if home is not first:
        cluster.kill(first)
        assert head.actors.actors[actor].state is ActorState.ALIVE


def test_what_was_asked_of_the_head_while_it_could_not_be_reached_is_asked_once_it_can(cluster):
    head, first, _ = cluster.nodes
    driver = first.driver()
    cluster.cut(head, first)
    actor = create(cluster, first, driver, detached=True)
    assert first.take(driver, m.Reply) == []
    cluster.pass_time(1)
    assert [each.error for each in first.take(driver, m.Reply)] == [""]
    becomes_alive(cluster, actor)
    assert states(first, driver)[-1] is ActorState.ALIVE


def test_a_creation_whose_answer_was_lost_is_not_made_twice(cluster):
    head, first, _ = cluster.nodes
    driver = first.driver()
    actor = task_id(driver, 1, SEQUENCE_DETACHED_ACTOR)
    first.send(driver, m.CreateActor(1, actor_spec(actor, driver, detached=True, name="n")))
    cluster.deliver(first.node, head.node)
    cluster.answer_control()
    cluster.cut(head, first)
    cluster.pass_time(1)
    assert [each.error for each in first.take(driver, m.Reply)] == [""]
    becomes_alive(cluster, actor)
    assert list(head.actors.actors) == [actor]


def test_without_the_head_detached_actors_are_refused_and_those_that_were_are_dead(cluster):
    head, first, second = cluster.nodes
    driver = first.driver()
    actor = create(cluster, first, driver, 1, detached=True, placement={"node": second.node})
    worker = becomes_alive(cluster, actor)
    first.take(driver)
    cluster.kill(head)
    (told,) = news(first, driver)
    assert told.state == ActorState.DEAD and "the head of the cluster" in told.detail
    assert second.killed() == [worker]
    create(cluster, first, driver, 2, detached=True)
    (answer,) = first.take(driver, m.Reply)
    assert answer.kind == "unavailable" and "head of the cluster" in answer.error


# --- whatever happens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_no_actor_of_a_cluster_is_lost_whatever_happens(seed):
    """The bench checks each node's invariants after every stimulus; here what must hold between nodes, at rest."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster = ClusterBench(*({"cpus": 2, "custom": {"there": 2} if n else {}} for n in range(3)))
    drivers = [(member, member.driver()) for member in cluster.nodes for _ in range(1)]
    made: list[tuple[Member, bytes, bytes]] = []
    for number in range(1, 80):
        member, driver = chance.choice(drivers)
        if not member.up:
            continue
        match chance.choice("cccdddrrrkgbwnlt"):
            case "c":
                kind = chance.choice([SEQUENCE_ACTOR, SEQUENCE_ACTOR, SEQUENCE_DETACHED_ACTOR])
                actor = task_id(driver, number, kind)
                needs = chance.choice([{}, {"there": UNIT}, {"CPU": UNIT}])
                name = chance.choice(["", "", "a", "b"])
                spec = actor_spec(
                    actor, driver, resources=needs, held=needs, restarts_max=chance.choice([0, 1, -1]),
                    detached=kind == SEQUENCE_DETACHED_ACTOR, name=name, job=member.machine.clients[driver].job,
                )  # fmt: skip
                member.send(driver, m.CreateActor(number, spec))
                made.append((member, driver, actor))
            case "d" | "r" as what if made:
                for keeper in [each for each in cluster.nodes if each.up]:
                    for worker, actor in list(keeper.actors.by_worker.items()):
                        host = at(cluster, worker)
                        if not host.up or worker not in host.machine.clients or chance.random() < 0.5:
                            continue
                        if what == "r":
                            host.send(worker, m.ActorReady(actor.id, 7))
                        elif chance.random() < 0.5:
                            host.worker_dies(worker)
            case "k" | "g" as what if made:
                _, _, actor = chance.choice(made)
                member.send(driver, m.KillActor(actor, False, what == "g"))
            case "b":
                one, other = chance.sample(cluster.nodes, 2)
                if one.up and other.up:
                    cluster.cut(one, other)
            case "w" if made:
                member.send(driver, m.WatchActor(chance.choice(made)[2]))
            case "n" if chance.random() < 0.3:
                lost = chance.choice(cluster.nodes[1:])
                if lost.up:
                    cluster.kill(lost)
                    fresh = cluster.add(cpus=2, custom={"there": 2})
                    drivers.append((fresh, fresh.driver()))
            case "l":
                cluster.settle()
            case _:
                cluster.pass_time(0.3)
        for wire in list(cluster.wires):
            if chance.random() < 0.5:
                cluster.deliver(*wire)
        if chance.random() < 0.5 and cluster.control_answers:
            cluster.answer_control()
    for _ in range(40):
        cluster.pass_time(0.5)
        for member in cluster.nodes:
            for worker in member.killed():
                if member.up and worker in member.pool.workers:
                    member.worker_dies(worker)
    cluster.settle()
    check_between_nodes(cluster)


def check_between_nodes(cluster: ClusterBench) -> None:
    """Nothing is under way: what the nodes think of each other's actors must agree."""
    up = [member for member in cluster.nodes if member.up]
    actors = {each.id: each for member in up for each in member.actors.actors.values()}
    assert len(actors) == sum(len(member.actors.actors) for member in up), "an actor with two homes"
    believed = {actor.worker: actor.id for actor in actors.values() if actor.worker != NIL_WORKER}
    hosted = {guest.worker: guest.actor for member in up for guest in member.machine.guests.by_worker.values()}
    for worker, actor in hosted.items():
        dying = at(cluster, worker).pool.workers[worker].end_cause is not None
        assert believed.get(worker) == actor or dying, "a process that is an actor's for nobody"
    for worker, actor in believed.items():
        host = at(cluster, worker)
        assert host.up and worker in host.pool.workers, "an actor whose process is gone"
        assert host.actors.by_worker.get(worker) is actors[actor] or hosted.get(worker) == actor
    asked = {actor.id: actor.asked for actor in actors.values() if actor.asked}
    waiting = {guest.actor: member.node for member in up for guest in member.machine.guests.waiting.values()}
    assert asked == waiting, "an actor that waits nowhere, or for nobody"
    living = {
        (actor.namespace, actor.name): actor.id
        for actor in actors.values()
        if actor.name and actor.state is not ActorState.DEAD
    }
    assert living == {name: known[0] for name, known in cluster.names.items()}
    for member in up:
        assert not member.take_effects(DisconnectPeer)
        for actor_id, clients in member.machine.distant.watched.items():
            home = member.machine.peers.home_of(actor_id)
            kept = cluster.member(home.id).actors
            known = kept.actors.get(actor_id)
            for client in clients:
                assert client in (known.watchers if known is not None else kept.awaited[actor_id])
