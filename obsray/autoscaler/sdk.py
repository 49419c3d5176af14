"""``request_resources``: how large the cluster should be at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from obsray.core import api


def request_resources(
    num_cpus: float | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Ask for a cluster that has ``num_cpus`` and room for all ``bundles`` at once.

    Nothing starts and stops machines here, so the wish is checked against what there is: what can be held already is
    fine, and RuntimeError says what is missing otherwise. Calling it without arguments withdraws a wish, as ever.
    Raises TypeError and ValueError for amounts that are none.
    """
    if bundle_label_selectors:
        raise NotImplementedError("bundle_label_selectors: nothing starts machines with labels; leave it out")
    wanted: dict[str, float] = {}
    for name, amount in [("CPU", num_cpus or 0), *(pair for bundle in bundles or () for pair in bundle.items())]:
        if not isinstance(amount, (int, float)) or isinstance(amount, bool):
            raise TypeError(f"{name}={amount!r}: must be a number")
        if amount < 0:
            raise ValueError(f"{name}={amount!r}: must be >= 0")
        wanted[name] = wanted.get(name, 0) + amount
    there: dict[str, Any] = api.cluster_resources()
    missing = {name: amount for name, amount in wanted.items() if amount > there.get(name, 0)}
    if missing:
        told = ", ".join(f"{name}: {amount:g} wanted, {there.get(name, 0):g} there" for name, amount in missing.items())
        raise RuntimeError(f"{told}. Nothing adds machines to a running session: start it with more")


__all__ = ["request_resources"]
