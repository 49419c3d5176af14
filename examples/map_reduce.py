"""Map-reduce over the Zen of Python: three partitions, each map task returns one part per reducer.

A reducer's arguments are references: it starts when all of its parts exist, and they go from worker to worker.
"""

from __future__ import annotations

import codecs
import contextlib
import io
from collections import Counter

import obsray

with contextlib.redirect_stdout(io.StringIO()):
    import this

PARTITIONS = 3


def zen_of_python() -> list[bytes]:
    """Its words, in order."""
    return codecs.decode(this.s, "rot13").encode().split()


@obsray.remote(num_returns=PARTITIONS)
def map_words(words: list[bytes]) -> list[list[tuple[bytes, int]]]:
    """(word, 1) for each word, in the partition its first letter belongs to."""
    parts: list[list[tuple[bytes, int]]] = [[] for _ in range(PARTITIONS)]
    for word in words:
        word = word.lower()
        parts[ord(word.decode()[0]) % PARTITIONS].append((word, 1))
    return parts


@obsray.remote
def reduce_words(*parts: list[tuple[bytes, int]]) -> dict[bytes, int]:
    """How often each word of one partition occurs."""
    counts: Counter[bytes] = Counter()
    for part in parts:
        for word, count in part:
            counts[word] += count
    return dict(counts)


def main() -> None:
    words = zen_of_python()
    chunk = len(words) // PARTITIONS
    chunks = [words[i * chunk : (i + 1) * chunk if i < PARTITIONS - 1 else None] for i in range(PARTITIONS)]
    mapped = [map_words.remote(part) for part in chunks]
    reduced = [reduce_words.remote(*(parts[i] for parts in mapped)) for i in range(PARTITIONS)]
    counts = {word: count for part in obsray.get(reduced) for word, count in part.items()}
    assert counts == Counter(word.lower() for word in words), "one process counts otherwise"
    for word, count in sorted(counts.items(), key=lambda item: item[1], reverse=True):
        print(f"{word.decode()}: {count}")


if __name__ == "__main__":
    obsray.init()
    main()
    obsray.shutdown()
