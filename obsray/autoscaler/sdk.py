"""``request_resources``: how large the cluster should be at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from obsray.core import api
from obsray.core import options as opts
from obsray.core.protocol import labels

Bundle = tuple[dict[str, int], labels.Selector]


def request_resources(
    num_cpus: float | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Ask for a cluster that has ``num_cpus`` CPUs and room for all ``bundles`` at once, whatever runs there.

    An autoscaler starts nodes for what is missing and keeps what is needed for it, until the next call takes the place
    of this one, by whichever program; without arguments nothing is asked for. ``bundle_label_selectors``: for each
    bundle, the labels that its node must have ({} for none). Returns at once; ``obsray status`` shows what comes of it.

    In a cluster that nothing starts nodes for, what can be held already is fine, and RuntimeError says what is missing
    otherwise. Raises TypeError and ValueError for amounts and selectors that are none.
    """
    wanted = _wanted(num_cpus, bundles, bundle_label_selectors)
    answer = api.session().request("request_resources", bundles=wanted)
    if not answer["offered"]:
        _check_against(wanted, api.nodes(), api.cluster_resources())


def _wanted(num_cpus: Any, bundles: Any, selectors: Any) -> list[Bundle]:
    found: list[Bundle] = []
    if num_cpus is not None:
        opts.check_amount("num_cpus", num_cpus)
        whole, rest = divmod(opts.fixed("CPU", num_cpus), opts.UNIT)
        found += [({"CPU": opts.UNIT}, ())] * whole
        found += [({"CPU": rest}, ())] if rest else []
    given = _sequence("bundles", bundles)
    asked = _sequence("bundle_label_selectors", selectors)
    if asked and len(asked) != len(given):
        raise ValueError(
            f"bundle_label_selectors: {len(asked)} for {len(given)} bundles; give one for each, {{}} for none"
        )
    for index, bundle in enumerate(given):
        if not isinstance(bundle, Mapping):
            raise TypeError(f"bundles[{index}] must be a dict of resource to amount, got {type(bundle).__name__}")
        for name, amount in bundle.items():
            if not isinstance(name, str):
                raise TypeError(f"bundles[{index}]: the name of a resource must be a string, got {name!r}")
            opts.check_amount(f"bundles[{index}][{name!r}]", amount)
        selector = labels.parse(asked[index], f"bundle_label_selectors[{index}]") if asked else ()
        found.append(({name: opts.fixed(name, amount) for name, amount in bundle.items()}, selector))
    return found


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of dicts, got {type(value).__name__}")
    return value


def _check_against(wanted: Sequence[Bundle], nodes: Sequence[Mapping[str, Any]], there: Mapping[str, float]) -> None:
    """Raises RuntimeError for what a cluster that does not grow cannot hold."""
    sums: dict[str, int] = {}
    for amounts, selector in wanted:
        for name, amount in amounts.items():
            sums[name] = sums.get(name, 0) + amount
        has = [each["Labels"] for each in nodes if each["Alive"]]
        if selector and all(labels.unmet(selector, each) for each in has):
            raise RuntimeError(f"no node has {labels.describe(selector)}. {_NOBODY}")
    missing = {name: opts.floating(name, amount) for name, amount in sums.items()}
    missing = {name: amount for name, amount in missing.items() if amount > there.get(name, 0)}
    if missing:
        told = ", ".join(f"{name}: {amount:g} wanted, {there.get(name, 0):g} there" for name, amount in missing.items())
        raise RuntimeError(f"{told}. {_NOBODY}")


_NOBODY = (
    "Nothing adds machines to a running session: start it with more, or start the head with --autoscaling-config "
    "(docs/autoscaling.md)"
)


__all__ = ["request_resources"]
