"""What remote functions, actor classes and methods have in common: from options and a signature to a call."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from typing import Any

from obsray.core import options as opts
from obsray.core import placement
from obsray.core.protocol.environment_key import environment_id, environment_key
from obsray.core.runtime.leases import Shape
from obsray.core.runtime.serialization import dump_function
from obsray.core.runtime.session import Session
from obsray.core.runtime.submission import DYNAMIC, STREAMING

log = logging.getLogger("obsray.functions")

MAX_RETRIES_DEFAULT = 3
#: A function or class that is larger when it is pickled, with all it refers to, is warned of, or refused.
FUNCTION_BYTES_WARNED = 10**7
FUNCTION_BYTES_MAX = int(os.environ.get("FUNCTION_SIZE_ERROR_THRESHOLD", 10**8))


def retries_by_default() -> int:
    """How often a task that does not say so is tried again. Raises ValueError for a variable that is no such number."""
    said = os.environ.get("RAY_TASK_MAX_RETRIES", "")
    if not said:
        return MAX_RETRIES_DEFAULT
    if not said.removeprefix("-").isdecimal() or int(said) < -1:
        raise ValueError(f"RAY_TASK_MAX_RETRIES={said!r}: must be a whole number >= 0, or -1 for no limit")
    return int(said)


def auto_init() -> Session:
    from obsray.core.api import session

    return session()


def pickled_once(function: Any) -> bytes:
    """A function or class by value, with what it refers to.

    Raises TypeError for what cannot travel, ValueError if it is larger than ``FUNCTION_BYTES_MAX``.
    """
    blob = dump_function(function)
    if len(blob) > FUNCTION_BYTES_WARNED:
        name = getattr(function, "__qualname__", None) or repr(function)
        advice = "obsray.put() that once and give the reference as an argument"
        if len(blob) > FUNCTION_BYTES_MAX:
            raise ValueError(
                f"{name} is too large: {len(blob) >> 20} MiB when pickled, more than FUNCTION_SIZE_ERROR_THRESHOLD "
                f"({FUNCTION_BYTES_MAX >> 20} MiB). It refers to something large (a global or an enclosing variable): "
                f"{advice}"
            )
        log.warning(
            "%s is large: %d MiB when pickled, sent to every worker that runs it. It refers to something large (a "
            "global or an enclosing variable): %s", name, len(blob) >> 20, advice,
        )  # fmt: skip
    return blob


def signature_of(function: Any, skip_first: bool) -> tuple[tuple[int, int], Callable[[Any, Any], None]]:
    """How many positional arguments always fit, and a full check for every other call."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return (0, 1 << 30), lambda args, kwargs: None
    if skip_first:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            if parameter.default is parameter.empty:
                least += 1
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = 1 << 30
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            # A required keyword: no call without keywords fits.
            least, most = 1, 0
            break

    def check(args: Any, kwargs: Any) -> None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            name = getattr(function, "__name__", "function")
            raise TypeError(f"{name}{signature}: {error}") from None

    return (least, most), check


def is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def returns_of(options: dict[str, Any], function: Any) -> int:
    returns = options.get("num_returns")
    if returns is None:
        return STREAMING if is_generator(function) else 1
    if returns in ("streaming", "dynamic"):
        if inspect.isfunction(function) and not is_generator(function):
            raise ValueError(
                f'num_returns="{returns}" can only be used with generator functions, and {function.__name__} is none'
            )
        return STREAMING if returns == "streaming" else DYNAMIC
    return int(returns)


def call_options(options: dict[str, Any]) -> dict[str, Any] | None:
    """What a worker must know about a call besides its arguments."""
    found: dict[str, Any] = {}
    wanted = options.get("retry_exceptions")
    if wanted is True:
        found["retry"] = True
    elif wanted:
        found["retry"] = dump_function(tuple(wanted))
    if options.get("max_calls"):
        found["max_calls"] = options["max_calls"]
    if options.get("name"):
        found["name"] = options["name"]
    if options.get("concurrency_group"):
        found["group"] = options["concurrency_group"]
    ahead = options.get("_generator_backpressure_num_objects")
    if ahead is not None and ahead != -1:
        found["backpressure"] = ahead
    return found or None


def shape_of(session: Session, options: dict[str, Any], cpus_default: float, what: str = "a task") -> Shape:
    """The scheduling class of these options. Raises ValueError for a placement in which it can never run."""
    resources = opts.demanded(options, cpus_default)
    runtime = session.environments.describe(options.get("runtime_env"))
    where = placement.placed(session, options, resources, what=what)
    inherited = where.inherited
    key = (tuple(sorted(resources.items())), repr(runtime), where.key, inherited is not None and inherited["capture"])
    with session.lock:
        name = (opts.describe(resources) + where.name)[: opts.NAME_CHARACTERS_MAX - 32]
        if runtime is not None:
            name += f" env:{environment_id(environment_key(runtime)).hex()}"
        return session.dispatcher.shape(name, resources, runtime, key, where.wire, inherited)


def shown(options: dict[str, Any]) -> str:
    """Options as a repr shows them."""
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f" with {text if len(text) <= 200 else text[:197] + '...'}" if text else ""
