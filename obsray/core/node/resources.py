"""What a node has and what is taken, in fixed point, with devices by number.

Amounts are integers: 1/10000 of a CPU, GPU or custom resource, and bytes for ``memory``. A GPU amount below one
device takes a share of a single device; from one up it takes whole devices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.step import require

UNIT = 10_000
CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"

Amounts = dict[str, int]


def show(name: str, amount: int) -> str:
    """An amount for people: ``1.5``, or ``2.0 GiB`` for memory."""
    if name == MEMORY:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if abs(amount) >= size:
                return f"{amount / size:.1f} {unit}"
        return f"{amount} B"
    return f"{amount / UNIT:g}"


def shortfall(need: Amounts, total: Amounts) -> str:
    """What of ``need`` exceeds all that a node has, in words; empty if nothing does."""
    return ", ".join(
        f"{name} {show(name, amount)} (node has {show(name, total.get(name, 0))})"
        for name, amount in need.items()
        if amount > total.get(name, 0)
    )


def default_need(amounts: Amounts) -> Amounts:
    """Amounts without zeros, so that equal needs compare equal."""
    return {name: amount for name, amount in amounts.items() if amount}


def amounts_of(value: Any) -> Amounts:
    """Resource amounts out of a message. Raises TypeError or ValueError if they are not amounts."""
    if not isinstance(value, dict):
        raise TypeError("resources are not a dict")
    for name, amount in value.items():
        if not isinstance(name, str) or not isinstance(amount, int) or isinstance(amount, bool):
            raise TypeError("resources must map names to whole numbers")
        if amount < 0 or amount >= 1 << 62 or not name or len(name) > 128:
            raise ValueError(f"not an amount of a resource: {name[:128]!r}: {amount}")
    return default_need(value)


@dataclass(slots=True)
class Share:
    """What one lease or actor holds. ``lent`` is the part given back while its task is blocked."""

    amounts: Amounts
    devices: dict[int, int] = field(default_factory=dict)
    lent: Amounts = field(default_factory=dict)


class Resources:
    """Invariant: for each resource free + held == total; free is negative only while unblocked tasks oversubscribe.

    ``gpus`` are the numbers of whole devices; ``devices`` how much of each there is, if not all of it. A device that
    is out of service counts neither as free nor as held nor in the total; what holds it goes on.
    """

    def __init__(self, total: Amounts, gpus: list[int] | None = None, devices: dict[int, int] | None = None) -> None:
        self.total = dict(total)
        self.free = dict(total)
        count = total.get(GPU, 0) // UNIT
        if devices is None:
            devices = dict.fromkeys(gpus if gpus is not None else range(count), UNIT)
            if len(devices) != count or total.get(GPU, 0) % UNIT:
                raise ValueError(f"{show(GPU, total.get(GPU, 0))} GPUs, but {len(devices)} device numbers")
        self.capacity = dict(devices)
        self.devices = dict(devices)
        self.shares: dict[int, Share] = {}
        #: Devices out of service: how much of each nobody holds, and why they are.
        self.out: dict[int, int] = {}
        self.why_out: dict[int, str] = {}

    def take_out(self, device: int, why: str) -> None:
        """Nobody gets this device any more until ``put_in``. One that is not in service here stays as it is."""
        if device not in self.devices:
            return
        left = self.out[device] = self.devices.pop(device)
        self.why_out[device] = why
        self.free[GPU] -= left
        self.total[GPU] -= self.capacity[device]

    def put_in(self, device: int) -> None:
        """The device is in service again, with what is still held of it."""
        if device not in self.out:
            return
        left = self.devices[device] = self.out.pop(device)
        del self.why_out[device]
        # In the order of their numbers, as ever.
        self.devices = {each: self.devices[each] for each in self.capacity if each in self.devices}
        self.free[GPU] += left
        self.total[GPU] += self.capacity[device]

    def whole(self) -> Amounts:
        """The total, with devices that are out of service."""
        return {**self.total, GPU: sum(self.capacity.values())} if self.out else self.total

    def outages(self) -> str:
        """Which devices are out of service, for people; empty if none is."""
        return "; ".join(f"GPU {device} is out of service: {why}" for device, why in sorted(self.why_out.items()))

    def emptied(self) -> Resources:
        """The same with nothing taken, to try things on."""
        there = {device: amount for device, amount in self.capacity.items() if device not in self.out}
        return Resources(self.total, devices=there)

    def trial(self) -> Resources:
        """What is free here as resources of their own, to try things on."""
        copy = self.emptied()
        copy.free, copy.devices = dict(self.free), dict(self.devices)
        return copy

    def infeasible(self, need: Amounts) -> str:
        """Why this node could never give ``need``; empty if it could."""
        lacks = list(filter(None, [shortfall(need, self.total)]))
        gpus = need.get(GPU, 0)
        if gpus > UNIT and gpus % UNIT:
            lacks.append(f"GPU {show(GPU, gpus)} (above one only whole devices)")
        if self.out and gpus > self.total.get(GPU, 0):
            lacks.append(self.outages())
        return ", ".join(lacks)

    def fits(self, need: Amounts, keep: Amounts | None = None) -> bool:
        """Whether ``need`` is free now, leaving ``keep`` untouched."""
        free = self.free
        for name, amount in need.items():
            if amount and free.get(name, 0) - (keep.get(name, 0) if keep else 0) < amount:
                return False
        gpus = need.get(GPU, 0)
        if gpus >= UNIT:
            return sum(1 for left in self.devices.values() if left == UNIT) * UNIT >= gpus
        return not gpus or any(left >= gpus for left in self.devices.values())

    def deficit(self, need: Amounts, keep: Amounts | None = None) -> Amounts:
        """How much more of each resource would have to be free for ``need``."""
        missing = {}
        for name, amount in need.items():
            lack = amount - self.free.get(name, 0) + (keep.get(name, 0) if keep else 0)
            if amount and lack > 0:
                missing[name] = lack
        if GPU in need and GPU not in missing and not self.fits({GPU: need[GPU]}):
            missing[GPU] = need[GPU]
        return missing

    def explain(self, missing: Amounts) -> str:
        """A deficit for people: ``CPU 1 more (0 of 2 free)``."""
        lacks = [
            f"{name} {show(name, lack)} more "
            f"({show(name, max(0, self.free.get(name, 0)))} of {show(name, self.total.get(name, 0))} free)"
            for name, lack in missing.items()
        ]
        return ", ".join([*lacks, self.outages()] if self.out and GPU in missing else lacks)

    def take(self, key: int, need: Amounts) -> dict[str, list[int]]:
        """Hold ``need`` under ``key``; it must fit. Returns the numbers of the devices taken, by kind."""
        require(key not in self.shares, f"share {key} exists")
        require(self.fits(need), f"{need} does not fit {self.free}")
        share = Share({name: amount for name, amount in need.items() if amount})
        for name, amount in share.amounts.items():
            self.free[name] -= amount
        self._take_devices(share)
        self.shares[key] = share
        return {GPU: sorted(share.devices)} if share.devices else {}

    def _take_devices(self, share: Share) -> None:
        need = share.amounts.get(GPU, 0)
        if need >= UNIT:
            for device in [device for device, left in self.devices.items() if left == UNIT][: need // UNIT]:
                self.devices[device] = 0
                share.devices[device] = UNIT
        elif need:
            # The fullest device that still has room: whole devices stay whole for those who need them.
            device = min((left, device) for device, left in self.devices.items() if left >= need)[1]
            self.devices[device] -= need
            share.devices[device] = need

    def give(self, key: int) -> None:
        """Everything held under ``key`` is free again."""
        share = self.shares.pop(key)
        for name, amount in share.amounts.items():
            self.free[name] += amount - share.lent.get(name, 0)
        for device, amount in share.devices.items():
            if device in self.out:
                self.out[device] += amount
                self.free[GPU] -= amount
            else:
                self.devices[device] += amount

    def lend_cpus(self, key: int) -> bool:
        """The holder is blocked: its CPUs are free meanwhile. False if there is nothing to lend."""
        share = self.shares[key]
        amount = share.amounts.get(CPU, 0)
        if not amount or share.lent:
            return False
        share.lent = {CPU: amount}
        self.free[CPU] += amount
        return True

    def retake_cpus(self, key: int) -> bool:
        """The holder goes on and takes its CPUs at once, even if that oversubscribes. False if none were lent."""
        share = self.shares[key]
        if not share.lent:
            return False
        self.free[CPU] -= share.lent[CPU]
        share.lent = {}
        return True

    def check_invariants(self) -> None:
        held: Amounts = {}
        devices = dict(self.capacity)
        for share in self.shares.values():
            for name, amount in share.amounts.items():
                held[name] = held.get(name, 0) + amount - share.lent.get(name, 0)
            for device, amount in share.devices.items():
                devices[device] -= amount
                if device in self.out:
                    held[GPU] -= amount
        for device, left in self.out.items():
            require(devices.pop(device) == left and device not in self.devices, f"device {device} is out and is not")
        require(set(self.out) == set(self.why_out), "a device is out for no reason, or in with one")
        for name, total in self.total.items():
            require(self.free[name] + held.get(name, 0) == total, f"{name}: {self.free[name]} free, {held} held")
        require(devices == self.devices, f"devices {self.devices}, by shares {devices}")
        require(all(left >= 0 for left in self.devices.values()), f"a device is given twice: {self.devices}")


def free_in(places: list[Resources]) -> Amounts:
    """What is free in all of these together."""
    found: Amounts = {}
    for place in places:
        for name, amount in place.free.items():
            found[name] = found.get(name, 0) + max(0, amount)
    return found
