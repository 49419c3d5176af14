"""Map-reduce: count the words in the source files of the Python installation this runs on.

A map task reads a shard of files, counts its words and splits the counts by a hash of the word, one part per
reducer, returned as separate objects (``num_returns``). A reduce task takes its part of every map task as
arguments, so the counts go from worker to worker and the driver sees only the merged result.
"""

from __future__ import annotations

import os
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import obsray
from obsray.demo.parts import Failed, PartResult
from obsray.demo.progress import Progress

#: A word is a run of letters: snake_case and digits end it.
WORD = re.compile(r"[^\W\d_]+")
#: Directories that hold other installations' or generated files.
SKIPPED = {"__pycache__", "site-packages", "dist-packages"}
REDUCERS = 4


@dataclass(frozen=True, slots=True)
class Shard:
    """Files one map task reads, and their size in bytes."""

    paths: tuple[str, ...]
    bytes: int


def source_files(bytes_max: int) -> list[tuple[str, int]]:
    """Python sources of the standard library and the installed packages as (path, bytes), in a fixed order.

    At most ``bytes_max`` bytes of them. Every file is read once, so that no later measurement pays for the disk.
    """
    places = sysconfig.get_paths()
    files: list[tuple[str, int]] = []
    total = 0
    for root in dict.fromkeys(os.path.realpath(places[name]) for name in ("stdlib", "purelib", "platlib")):
        for directory, names, leaves in os.walk(root):
            names[:] = sorted(name for name in names if name not in SKIPPED)
            for leaf in sorted(leaves):
                if not leaf.endswith((".py", ".pyi")):
                    continue
                path = os.path.join(directory, leaf)
                try:
                    with open(path, "rb") as file:
                        size = len(file.read())
                except OSError:
                    continue
                if total + size > bytes_max:
                    return files
                files.append((path, size))
                total += size
    return files


def shards_of(files: Sequence[tuple[str, int]], shard_bytes: int) -> list[Shard]:
    """The files in order, cut into shards of about ``shard_bytes``."""
    shards: list[Shard] = []
    paths: list[str] = []
    size = 0
    for path, length in files:
        paths.append(path)
        size += length
        if size >= shard_bytes:
            shards.append(Shard(tuple(paths), size))
            paths, size = [], 0
    if paths:
        shards.append(Shard(tuple(paths), size))
    return shards


def count_words(paths: Iterable[str]) -> Counter[str]:
    """Words of these files, in lower case, and how often each occurs."""
    counts: Counter[str] = Counter()
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            counts.update(WORD.findall(file.read().lower()))
    return counts


def split(counts: Counter[str], parts: int) -> list[dict[str, int]]:
    """The counts in ``parts`` dictionaries; a word is always in the same one, whoever counted it."""
    buckets: list[dict[str, int]] = [{} for _ in range(parts)]
    for word, count in counts.items():
        buckets[crc32(word.encode()) % parts][word] = count
    return buckets


def merge(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of several counts."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


@obsray.remote(num_returns=REDUCERS)
def map_shard(paths: tuple[str, ...]) -> list[dict[str, int]]:
    return split(count_words(paths), REDUCERS)


@obsray.remote
def reduce_words(*parts: dict[str, int]) -> dict[str, int]:
    return merge(parts)


def count_distributed(shards: Sequence[Shard], progress: Progress) -> tuple[dict[str, int], str]:
    """The counts, made by tasks, and the id of the task that waited for the most others."""
    mapped = [map_shard.remote(shard.paths) for shard in shards]
    reduced = [reduce_words.remote(*(row[column] for row in mapped)) for column in range(REDUCERS)]
    pending = [row[0] for row in mapped] + reduced
    while pending:
        ready, pending = obsray.wait(pending, num_returns=1)
        progress.advance(len(ready))
    total: dict[str, int] = {}
    for part in obsray.get(reduced):
        total.update(part)
    return total, reduced[0].task_id().hex()


def run(progress: Progress, *, quick: bool = False) -> PartResult:
    """Count with tasks and again in this process alone; the two must agree word for word."""
    files = source_files((12 << 20) if quick else (96 << 20))
    if not files:
        raise Failed("found no Python source files to count")
    shards = shards_of(files, (1 << 20) if quick else (3 << 20))

    progress.begin("word count", len(shards) + REDUCERS, "tasks")
    started = time.perf_counter()
    counts, story = count_distributed(shards, progress)
    seconds = time.perf_counter() - started

    progress.begin("word count, one process", len(shards), "shards")
    started = time.perf_counter()
    expected: Counter[str] = Counter()
    for shard in shards:
        expected.update(count_words(shard.paths))
        progress.advance()
    seconds_alone = time.perf_counter() - started

    if counts != expected:
        wrong = next(word for word in counts.keys() | expected.keys() if counts.get(word) != expected.get(word))
        raise Failed(f"word count: {wrong!r} counted {counts.get(wrong)} times, alone {expected.get(wrong)} times")
    words = sum(counts.values())
    top = ", ".join(f"{word} {count:,}" for word, count in expected.most_common(4))
    megabytes = sum(shard.bytes for shard in shards) / 1e6
    return PartResult(
        name="word count",
        tasks=len(shards) + REDUCERS,
        seconds=seconds,
        seconds_alone=seconds_alone,
        story=story,
        did=f"{words:,} words, {len(counts):,} different ones, in {len(files):,} source files ({megabytes:.0f} MB)",
        checked=f"every word's count equals the one-process run; most frequent: {top}",
        facts={"files": len(files), "bytes": sum(s.bytes for s in shards), "words": words, "distinct": len(counts)},
    )
