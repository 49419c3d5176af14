"""What surrounds a call in the user's own terms: the span of OpenTelemetry's API that is current where it is made.

Nothing here imports OpenTelemetry. ``watch`` waits until user code does; only then calls look at what is current.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_MODULE = "opentelemetry.trace"


#: Tells what is around a call: trace, span and baggage, or None if that is only its task. Itself None as long as this
#: process does not use OpenTelemetry.
current: Callable[[], tuple[bytes, int, dict[str, str]] | None] | None = None
_watching = False
_session_of: Callable[[], Any] | None = None


def watch(session_of: Callable[[], Any]) -> None:
    """Have OpenTelemetry's API know the tasks of the session that ``session_of`` gives: now if it is imported, else as
    soon as it is."""
    global _watching, _session_of
    _session_of = session_of
    if _watching:
        return
    _watching = True
    if _MODULE in sys.modules:
        _install()
    else:
        sys.meta_path.insert(0, _Finder())


def _install() -> None:
    global current
    from obsray.core.runtime import user_spans

    if _session_of is not None and user_spans.install(_session_of):
        current = user_spans.current


class _Finder(importlib.abc.MetaPathFinder):
    """Notices the import of one module and is gone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _install()
