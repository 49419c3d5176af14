"""Which bundle of a placement group goes to which node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from obsray.core.node.bundles import Bundle
from obsray.core.node.peers import Peer
from obsray.core.node.resources import GPU, UNIT, Amounts, Resources
from obsray.core.protocol import labels
from obsray.core.protocol.labels import NODE_ID
from obsray.core.protocol.messages import PACK_BY_LABEL

#: How often a choice is taken back before a search gives up.
SECOND_THOUGHTS_MAX = 200
#: Beyond so many possibilities only the first choice is tried.
SEARCHED_MAX = 20_000


class Offer(NamedTuple):
    """A node that bundles could go to."""

    node: bytes
    labels: Mapping[str, str]
    resources: Resources


def offer_of(peer: Peer, empty: bool = False) -> Offer:
    """What another node has to spare; ``empty``: what it would have if nothing ran there."""
    total = peer.total
    whole, rest = divmod(max(0, peer.spare.get(GPU, 0)), UNIT)
    count = total.get(GPU, 0) // UNIT
    # Which of its devices are free only the node itself knows; it may refuse.
    devices = {number: UNIT if number < whole else rest if number == whole else 0 for number in range(count)}
    resources = Resources({**total, GPU: count * UNIT} if GPU in total else total)
    if not empty:
        resources.free = {name: min(amount, peer.spare.get(name, 0)) for name, amount in resources.total.items()}
        resources.devices = devices
    return Offer(peer.id, {NODE_ID: peer.id.hex(), **peer.facts.labels}, resources)


class _Attempt(NamedTuple):
    """``found``: the offer of each of the first bundles; ``left``: what the offers have after that."""

    found: list[int]
    left: list[Resources]
    used: list[int]


def arrange(
    bundles: Sequence[Bundle],
    strategy: str,
    offers: Sequence[Offer],
    taken: Mapping[bytes, int] | None = None,
    target: bytes = b"",
) -> list[int] | str:
    """The offer that each bundle goes to, or which bundle lacks what where.

    PACK uses as few nodes as it can, SPREAD as many; STRICT_PACK uses one node, STRICT_SPREAD one for each bundle;
    PACK_BY_LABEL uses nodes that have one value of a label in common, and of these as few as it can.
    ``taken`` says how many bundles of the group nodes have already, ``target`` which node is preferred.
    """
    taken = taken or {}
    if not offers:
        return "there is no node"
    if strategy.startswith(PACK_BY_LABEL):
        return _in_one_domain(bundles, strategy[len(PACK_BY_LABEL) :], offers, taken, target)
    used = [taken.get(offer.node, 0) for offer in offers]
    needed = len(bundles) + len(taken)
    if strategy == "STRICT_SPREAD" and needed > len(offers) + sum(1 for node in taken if node not in _nodes(offers)):
        there = f"there is {len(offers)}" if len(offers) == 1 else f"there are {len(offers)}"
        return f"STRICT_SPREAD needs {needed} nodes, one for each bundle, and {there}"
    order = _by_preference(bundles, strategy, offers, target)
    if strategy in ("PACK", "STRICT_PACK"):
        best = _on_one(bundles, offers, used, order)
        if len(best.found) == len(bundles):
            return best.found
        if strategy == "STRICT_PACK":
            return _lack(bundles, strategy, offers, best)
    first = _search(bundles, strategy, offers, used, order, 0)
    if len(first.found) == len(bundles):
        return first.found
    if len(offers) > 1 and len(bundles) * len(offers) <= SEARCHED_MAX:
        found = _search_harder(bundles, strategy, offers, used, order)
        if found is not None:
            return found
    return _lack(bundles, strategy, offers, first)


def _in_one_domain(
    bundles: Sequence[Bundle], key: str, offers: Sequence[Offer], taken: Mapping[bytes, int], target: bytes
) -> list[int] | str:
    """As PACK among the nodes with one value of the label: where the group is already, else where most is free."""
    domains: dict[str, list[int]] = {}
    for number, offer in enumerate(offers):
        if key in offer.labels:
            domains.setdefault(offer.labels[key], []).append(number)
    if not domains:
        return f"no node has the label {key}"
    if taken:
        there = {offer.labels.get(key, "") for offer in offers if offer.node in taken}
        domains = {value: numbers for value, numbers in domains.items() if value in there}
        if not domains:
            return f"none of the nodes with the same {key} as its other bundles takes more"
    need = {name for bundle in bundles for name in bundle.amounts}
    # What counts is the resource of which there is least.
    totals = {name: sum(max(0, offer.resources.free.get(name, 0)) for offer in offers) or 1 for name in need}
    shares = {
        value: min(sum(max(0, offers[n].resources.free.get(name, 0)) for n in numbers) / totals[name] for name in need)
        for value, numbers in domains.items()
    }
    why = ""
    for value in sorted(domains, key=lambda value: (-shares[value], value)):
        numbers = domains[value]
        found = arrange(bundles, "PACK", [offers[number] for number in numbers], taken, target)
        if not isinstance(found, str):
            return [numbers[number] for number in found]
        which = f", the roomiest of {len(domains)}" if len(domains) > 1 else ""
        why = why or f"{found}; where {key} is {value}{which}"
    return why


def _nodes(offers: Sequence[Offer]) -> set[bytes]:
    return {offer.node for offer in offers}


def _by_preference(
    bundles: Sequence[Bundle], strategy: str, offers: Sequence[Offer], target: bytes
) -> Callable[[list[int]], list[int]]:
    """What puts the offers into the order in which a bundle tries them, given how many each has."""
    need: Amounts = {}
    for bundle in bundles:
        for name, amount in bundle.amounts.items():
            need[name] = need.get(name, 0) + amount
    rooms = [min((offer.resources.free.get(name, 0) / need[name] for name in need), default=0.0) for offer in offers]
    sign = 1 if strategy in ("SPREAD", "STRICT_SPREAD") else -1
    fixed = sorted(range(len(offers)), key=lambda n: (offers[n].node != target, -min(1.0, rooms[n]), n))
    return lambda used: sorted(fixed, key=lambda n: sign * used[n])


def _on_one(
    bundles: Sequence[Bundle], offers: Sequence[Offer], used: list[int], order: Callable[[list[int]], list[int]]
) -> _Attempt:
    """All on the most preferred node that has room for all; else what the roomiest could take."""
    elsewhere = any(used)
    best = _Attempt([], [], [])
    for number in order(used):
        if elsewhere and not used[number]:
            continue
        attempt = _search(bundles, "PACK", offers, used, lambda _, number=number: [number], 0)  # type: ignore[misc]
        if len(attempt.found) == len(bundles):
            return attempt
        if not best.left or len(attempt.found) > len(best.found):
            best = attempt
    return best


def _search(
    bundles: Sequence[Bundle],
    strategy: str,
    offers: Sequence[Offer],
    used: list[int],
    order: Callable[[list[int]], list[int]],
    second_thoughts: int,
) -> _Attempt:
    """Bundle by bundle the most preferred offer with room, taking choices back at most so often."""
    strict = strategy == "STRICT_SPREAD"
    left, used = [offer.resources.trial() for offer in offers], list(used)
    found: list[int] = []
    choices: list[Iterator[int]] = []
    while len(found) < len(bundles):
        bundle = bundles[len(found)]
        if len(choices) == len(found):
            choices.append(iter(order(used)))
        for number in choices[-1]:
            if strict and used[number]:
                continue
            if left[number].fits(bundle.amounts) and not labels.unmet(bundle.selector, offers[number].labels):
                left[number].take(len(found), bundle.amounts)
                used[number] += 1
                found.append(number)
                break
        else:
            if not found or not second_thoughts:
                break
            second_thoughts -= 1
            choices.pop()
            number = found.pop()
            left[number].give(len(found))
            used[number] -= 1
    return _Attempt(found, left, used)


def _search_harder(
    bundles: Sequence[Bundle],
    strategy: str,
    offers: Sequence[Offer],
    used: list[int],
    order: Callable[[list[int]], list[int]],
) -> list[int] | None:
    """Those first that fit on the fewest nodes, the big ones before the small ones."""
    homes = []
    for bundle in bundles:
        able = [
            number
            for number, offer in enumerate(offers)
            if not (strategy == "STRICT_SPREAD" and used[number])
            and offer.resources.fits(bundle.amounts)
            and not labels.unmet(bundle.selector, offer.labels)
        ]
        homes.append(able)
    if not all(homes):
        return None
    if strategy == "STRICT_SPREAD":
        return _matched(homes)
    sequence = sorted(range(len(bundles)), key=lambda i: (len(homes[i]), -sum(bundles[i].amounts.values()), i))
    attempt = _search([bundles[i] for i in sequence], strategy, offers, used, order, SECOND_THOUGHTS_MAX)
    if len(attempt.found) < len(bundles):
        return None
    found = [0] * len(bundles)
    for place, number in zip(sequence, attempt.found, strict=True):
        found[place] = number
    return found


def _matched(homes: Sequence[Sequence[int]]) -> list[int] | None:
    """One offer for each bundle out of those it fits on, no offer twice; None if there is no such choice."""
    holder: dict[int, int] = {}
    for bundle in range(len(homes)):
        # Along alternating paths: whoever has to move finds another offer, or makes a third one move.
        came: dict[int, int] = {}
        frontier = [bundle]
        end = -1
        while frontier and end < 0:
            mover = frontier.pop()
            for number in homes[mover]:
                if number not in came:
                    came[number] = mover
                    if number not in holder:
                        end = number
                        break
                    frontier.append(holder[number])
        if end < 0:
            return None
        where = {held: number for number, held in holder.items()}
        while end >= 0:
            mover = came[end]
            previous = where.get(mover, -1)
            holder[end] = mover
            end = previous
    found = {bundle: number for number, bundle in holder.items()}
    return [found[bundle] for bundle in range(len(homes))]


def _lack(bundles: Sequence[Bundle], strategy: str, offers: Sequence[Offer], attempt: _Attempt) -> str:
    """Which bundle found no place, and what the node lacks that came closest."""
    bundle = bundles[len(attempt.found)]
    closest: tuple[tuple[int, float], int, str] | None = None
    for number, left in enumerate(attempt.left):
        if strategy == "STRICT_SPREAD" and attempt.used[number]:
            continue
        if strategy == "STRICT_PACK" and attempt.found and number != attempt.found[0]:
            continue
        unlabelled = labels.unmet(bundle.selector, offers[number].labels)
        missing = left.deficit(bundle.amounts)
        distance = len(bundle.amounts) + 1 if unlabelled else len(missing)
        share = max((lack / bundle.amounts[name] for name, lack in missing.items()), default=0.0)
        if closest is None or (distance, share) < closest[0]:
            closest = (distance, share), number, unlabelled or left.explain(missing)
    text = f"bundle {bundle.index} lacks {closest[2] if closest else 'a node of its own'}"
    if closest and len(offers) > 1:
        text += f" on node {offers[closest[1]].node.hex()[:8]}, the closest of {len(offers)}"
    if not attempt.found:
        return text
    before = [each.index for each in bundles[: len(attempt.found)]]
    first = f"s {before[0]} to {before[-1]}" if len(before) > 1 else f" {before[0]}"
    return f"{text}, once bundle{first} had room"
