"""The committed modules of the control plane are what ``control.proto`` says; the package requires what they need."""

from __future__ import annotations

import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts"))

import generate_protocol  # noqa: E402

#: Lines that name the versions of the compiler, and the four arguments of protobuf's own check.
_VERSION_LINES = re.compile(r"(?m)^.*(Protobuf Python Version|GRPC_GENERATED_VERSION = ).*\n|^    (\d+|''),\n")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    pytest.importorskip("grpc_tools")
    into = tmp_path_factory.mktemp("generated")
    generate_protocol.generate(into)
    return into


@pytest.mark.parametrize("name", generate_protocol.GENERATED)
def test_the_committed_module_is_what_the_compiler_makes(generated, name):
    made, committed = ((base / name).read_text() for base in (generated, ROOT))
    assert committed.startswith(generate_protocol.HEADER)
    assert _VERSION_LINES.sub("", made) == _VERSION_LINES.sub("", committed), "run scripts/generate_protocol.py"


def test_the_package_requires_the_versions_that_the_generated_modules_need():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    messages, _, services = ((ROOT / name).read_text() for name in generate_protocol.GENERATED)
    protobuf = re.search(r"Protobuf Python Version: ([\d.]+)", messages)
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", services)
    assert protobuf and f"protobuf>={protobuf[1]}" in requirements
    assert grpcio and f"grpcio>={grpcio[1]}" in requirements


def test_every_call_of_the_interface_says_what_it_is_for():
    lines = (ROOT / generate_protocol.PROTO).read_text().splitlines()
    pairs = itertools.pairwise(lines)
    assert [line for before, line in pairs if "  rpc " in line and not before.startswith("  //")] == []
