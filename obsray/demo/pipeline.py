"""A pipeline that hands large numpy arrays from task to task through shared memory, and proof that nobody copies them.

For each recording: ``record`` makes a long noisy signal, ``clean`` filters it, and ``spectrum`` and ``loudness`` both
read the filtered one. Every reader reports where the array it was given lies: the mapping of its memory (from
``/proc/self/maps``) and whether it may write to it. Readers in different processes that name the same file, inode and
offset read the same physical pages.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import obsray
from obsray.demo.parts import Failed, PartResult
from obsray.demo.progress import Progress

Array = NDArray[np.float64]

SAMPLES_PER_SECOND = 48_000
TONES_HERTZ = (110.0, 440.0, 1760.0)
#: The filter works on frames of this many samples.
FRAME_SAMPLES = 1 << 14
CUTOFF_HERTZ = 4_000.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in the process that was given it."""

    pid: int
    bytes: int
    #: Mapped shared: the pages belong to the object store, not to this process.
    shared: bool
    writable: bool
    #: The mapped file and the array's position in it: equal in two processes means the same pages.
    file: str
    offset: int
    #: Bytes this process owns alone because of this array: all of it if it is a copy, otherwise 0.
    copied_bytes: int


def place_of(array: Array) -> Place:
    """Look the array's address up in this process' memory map. Raises LookupError if no mapping contains it."""
    address = int(array.__array_interface__["data"][0])
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode, offset, device, inode, *name = line.rstrip().split(maxsplit=5)
            low, high = (int(part, 16) for part in span.split("-"))
            if low <= address < high:
                whole = address + array.nbytes <= high
                shared = mode[3] == "s" and whole
                path = name[0].removesuffix(" (deleted)") if name else "(no file)"
                return Place(
                    pid=os.getpid(),
                    bytes=array.nbytes,
                    shared=shared,
                    writable=bool(array.flags.writeable),
                    file=f"{path} (device {device}, inode {inode})",
                    offset=int(offset, 16) + address - low,
                    copied_bytes=0 if shared else array.nbytes,
                )
    raise LookupError(f"no mapping holds address {address:#x}")


