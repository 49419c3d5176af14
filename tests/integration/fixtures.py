"""Runtimes of their own. A test module that wants them says ``pytest_plugins = ["tests.integration.fixtures"]``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.programs import Program


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory of its own for sessions. Short, because a socket's path may have 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="o"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def program(root: Path) -> Iterator[Callable[..., Program]]:
    """Starts driver programs; what the test leaves of them is killed."""
    started: list[Program] = []

    def start(source: str, **environment: str) -> Program:
        started.append(Program(source, root, **environment))
        return started[-1]

    yield start
    for each in started:
        each.end()
