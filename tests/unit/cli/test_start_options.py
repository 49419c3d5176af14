"""``obsray start`` with options that cannot be: told before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.cli import command
from obsray.core.runtime import node_process


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a node was started")

    monkeypatch.setattr(node_process.subprocess, "Popen", start)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("", "either --head"),
        ("--head --address 127.0.0.1:1", "either --head"),
        ("--head --standby", "--standby is for a node that joins"),
        ("--address nowhere", "written host:port"),
        ("--address 127.0.0.1:0", "no control store can be reached"),
        ("--address 127.0.0.1:1 --port 1", "--port is the head's"),
        ("--address 127.0.0.1:1 --storage x", "--storage is for a node with a control store"),
        ("--head --resources {", "not JSON"),
        ("--head --resources [1]", "must be an object"),
        ("--head --labels a", "KEY=VALUE"),
        ("--head --labels ray.io/x=1", "the prefix ray.io/"),
        ("--head --labels-file /nowhere/at/all", "--labels-file"),
        ("--head --num-cpus -1", "num_cpus"),
        ("--head --port 65536", "not a port"),
        ("--head --dashboard-host 0.0.0.0", "127.0.0.1 only"),
        ('--head --system-config {"nothing":1}', "is not a setting"),
        ("--head --min-worker-port 1", "workers share the node's one port"),
        ("--head --enable-resource-isolation", "is not offered"),
        ("--head --token-file /nowhere/at/all", "--token-file"),
    ],
)
def test_wrong_options_are_told_at_once(arguments, why, capsys):
    assert command.main(["start", *arguments.split()]) in (1, 2)
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("token", ["x", "00" * 31, "zz" * 32])
def test_what_is_no_token_is_told_without_showing_it(token, monkeypatch, capsys):
    monkeypatch.setenv("OBSRAY_TOKEN", token)
    assert command.main(["start", "--address", "127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "OBSRAY_TOKEN holds no token" in said and (len(token) == 1 or token not in said)


@pytest.mark.parametrize("arguments", ["stop --grace-period -1", "drain x --deadline -1"])
def test_negative_times_are_refused(arguments, capsys):
    assert command.main(arguments.split()) == 1
    assert "must be >= 0" in capsys.readouterr().err
