"""What goes wrong between machines, chosen by name; the head is only ever paused, cut off or left without its control
store, because a cluster ends with its head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obsray.core.protocol import messages as m
from obsray.testing.agenda import MILLISECOND_NS
from obsray.testing.faults import fault, now_and_then

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_node import VirtualNode


def _others(simulator: Simulator) -> list[VirtualNode]:
    """The nodes that run and are not the head."""
    return [node for node in simulator.living_nodes() if node.number and not node.paused]


def _duration_ns(simulator: Simulator, ms_max: float) -> int:
    return simulator.chance.randint(0, int(ms_max * MILLISECOND_NS))


@fault
def node_crashes(simulator: Simulator, mean_ms: float, count_max: int = 1000, replace_ms_max: float = 500) -> None:
    """Machines are gone with all their processes; another one joins after a while."""

    def strike() -> bool:
        others = _others(simulator)
        if not others:
            return False
        simulator.crash_node(simulator.chance.choice(others), "its machine is gone")
        simulator.agenda.after(_duration_ns(simulator, replace_ms_max), simulator.join_node)
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def drains(
    simulator: Simulator, mean_ms: float, count_max: int = 1000, deadline_ms: float = 0, replace_ms_max: float = 500
) -> None:
    """Nodes are asked to leave: they take no more work, move what lies only there, and go; others join after a while.

    ``deadline_ms``: by then at the latest, with what still runs; 0 for whenever that has ended.
    """

    def strike() -> bool:
        others = [node for node in _others(simulator) if not node.machine.draining.active and node.admitted]
        driver = next((each for each in simulator.drivers if not each.dead and each.home.number == 0), None)
        if len(others) < 2 or driver is None:
            return False
        node = simulator.chance.choice(others)
        simulator.tell(f"{node.name} is asked to leave")
        if deadline_ms:
            simulator.ledger.cuts += 1
        seconds = deadline_ms / 1000 if deadline_ms else None
        arguments = {"node": node.id, "reason": "a virtual drain", "deadline_seconds": seconds}
        driver.do(lambda: driver.ask(lambda number: m.Request(number, "drain", arguments)))
        simulator.agenda.after(_duration_ns(simulator, replace_ms_max), simulator.join_node)
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def node_pauses(
    simulator: Simulator, mean_ms: float, pause_ms_max: float, count_max: int = 1000, head: bool = False
) -> None:
    """A node's process stands still for a while, and goes on as if nothing had happened, while its workers run on."""

    def strike() -> bool:
        nodes = [node for node in simulator.living_nodes() if (node.number or head) and not node.paused]
        if not nodes:
            return False
        node = simulator.chance.choice(nodes)
        pause_ns = _duration_ns(simulator, pause_ms_max)
        simulator.ledger.cuts += 1
        simulator.tell(f"{node.name} stands still for {pause_ns / 1e6:.0f} ms")
        node.pause()
        simulator.agenda.after(pause_ns, node.go_on)
        return True

    now_and_then(simulator, mean_ms, count_max, strike)

    def cure() -> None:
        for node in simulator.living_nodes():
            if node.paused:
                node.go_on()

    simulator.cures.append(cure)


@fault
def partitions(
    simulator: Simulator,
    mean_ms: float,
    cut_ms_max: float,
    count_max: int = 1000,
    one_way: bool = False,
    nodes_max: int = 1_000_000,
) -> None:
    """The network is cut into two parts for a while; the control store is in the head's. ``one_way``: only one of them
    does not hear the other. ``nodes_max``: so many nodes are in the other part at most."""

    def strike() -> bool:
        if simulator.network.severed:
            return False
        chance, nodes = simulator.chance, simulator.living_nodes()
        part = chance.sample(nodes[1:], chance.randint(1, min(nodes_max, len(nodes) - 1))) if len(nodes) > 1 else []
        if not part:
            return False
        rest = [node for node in nodes if node not in part]
        cut_ns = _duration_ns(simulator, cut_ms_max)
        pairs = [(one.host, other.host) for one in part for other in rest]
        if one_way:
            pairs = [pair if chance.random() < 0.5 else (pair[1], pair[0]) for pair in pairs]
        else:
            pairs += [(other, one) for one, other in pairs]
        names = " and ".join(node.name for node in part)
        simulator.ledger.cuts += 1
        simulator.tell(f"{names} {'half ' if one_way else ''}cut off for {cut_ns / 1e6:.0f} ms")
        for node in part:
            node.meet_all()
        links = simulator.network.between(simulator.all_links())
        for pair in pairs:
            simulator.network.sever(*pair, links.get(frozenset(pair), []))
        simulator.agenda.after(cut_ns, heal)
        return True

    def heal() -> None:
        if simulator.network.severed:
            simulator.tell("the network is whole")
            for pair in list(simulator.network.severed):
                simulator.network.heal(*pair)

    now_and_then(simulator, mean_ms, count_max, strike)
    simulator.cures.append(heal)


@fault
def broken_links(simulator: Simulator, mean_ms: float, count_max: int = 1000, processes: bool = False) -> None:
    """A connection between two nodes, or (``processes``) any between two machines, breaks, and what was under way on
    it is lost."""

    def strike() -> bool:
        links = [link for link in simulator.all_links() if link.far and not link.closed and not link.other.closed]
        links = [link for link in links if processes or link.process.id in simulator.nodes_by_id]
        if not links:
            return False
        link = simulator.chance.choice(links)
        simulator.ledger.cuts += 1
        simulator.tell(f"the link of {link.process.name} and {link.other.process.name} breaks")
        simulator.network.reset(link)
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def control_away(simulator: Simulator, mean_ms: float, away_ms_max: float, count_max: int = 1000) -> None:
    """The control store's process is killed; after a while another one takes over from its journal."""

    def strike() -> bool:
        control = simulator.control
        if control is None or not control.up:
            return False
        simulator.tell("the control store is killed")
        control.go_away()
        simulator.agenda.after(_duration_ns(simulator, away_ms_max), back)
        return True

    def back() -> None:
        if simulator.control is not None and not simulator.control.up:
            simulator.tell("another control store takes over")
            simulator.control.come_back()

    now_and_then(simulator, mean_ms, count_max, strike)
    simulator.cures.append(back)
