"""Small files are replaced whole, by whoever writes them, and only their user may read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.telemetry import small_files
from obsray.telemetry.small_files import write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("before")
    path.chmod(0o644)
    write_whole(path, "after")
    assert path.read_text() == "after" and path.stat().st_mode & 0o777 == 0o600
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.json"
    write_whole(path, "before")
    with monkeypatch.context() as full:

        class NoRoom:
            def __init__(self, descriptor: int, mode: str) -> None:
                small_files.os.close(descriptor)

            def __enter__(self) -> None:
                raise OSError(28, "No space left on device")

            def __exit__(self, *_: object) -> None: ...

        full.setattr(small_files, "open", NoRoom, raising=False)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "facts.json", "x")
