"""Shell: packages of environments on their way from the node whose program made them to one that needs them.

The thread that makes an environment waits; pieces are asked for one after the other, so that a large package neither
fills a link nor this process. A package appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from obsray.core.node.neighbours import Neighbours
from obsray.core.protocol.messages import PackagePiece, WantPackage, encode

PIECE_BYTES = 1 << 20
#: Without a piece for so long, another node is asked.
PATIENCE_SECONDS = 10.0
_NAME = re.compile(r"[0-9a-f]{32}\.(zip|hook)")


class _Wanted:
    """A package that is fetched: from whom, how far, and who waits."""

    def __init__(self, sources: list[bytes], part: Path) -> None:
        self.sources = sources
        self.part = part
        self.offset = 0
        self.done = threading.Event()
        self.moved = threading.Event()
        self.complete = False


class Parcels:
    """``post`` runs a function on the node's thread."""

    def __init__(self, directory: Path, neighbours: Neighbours, post: Callable[[Callable[[], Any]], None]) -> None:
        self._directory = directory
        self._neighbours = neighbours
        self._post = post
        self._wanted: dict[str, _Wanted] = {}
        self._lock = threading.Lock()
        neighbours.handle(WantPackage, self._asked)
        neighbours.handle(PackagePiece, self._came)

    # --- the thread that needs it ----------------------------------------------------------------------------

    def fetch(self, name: str) -> bool:
        """Bring a package here from whoever has it. False if nobody does."""
        if not _NAME.fullmatch(name):
            return False
        with self._lock:
            wanted = self._wanted.get(name)
            if wanted is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                wanted = _Wanted([], self._directory / f".{name}.part")
                self._wanted[name] = wanted
                self._post(partial(self._begin, name, wanted))
        while not wanted.done.is_set():
            wanted.moved.clear()
            if not wanted.moved.wait(PATIENCE_SECONDS) and not wanted.done.is_set():
                self._post(partial(self._next_source, name, wanted))
        return wanted.complete

    # --- the node's thread -----------------------------------------------------------------------------------

    def _begin(self, name: str, wanted: _Wanted) -> None:
        wanted.sources = [b"", *self._neighbours.links]
        self._next_source(name, wanted)

    def _next_source(self, name: str, wanted: _Wanted) -> None:
        if wanted.done.is_set():
            return
        wanted.sources = wanted.sources[1:]
        wanted.offset = 0
        wanted.part.unlink(missing_ok=True)
        if wanted.sources:
            self._ask(name, wanted)
        else:
            self._end(name, wanted)

    def _ask(self, name: str, wanted: _Wanted) -> None:
        self._neighbours.send(wanted.sources[0], encode(WantPackage(name, wanted.offset)))

    def _end(self, name: str, wanted: _Wanted) -> None:
        with self._lock:
            self._wanted.pop(name, None)
        wanted.done.set()
        wanted.moved.set()

    def _came(self, node: bytes, piece: PackagePiece) -> None:
        wanted = self._wanted.get(piece.name)
        if wanted is None or not wanted.sources or node != wanted.sources[0] or piece.offset != wanted.offset:
            return
        if piece.total < 0 or (not piece.data and piece.offset < piece.total):
            self._next_source(piece.name, wanted)
            return
        with open(wanted.part, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(piece.data)
        wanted.offset += len(piece.data)
        if wanted.offset >= piece.total:
            wanted.part.rename(self._directory / piece.name)
            wanted.complete = True
            self._end(piece.name, wanted)
        else:
            wanted.moved.set()
            self._ask(piece.name, wanted)

    def _asked(self, node: bytes, message: WantPackage) -> None:
        data, total = b"", -1
        if _NAME.fullmatch(message.name) and message.offset >= 0:
            try:
                with open(self._directory / message.name, "rb") as file:
                    total = os.fstat(file.fileno()).st_size
                    file.seek(message.offset)
                    data = file.read(PIECE_BYTES)
            except OSError:
                total = -1
        self._neighbours.send(node, encode(PackagePiece(message.name, message.offset, total, data)))
