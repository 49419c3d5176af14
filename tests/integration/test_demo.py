"""The demo: it does what it says, fails when an answer is wrong, and ends when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from obsray.demo import evolution, pipeline, wordcount
from obsray.demo.progress import Progress
from tests.integration.programs import SOON_SECONDS

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = [sys.executable, "-m", "obsray.demo", "--quick"]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def report():
    """One quick run of everything, as JSON, and how it looked on stderr."""
    ended = subprocess.run([*DEMO, "--once", "--json"], capture_output=True, text=True, timeout=150, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    document["stderr"] = ended.stderr
    return document


def test_every_part_ran_and_took_time(report):
    assert [part["name"] for part in report["parts"]] == ["word count", "evolution", "pipeline"]
    assert all(part["tasks"] > 0 and part["seconds"] > 0 and part["speedup"] > 0 for part in report["parts"])


def test_no_event_was_lost(report):
    assert report["ledger"]["lost"] == 0
    assert report["ledger"]["recorded"] == report["ledger"]["stored"] > report["tasks"]


def test_nobody_copied_an_array(report):
    facts = report["parts"][2]["facts"]
    assert facts["bytes_copied_by_readers"] == 0
    assert facts["bytes_read"] > 0


def test_without_a_terminal_progress_is_plain_lines(report):
    assert "\x1b" not in report["stderr"] and "\r" not in report["stderr"]
    assert "word count: " in report["stderr"]


def test_the_three_commands_answer_after_the_run(report):
    for command in report["commands"]:
        program, *arguments = command.split()
        assert program == "obsray"
        ended = subprocess.run(
            [sys.executable, "-m", "obsray.cli", *arguments, "--session", report["session"]],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
        )
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        assert ended.stdout.strip()


def test_only_runs_the_part_that_was_asked_for():
    ended = subprocess.run(
        [*DEMO, "--once", "--only", "pipeline"], capture_output=True, text=True, cwd=ROOT, timeout=150
    )
    assert ended.returncode == 0, ended.stderr
    assert "pipeline" in ended.stdout and "word count" not in ended.stdout


def test_a_wrong_answer_is_exit_code_1_and_says_what_is_wrong():
    program = (
        "import sys\n"
        "from obsray.demo import main, wordcount\n"
        "honest = wordcount.count_distributed\n"
        "def wrong(shards, progress):\n"
        "    counts, story = honest(shards, progress)\n"
        "    counts['self'] += 1\n"
        "    return counts, story\n"
        "wordcount.count_distributed = wrong\n"
        "sys.exit(main(['--once', '--quick', '--only', 'wordcount']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=150)
    assert ended.returncode == 1
    assert "check failed: word count: 'self' counted" in ended.stderr


@pytest.mark.parametrize("moment", ["word count:", "evolution:", "stays up until Ctrl-C"])
def test_ctrl_c_at_any_time_ends_it_soon(moment):
    # With SIGABRT it says where it stands.
    command = [sys.executable, "-X", "faulthandler", *DEMO[1:]]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stderr is not None
        shown = ""
        try:
            for line in process.stderr:
                shown += line
                if moment in line:
                    break
            assert moment in shown, shown
            # As a terminal does it: to the whole process group.
            os.killpg(process.pid, signal.SIGINT)
            started = time.monotonic()
            try:
                code = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                pytest.fail(f"it did not end; it stood here:\n{shown}{process.stderr.read()}")
            took = time.monotonic() - started
            shown += process.stderr.read()
            assert code == (0 if moment == "stays up until Ctrl-C" else 130), shown
            assert "Traceback" not in shown, shown
            assert took < SOON_SECONDS
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_on_a_terminal_there_is_one_bar_that_is_redrawn():
    terminal, end = pty.openpty()
    with os.fdopen(end, "w") as stream:
        progress = Progress(stream)
        progress.begin("stage", 2, "steps")
        progress.advance(2)
        progress.draw()
        progress.finish()
    # A terminal hands over what was written piece by piece, and reports its end as an error.
    text = ""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 10_000):
            text += piece.decode()
    os.close(terminal)
    assert text.count("\n") == 1
    assert "█" in text and "2/2 steps" in text


# --- the pieces ------------------------------------------------------------------------------------------


def test_a_word_is_always_in_the_same_part():
    first = wordcount.split(wordcount.Counter({"a": 1, "b": 2, "c": 3}), 3)
    second = wordcount.split(wordcount.Counter({"c": 4, "a": 5}), 3)
    merged = [wordcount.merge(parts) for parts in zip(first, second, strict=True)]
    assert {word: count for part in merged for word, count in part.items()} == {"a": 6, "b": 2, "c": 7}
    assert sum(len(part) for part in merged) == 3


def test_files_that_are_not_utf8_or_vanish_are_no_error(tmp_path):
    odd = tmp_path / "odd.py"
    odd.write_bytes(b"alpha \xff\xfe beta_alpha 3")
    assert wordcount.count_words([str(odd)]) == {"alpha": 2, "beta": 1}


def test_shards_hold_every_file_once():
    files = [(str(number), number) for number in range(100)]
    shards = wordcount.shards_of(files, 500)
    assert [path for shard in shards for path in shard.paths] == [path for path, _ in files]
    assert sum(shard.bytes for shard in shards) == sum(size for _, size in files)


def test_an_episode_does_not_depend_on_which_others_are_played_beside_it():
    seed = 20
    chance = np.random.default_rng(seed)
    networks = chance.standard_normal((7, evolution.WEIGHTS))
    starts = chance.uniform(-0.05, 0.05, (5, evolution.INPUTS))
    together = evolution.play(networks, starts)
    for row in range(len(networks)):
        for column in range(len(starts)):
            alone = evolution.play(networks[row : row + 1], starts[column : column + 1])
            assert alone[0, 0] == together[row, column], f"seed {seed}"


def test_a_pole_that_leans_too_far_falls_at_once():
    starts = np.array([[0.0, 0.0, 1.1 * evolution.ANGLE_MAX, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert list(evolution.play(np.zeros((1, evolution.WEIGHTS)), starts)[0] > 0) == [False, True]


def test_an_array_on_the_heap_counts_as_a_copy():
    array = np.arange(1_000_000, dtype=np.float64)
    place = pipeline.place_of(array)
    assert not place.shared and place.writable and place.copied_bytes == array.nbytes
    with pytest.raises(pipeline.Failed, match="read a copy of 8,000,000 bytes"):
        pipeline.check_places([place])


def test_the_filter_keeps_what_is_low_and_drops_what_is_high():
    time_seconds = np.arange(pipeline.FRAME_SAMPLES) / pipeline.SAMPLES_PER_SECOND
    low, high = np.sin(2 * np.pi * 468.75 * time_seconds), np.sin(2 * np.pi * 9375.0 * time_seconds)
    assert np.allclose(pipeline.filtered(low + high), low, atol=1e-9)
