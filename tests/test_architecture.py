"""The tree is the architecture: import contracts, and what a process must not load before it needs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_import_contract_is_kept():
    # In a process of its own: the linter sets up logging for itself, which would silence loggers of later tests.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(
        [*command, "--config", "importlinter.toml", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("obsray.core.node.process", {"numpy", "pyarrow", "grpc", "google", "cloudpickle"}),
        ("obsray.core.runtime.zygote", {"numpy", "pyarrow", "grpc", "google", "asyncio"}),
        ("obsray.core.transport.control_client", {"grpc", "google"}),
        ("obsray.telemetry.spine", {"numpy", "pyarrow", "asyncio"}),
        ("obsray.core.control.process", {"numpy", "pyarrow", "cloudpickle", "pickle5"}),
    ],
)
def test_a_process_does_not_load_what_it_does_not_need(module, absent):
    """Start-up time and memory of every worker depend on it; and who never loads a pickler never unpickles."""
    code = f"import sys, {module}; print(*sorted({absent!r} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []


@pytest.mark.parametrize("package", ["obsray/core/node", "obsray/core/control", "obsray/dashboard"])
def test_nodes_the_control_store_and_the_dashboard_never_unpickle(package):
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text()
        for word in ("import pickle", "import cloudpickle", "import marshal", "import shelve", "pickle.loads"):
            assert word not in text, f"{path} has {word!r}"