def make_recording(seed: int, samples: int) -> Array:
    """Tones with noise on top: float64, one channel."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    noise *= 0.5
    tone = np.arange(FRAME_SAMPLES) * (2 * np.pi / SAMPLES_PER_SECOND)
    frame = sum((np.sin(hertz * (1 + seed % 3) * tone) for hertz in TONES_HERTZ), np.zeros(FRAME_SAMPLES))
    noise.reshape(-1, FRAME_SAMPLES)[:] += frame
    return noise


def filtered(recording: Array) -> Array:
    """The recording without what lies above CUTOFF_HERTZ, frame by frame."""
    keep = int(CUTOFF_HERTZ * FRAME_SAMPLES / SAMPLES_PER_SECOND)
    result = np.empty_like(recording)
    for frame, clean in zip(recording.reshape(-1, FRAME_SAMPLES), result.reshape(-1, FRAME_SAMPLES), strict=True):
        waves = np.fft.rfft(frame)
        waves[keep:] = 0
        clean[:] = np.fft.irfft(waves, FRAME_SAMPLES)
    return result


def power_spectrum(recording: Array) -> Array:
    """Mean power per frequency over all frames."""
    frames = recording.reshape(-1, FRAME_SAMPLES)
    total = np.zeros(FRAME_SAMPLES // 2 + 1)
    for frame in frames:
        total += np.abs(np.fft.rfft(frame)) ** 2
    return total / len(frames)


def root_mean_square(recording: Array) -> Array:
    """Loudness of each frame."""
    levels: Array = np.sqrt(np.square(recording.reshape(-1, FRAME_SAMPLES)).mean(axis=1))
    return levels


@obsray.remote
def record(seed: int, samples: int) -> Array:
    return make_recording(seed, samples)


@obsray.remote(num_returns=2)
def clean(recording: Array) -> tuple[Array, Place]:
    return filtered(recording), place_of(recording)


@obsray.remote
def spectrum(recording: Array) -> tuple[Array, Place]:
    return power_spectrum(recording), place_of(recording)


@obsray.remote
def loudness(recording: Array) -> tuple[Array, Place]:
    return root_mean_square(recording), place_of(recording)


Answer = tuple[Array, Array]


def analyse_distributed(
    recordings: int, samples: int, ahead: int, progress: Progress
) -> tuple[list[Answer], list[Place], str]:
    """Spectrum and loudness of each recording, where every reader found its array, and the last branch's task.

    At most ``ahead`` recordings are under way, so that memory stays bounded and freed pages are used again.
    """
    answers: list[Answer] = []
    places: list[Place] = []
    under_way: deque[tuple[Any, Any, Any]] = deque()
    story = ""
    for seed in range(recordings + ahead):
        if seed < recordings:
            cleaned, place = clean.remote(record.remote(seed, samples))
            under_way.append((place, spectrum.remote(cleaned), loudness.remote(cleaned)))
            story = under_way[-1][1].task_id().hex()
            del cleaned
        if seed >= ahead - 1 and under_way:
            place, (power, first), (level, second) = obsray.get(list(under_way.popleft()))
            places += [place, first, second]
            answers.append((power, level))
            progress.advance(3)
    return answers, places, story


def analyse_alone(recordings: int, samples: int, progress: Progress) -> list[Answer]:
    """The same in this process."""
    results: list[Answer] = []
    for seed in range(recordings):
        cleaned = filtered(make_recording(seed, samples))
        results.append((power_spectrum(cleaned), root_mean_square(cleaned)))
        progress.advance(3)
    return results


def check_places(places: list[Place]) -> None:
    """Raises Failed unless every reader read shared, read-only memory."""
    for place in places:
        if not place.shared:
            raise Failed(f"pipeline: process {place.pid} read a copy of {place.bytes:,} bytes in {place.file}")
        if place.writable:
            raise Failed(f"pipeline: process {place.pid} could write to a shared array at {place.file}")


def run(progress: Progress, *, quick: bool = False) -> PartResult:
    """Analyse recordings with tasks and again in this process alone; answers must be equal and nothing copied."""
    recordings = 4 if quick else 16
    samples = FRAME_SAMPLES * (64 if quick else 512)
    steps = 3 * recordings

    progress.begin("pipeline", steps, "steps")
    started = time.perf_counter()
    ahead = 2 * max(1, int(obsray.cluster_resources().get("CPU", 1)))
    answers, places, story = analyse_distributed(recordings, samples, ahead, progress)
    seconds = time.perf_counter() - started

    progress.begin("pipeline, one process", steps, "steps")
    started = time.perf_counter()
    expected = analyse_alone(recordings, samples, progress)
    seconds_alone = time.perf_counter() - started

    for seed, (got, wanted) in enumerate(zip(answers, expected, strict=True)):
        if not all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True)):
            raise Failed(f"pipeline: recording {seed} was analysed differently by the one-process run")
    check_places(places)
    read = sum(place.bytes for place in places)
    copied = sum(place.copied_bytes for place in places)
    made = 2 * recordings * samples * 8
    readers: dict[tuple[str, int], set[int]] = {}
    for place in places:
        readers.setdefault((place.file, place.offset), set()).add(place.pid)
    together = sum(1 for pids in readers.values() if len(pids) > 1)
    return PartResult(
        name="pipeline",
        tasks=4 * recordings,
        seconds=seconds,
        seconds_alone=seconds_alone,
        story=story,
        did=f"{recordings} recordings of {samples * 8 / 1e6:.0f} MB: {made / 1e9:.2f} GB written to shared memory "
        f"once, {read / 1e9:.2f} GB read from it, {copied} bytes copied by readers",
        checked=f"spectra and loudness equal the one-process run's; all {len(places)} arrays were read in place, "
        f"read-only, from {places[0].file}",
        facts={
            "bytes_written": made,
            "bytes_read": read,
            "bytes_copied_by_readers": copied,
            "places_read_by_several_processes": together,
        },
    )
