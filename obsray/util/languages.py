"""Names of calls into other languages. obsray runs Python; each of them says so."""

from __future__ import annotations

from enum import Enum
from typing import Any, NoReturn

from obsray.errors import CrossLanguageError


class Language(Enum):
    """The languages that Ray knows; obsray runs ``PYTHON``."""

    PYTHON = 0
    JAVA = 1
    CPP = 2


def java_function(class_name: str, function_name: str) -> NoReturn:
    """Refused with CrossLanguageError."""
    _refuse("java_function", f"{class_name}.{function_name}", "a Python function that talks to a JVM of its own")


def java_actor_class(class_name: str) -> NoReturn:
    """Refused with CrossLanguageError."""
    _refuse("java_actor_class", class_name, "an actor that talks to a JVM of its own")


def cpp_function(function_name: str) -> NoReturn:
    """Refused with CrossLanguageError."""
    _refuse("cpp_function", function_name, "a Python function that calls it through ctypes, cffi or pybind11")


def _refuse(name: str, wanted: Any, instead: str) -> NoReturn:
    raise CrossLanguageError(f"{name}({wanted!r}): obsray runs Python code only; make {instead} remote instead")


__all__ = ["Language", "cpp_function", "java_actor_class", "java_function"]
