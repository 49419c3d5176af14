"""Labels of nodes, and selectors that say which labels a node must have.

A *selector* is a tuple of terms that must all hold; a *term* is ``(key, operator, values)``. A node without the label
is not IN anything, and is NOT_IN everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

IN = "in"
NOT_IN = "not_in"
EXISTS = "exists"
ABSENT = "absent"
OPERATORS = frozenset({IN, NOT_IN, EXISTS, ABSENT})

#: Labels with a meaning of their own.
RESERVED_PREFIX = "ray.io/"
#: What the runtime itself gives a node.
NODE_ID = RESERVED_PREFIX + "node-id"
ACCELERATOR = RESERVED_PREFIX + "accelerator-type"
#: What a node cannot know of its machine: label -> variable of its environment that says it, if nothing else does.
DESCRIBING = {
    RESERVED_PREFIX + "market-type": "RAY_NODE_MARKET_TYPE",
    RESERVED_PREFIX + "node-group": "RAY_NODE_TYPE_NAME",
    RESERVED_PREFIX + "availability-region": "RAY_NODE_REGION",
    RESERVED_PREFIX + "availability-zone": "RAY_NODE_ZONE",
}

TERMS_MAX = 32
VALUES_MAX = 256
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SET = re.compile(r"(!?)in\((.*)\)")

Term = tuple[str, str, tuple[str, ...]]
Selector = tuple[Term, ...]


def check_key(key: Any, what: str) -> str:
    """The key of a label. Raises TypeError or ValueError."""
    if not isinstance(key, str):
        raise TypeError(f"{what}: the key of a label must be a string, got {key!r}")
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{what}: {key!r} cannot be the key of a label: letters, digits, '-', '_' and '.', with a letter or digit "
            "at both ends, after an optional prefix like 'example.com/'"
        )
    return key


def check_value(value: Any, what: str) -> str:
    """The value of a label. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: the value of a label must be a string, got {value!r}")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"{what}: {value!r} cannot be the value of a label: at most 63 letters, digits, '-', '_' and '.', with a "
            "letter or digit at both ends"
        )
    return value


def said(labels: Mapping[Any, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """The labels of a node: what its environment says, and ``labels``, which win. Raises TypeError or ValueError."""
    for key, label in labels.items():
        check_key(key, "labels")
        check_value(label, f"labels[{key!r}]")
        if key.startswith(RESERVED_PREFIX) and key not in DESCRIBING and key != ACCELERATOR:
            raise ValueError(
                f"labels: {key!r}: the prefix {RESERVED_PREFIX} is for labels of the runtime's own; of these you may "
                f"say {', '.join((ACCELERATOR, *DESCRIBING))}"
            )
    found = {key: environment[name] for key, name in DESCRIBING.items() if environment.get(name)}
    return {**{key: check_value(label, DESCRIBING[key]) for key, label in found.items()}, **labels}


def parse(selector: Any, what: str) -> Selector:
    """``{key: "v" | "!v" | "in(a,b)" | "!in(a,b)"}`` as terms. Raises TypeError or ValueError that name ``what``."""
    if not isinstance(selector, Mapping):
        raise TypeError(f"{what} must be a dict of label to condition, got {type(selector).__name__}")
    if len(selector) > TERMS_MAX:
        raise ValueError(f"{what}: more than {TERMS_MAX} labels")
    return tuple(sorted(_term(check_key(key, what), condition, what) for key, condition in selector.items()))


def _term(key: str, condition: Any, what: str) -> Term:
    if not isinstance(condition, str):
        raise TypeError(f"{what}[{key!r}] must be a string such as 'v', '!v', 'in(a,b)' or '!in(a,b)'")
    several = _SET.fullmatch(condition.strip())
    if several:
        negated, values = bool(several[1]), tuple(value.strip() for value in several[2].split(","))
    else:
        negated, values = condition.startswith("!"), (condition.removeprefix("!"),)
    if not all(values) or len(values) > VALUES_MAX:
        raise ValueError(f"{what}[{key!r}]={condition!r}: must be 'v', '!v', 'in(a,b)' or '!in(a,b)'")
    for value in values:
        check_value(value, f"{what}[{key!r}]")
    return key, NOT_IN if negated else IN, values


def holds(term: Term, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels meets one term."""
    key, operator, values = term
    if operator == EXISTS:
        return key in labels
    if operator == ABSENT:
        return key not in labels
    return (labels.get(key) in values) == (operator == IN)


def unmet(selector: Selector, labels: Mapping[str, str]) -> str:
    """What of a selector these labels do not meet, in words; empty if all of it is met."""
    return ", ".join(f"{show(term)} ({_has(term[0], labels)})" for term in selector if not holds(term, labels))


def _has(key: str, labels: Mapping[str, str]) -> str:
    return f"the node has {key}={labels[key]}" if key in labels else f"the node has no label {key}"


def show(term: Term) -> str:
    """A term for people: ``side=left``, ``side not in (a, b)``."""
    key, operator, values = term
    if operator in (EXISTS, ABSENT):
        return f"label {key}" if operator == EXISTS else f"no label {key}"
    if len(values) == 1:
        return f"label {key}{'=' if operator == IN else '!='}{values[0]}"
    return f"label {key} {'in' if operator == IN else 'not in'} ({', '.join(values)})"


def describe(selector: Selector) -> str:
    """A selector for people."""
    return ", ".join(show(term).removeprefix("label ") for term in selector)


def received(value: Any) -> Selector:
    """A selector out of a message. Raises ValueError if it is none."""
    if not isinstance(value, (list, tuple)) or len(value) > TERMS_MAX:
        raise ValueError("a selector is a list of terms")
    found: list[Term] = []
    for term in value:
        if not isinstance(term, (list, tuple)) or len(term) != 3:
            raise ValueError("a term is a label, an operator and values")
        key, operator, values = term
        if not isinstance(key, str) or operator not in OPERATORS or not isinstance(values, (list, tuple)):
            raise ValueError("a term is a label, an operator and values")
        if len(values) > VALUES_MAX or not all(isinstance(value, str) for value in values):
            raise ValueError("the values of a label are strings")
        found.append((key, operator, tuple(values)))
    return tuple(found)
