"""A session kept elsewhere and read back, through pyarrow's file systems (a directory by its URI: there is no S3)."""

from __future__ import annotations

import os

import pytest
from pyarrow import fs

from obsray.cli import archive
from obsray.cli.command import main
from obsray.cli.sessions import Problem, views
from obsray.testing.recorded_session import record_session


@pytest.fixture
def recorded(tmp_path):
    made = record_session(tmp_path / "s_20260101-000000_9", tasks=50, live=False)
    (made.directory / "token").write_bytes(os.urandom(32))
    (made.directory / "logs").mkdir(exist_ok=True)
    (made.directory / "logs" / "node.log").write_text("node is up\n")
    return made


def test_what_was_archived_is_the_same_session(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    where = f"file://{tmp_path}/kept"
    assert main(["history", "archive", str(recorded.directory), where]) == 0
    address = f"{where}/{recorded.directory.name}"
    assert address in capsys.readouterr().out
    assert not (tmp_path / "kept" / recorded.directory.name / "token").exists()
    copy = archive.get(address)
    assert copy != recorded.directory and (copy / "logs" / "node.log").read_text() == "node is up\n"
    mine, theirs = views(recorded.directory).tasks(limit=1000), views(copy).tasks(limit=1000)
    assert theirs["total"] == mine["total"] > 0 and theirs["rows"] == mine["rows"]
    assert archive.get(address) == copy


def test_a_store_behind_another_file_system_is_written_the_same_way(recorded, tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    store = fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())
    monkeypatch.setattr(archive, "_open", lambda address: (store, "path"))
    address, size = archive.put(recorded.directory, "s3://bucket/path")
    assert address == f"s3://bucket/path/{recorded.directory.name}" and size > 0
    address, _ = archive.put(recorded.directory, "s3://bucket/path/?region=eu")
    assert address == f"s3://bucket/path/{recorded.directory.name}?region=eu"
    assert (tmp_path / "bucket" / "path" / recorded.directory.name / "session.json").exists()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("AWS Error NO_SUCH_BUCKET during PutObject", "no such bucket"),
        ("AWS Error ACCESS_DENIED", "AWS_ACCESS_KEY_ID"),
        ("curlCode: 6, Couldn't resolve host name", "endpoint_override"),
    ],
)
def test_an_error_of_the_store_says_what_to_do(recorded, monkeypatch, said, advice):
    class Refusing:
        def create_dir(self, *_, **__):
            raise OSError(said)

    monkeypatch.setattr(archive, "_open", lambda address: (Refusing(), "path"))
    with pytest.raises(Problem) as caught:
        archive.put(recorded.directory, "s3://bucket/path")
    assert advice in caught.value.advice and said in str(caught.value)


def test_what_is_no_session_or_no_address_is_told(recorded, tmp_path, capsys):
    with pytest.raises(Problem, match="there are s_20260101"):
        archive.get(f"file://{tmp_path}")
    with pytest.raises(Problem, match="no session is there"):
        archive.get(f"file://{tmp_path}/nowhere")
    with pytest.raises(Problem, match="nonsense"):
        archive.get("nonsense://x/y")
    assert main(["history", "archive", str(recorded.directory)]) == 1 and "where to?" in capsys.readouterr().err
