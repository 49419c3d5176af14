"""The files of checkpoints: whatever instant a process is killed at, the next one finds a state and the calls since."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.core.protocol.messages import is_checkpoint_file
from obsray.core.system.checkpoints import CheckpointFiles, keep, kept


def reopened(directory: Path) -> tuple[int, bytes | None, list[bytes]]:
    files = CheckpointFiles(directory)
    return files.number, files.state, files.calls


def saved(directory: Path) -> CheckpointFiles:
    """Two states with calls after each."""
    files = CheckpointFiles(directory)
    files.append(b"before any state")
    files.save(b"first" * 1000)
    files.append(b"one")
    files.save(b"second" * 1000)
    files.append(b"two")
    files.append(b"three")
    return files


def test_before_the_first_state_there_are_only_calls(tmp_path):
    assert reopened(tmp_path) == (0, None, [])
    CheckpointFiles(tmp_path).append(b"one")
    assert reopened(tmp_path) == (0, None, [b"one"])


def test_a_state_is_followed_by_the_calls_that_ended_since(tmp_path):
    saved(tmp_path)
    assert reopened(tmp_path) == (2, b"second" * 1000, [b"two", b"three"])
    CheckpointFiles(tmp_path).append(b"four")
    assert reopened(tmp_path)[2] == [b"two", b"three", b"four"]


def test_only_the_last_two_states_are_kept(tmp_path):
    files = CheckpointFiles(tmp_path)
    for number in range(5):
        files.append(b"call")
        assert files.save(bytes([number])) == number + 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["4.calls", "4.state", "5.calls", "5.state"]


def test_wherever_the_record_of_a_call_is_cut_off_those_before_it_count(tmp_path):
    saved(tmp_path)
    path = tmp_path / "2.calls"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        calls = reopened(tmp_path)[2]
        assert calls == [b"two", b"three"][: len(calls)]
        CheckpointFiles(tmp_path).append(b"later")
        assert reopened(tmp_path)[2] == [*calls, b"later"]


def test_a_process_killed_while_it_saves_leaves_the_state_before(tmp_path):
    saved(tmp_path)
    (tmp_path / "3.new").write_bytes(b"half of a state")
    assert reopened(tmp_path) == (2, b"second" * 1000, [b"two", b"three"])


@pytest.mark.parametrize("at", [0, 8, 16, 100, -1])
def test_a_damaged_state_is_done_without_and_more_calls_are_repeated(tmp_path, at):
    saved(tmp_path)
    path = tmp_path / "2.state"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert reopened(tmp_path) == (2, b"first" * 1000, [b"one", b"two", b"three"])


def test_what_a_mirror_is_told_makes_the_same_files_elsewhere(tmp_path):
    near, far = tmp_path / "near", tmp_path / "far"
    files = CheckpointFiles(near, lambda name, data, append, gone: keep(far, name, data, append, gone))
    for number in range(5):
        files.append(b"call %d" % number)
        files.save(b"state %d" % number)
        files.append(b"later %d" % number)
    written = {path.name: path.read_bytes() for path in near.iterdir()}
    assert {name: kept(far, name) for name in kept(far, "")} == written
    again = CheckpointFiles(far)
    assert (again.state, again.calls) == (b"state 4", [b"later 4"])


def test_what_could_not_be_kept_elsewhere_does_not_count_as_saved(tmp_path):
    def refuse(name, data, append, gone):
        raise ValueError("too large")

    files = CheckpointFiles(tmp_path, refuse)
    with pytest.raises(ValueError, match="too large"):
        files.save(b"state")
    with pytest.raises(ValueError, match="too large"):
        files.append(b"call")
    assert CheckpointFiles(tmp_path).state is None and CheckpointFiles(tmp_path).calls == []


@pytest.mark.parametrize("name", ["../x", "1.new", "a.state", "", 3, "1.state/..", "1.state\n"])
def test_only_files_of_checkpoints_can_be_named(name):
    assert not is_checkpoint_file(name) and is_checkpoint_file("12.state") and is_checkpoint_file("0.calls")
