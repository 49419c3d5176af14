"""Of what workers print the newest is kept: what is gone is counted, and nothing else moves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from obsray.dashboard import jobs
from obsray.telemetry.log_bounds import LogBounds, first_byte, missing
from obsray.telemetry.log_files import LogFile, LogReader, size_of
from obsray.util.state.logs import _lines

WORKER = "0123456789abcdef"
KEPT = 1 << 18


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / f"worker-{WORKER}.out"
    path.write_bytes(b"".join(b"line %07d\n" % number for number in range(100_000)))
    return path


def read(path: Path, reader: LogReader | None = None) -> list[bytes]:
    reader = reader or LogReader(LogFile(path, "00" * 8, WORKER, "out"))
    return [line.data for line in reader.lines(None, size_of(reader.file), True, None)]


def test_the_newest_whole_lines_are_kept_and_lie_where_they_lay(output: Path) -> None:
    (tmp := output.parent / "worker-fedcba9876543210.err").write_bytes(b"short\n")
    size, blocks = output.stat().st_size, output.stat().st_blocks
    (dropped,) = LogBounds(output.parent, KEPT).look()
    assert dropped == (WORKER, "out", dropped.first_byte, dropped.first_byte)
    assert 0 <= KEPT - (size - dropped.first_byte) < 20 and output.stat().st_size == size
    assert output.stat().st_blocks < blocks / 2, "the disk has its room back"
    with output.open("rb") as file:
        assert first_byte(file.fileno()) == dropped.first_byte
    said, *lines = read(output)
    assert said == missing(dropped.first_byte).encode()
    assert lines == [b"line %07d" % number for number in range(100_000 - len(lines), 100_000)]
    assert read(tmp)[0].startswith(b"short")


def test_what_the_command_of_a_job_prints_is_bounded_the_same_way(output: Path) -> None:
    job = output.rename(output.parent / "job-driver-raysubmit_1.2-x.log")
    (output.parent / "job-supervisor-raysubmit_1.2-x.log").write_bytes(job.read_bytes())
    (dropped,) = LogBounds(job.parent, KEPT).look()
    assert dropped == ("raysubmit_1.2-x", "", dropped.first_byte, dropped.first_byte)
    begin = missing(dropped.first_byte)
    said, *lines = _lines(job, None, -1, "utf-8", "strict", None)
    assert said == begin + "\n" and lines[-1] == "line 0099999\n" and "\0" not in lines[0]
    assert jobs._all_of(job).splitlines()[0] == begin and jobs._all_of(job).splitlines()[-1] == "line 0099999"
    reader = LogReader(LogFile(job, "00" * 8, "", "system"))
    assert next(reader.lines(None, size_of(reader.file), True, None)).data == begin.encode()
    # Who follows it and has read half of what is gone is told how much it missed.
    data, behind = jobs._read_from(job, 5000)
    assert data.startswith(missing(dropped.first_byte - 5000).encode() + b"\nline ") and behind == job.stat().st_size
    assert jobs._read_from(job, behind) == (b"", behind)


def test_a_little_too_much_stays_and_no_bound_keeps_all(output: Path) -> None:
    size = output.stat().st_size
    assert list(LogBounds(output.parent, size - 1000).look()) == list(LogBounds(output.parent, 0).look()) == []


def test_whoever_writes_goes_on_and_whoever_reads_is_told_what_it_missed(output: Path) -> None:
    bounds, reader = LogBounds(output.parent, KEPT), LogReader(LogFile(output, "00" * 8, WORKER, "out"))
    assert len(read(output, reader)) == 100_000
    with output.open("ab", buffering=0) as writer:
        for number in range(40_000):
            writer.write(b"more %07d\n" % number)
        (dropped,) = bounds.look()
        writer.write(b"last\n")
    assert list(bounds.look()) == [], "once is enough"
    behind = dropped.first_byte - 100_000 * 13
    said, *lines = read(output, reader)
    assert said == missing(behind).encode() and lines[-1] == b"last" and len(lines) == (40_000 * 13 - behind) // 13 + 1


def test_files_are_given_to_programs_from_where_they_begin(output: Path) -> None:
    (dropped,) = LogBounds(output.parent, KEPT).look()
    said, *lines = _lines(output, None, -1, "utf-8", "strict", None)
    assert said == missing(dropped.first_byte) + "\n" and lines[-1] == "line 0099999\n" and "\0" not in lines[0]


def test_the_last_lines_of_a_file_that_was_cut_are_found_from_its_end(output: Path) -> None:
    (dropped,) = LogBounds(output.parent, KEPT).look()
    reader = LogReader(LogFile(output, "00" * 8, WORKER, "out"))
    assert reader.skip(3, size_of(reader.file)) > 0 and len(read(output, reader)) == 3
    os.truncate(output, dropped.first_byte)
    assert read(output) == [missing(dropped.first_byte).encode()]
