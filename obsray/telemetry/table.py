"""What the tables of things have in common: rows found by id, columns that grow, questions with filters and pages."""

from __future__ import annotations

import binascii
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from obsray.telemetry.columns import Array, Texts
from obsray.telemetry.mapped import ROWS_TAKEN, MappedColumns

#: Sequences beyond this are taken for damaged and get no row.
SEQUENCE_MAX = 1 << 27
#: Of a block of an index.
_BLOCK = {"row": ("<i4", -1)}
#: Fewer rows are not worth a file.
MAPPED_ROWS_MIN = 1 << 17

log = logging.getLogger("obsray.telemetry")

Filter = tuple[str, str, Any]
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "contains", "in")
#: For programs: equal whatever the case, and its opposite, which rows without a value fulfil.
LOOSE_OPERATORS = ("is", "is not")


class QueryError(ValueError):
    """A filter or sort that cannot be answered; the text says what would be possible."""


# --- rows by id ------------------------------------------------------------------------------------------


class DenseIndex:
    """Task-like ids (16 bytes) -> row numbers, by owner, kind and sequence: an array lookup, no hashing of ids."""

    _directory: Path | None = None

    def __init__(self) -> None:
        self.count = 0
        #: By owner and kind: the row of each sequence, -1 where there is none.
        self._blocks: dict[tuple[int, int], Grid] = {}

    def rows(self, ids: Array, create: bool = True) -> Array:
        """The row of each id (V16); new ids get the next rows, or -1 without ``create`` or if they are damaged."""
        if not len(ids):
            return np.empty(0, np.int64)
        words = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
        owners = words[:, 0]
        packed = words[:, 1].byteswap()
        kinds = packed >> np.uint64(56)
        sequences = (packed & np.uint64((1 << 56) - 1)).astype(np.int64)
        found = np.empty(len(ids), np.int64)
        for part in _groups(owners, kinds):
            key = (int(owners[part][0]), int(kinds[part][0]))
            found[part] = self._of_owner(key, sequences[part], create)
        return found

    def row(self, identifier: bytes) -> int:
        """The row of one id or -1."""
        return int(self.rows(np.frombuffer(identifier, "V16"), create=False)[0])

    def since(self, owner: int, sequence: int) -> tuple[Array, Array]:
        """Sequences and rows of an owner's ids of all kinds, from a sequence on."""
        sequences, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for (whose, _), block in self._blocks.items():
            if whose == owner:
                found = block["row"][sequence:]
                known = np.flatnonzero(found >= 0)
                sequences.append(known + sequence)
                rows.append(found[known].astype(np.int64))
        return np.concatenate(sequences), np.concatenate(rows)

    def _of_owner(self, key: tuple[int, int], sequences: Array, create: bool) -> Array:
        inside = sequences < SEQUENCE_MAX
        if not inside.all():
            found = np.full(len(sequences), -1, np.int64)
            found[inside] = self._of_owner(key, sequences[inside], create)
            return found
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Grid(dict(_BLOCK), rows_min=16)
            if self._directory is not None:
                block.lie_in(self._directory)
        top = int(sequences.max(initial=0)) + 1
        if top > block.count:
            if not create:
                found = np.full(len(sequences), -1, np.int64)
                known = sequences < block.count
                found[known] = block["row"][sequences[known]]
                return found
            block.grow(top)
        of_block = block["row"]
        rows = of_block[sequences]
        if create:
            fresh = sequences[rows < 0]
            if len(fresh):
                if len(fresh) > 1 and not (fresh[1:] > fresh[:-1]).all():
                    fresh = _different(fresh)
                of_block[fresh] = np.arange(self.count, self.count + len(fresh), dtype=np.int32)
                self.count += len(fresh)
                rows = of_block[sequences]
        return rows.astype(np.int64)

    def lie_in(self, directory: Path) -> None:
        """As ``Grid.lie_in``."""
        self._directory = directory
        for block in self._blocks.values():
            block.lie_in(directory)

    def release(self) -> None:
        """As ``Grid.release``."""
        for block in self._blocks.values():
            block.release()


class HashIndex:
    """Ids of any size -> row numbers, for things that are few (processes, actors, objects on a page)."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self.ids: list[bytes] = []

    @property
    def count(self) -> int:
        return len(self.ids)

    def rows(self, ids: Array, create: bool = True) -> Array:
        if not len(ids):
            return np.empty(0, np.int64)
        size = ids.dtype.itemsize
        data = np.ascontiguousarray(ids).tobytes()
        if create:
            return np.fromiter((self.add(data[i : i + size]) for i in range(0, len(data), size)), np.int64)
        return np.fromiter((self._rows.get(data[i : i + size], -1) for i in range(0, len(data), size)), np.int64)

    def add(self, identifier: bytes) -> int:
        row = self._rows.get(identifier)
        if row is None:
            row = self._rows[identifier] = len(self.ids)
            self.ids.append(identifier)
        return row

    def row(self, identifier: bytes) -> int:
        return self._rows.get(identifier, -1)


def _different(sequences: Array) -> Array:
    """Each number once, in order. Most are close to one another: marking them is much quicker than sorting."""
    low = int(sequences.min())
    span = int(sequences.max()) - low + 1
    if span > 16 * len(sequences):
        return np.unique(sequences)
    seen = np.zeros(span, bool)
    seen[sequences - low] = True
    return np.flatnonzero(seen) + low


def _groups(owners: Array, kinds: Array) -> list[Any]:
    """Slices or index arrays of equal owner and kind."""
    changes = np.flatnonzero((owners[1:] != owners[:-1]) | (kinds[1:] != kinds[:-1])) + 1
    if len(changes) == 0:
        return [slice(0, len(owners))]
    if len(changes) > 32:
        order = np.lexsort((kinds, owners))
        sorted_owners, sorted_kinds = owners[order], kinds[order]
        changes = (
            np.flatnonzero((sorted_owners[1:] != sorted_owners[:-1]) | (sorted_kinds[1:] != sorted_kinds[:-1])) + 1
        )
        # lexsort is stable: within one id the later record stays behind the earlier one.
        return np.split(order, changes)
    edges = [0, *changes.tolist(), len(owners)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


class Grid:
    """Columns of equal length that grow together. ``spec``: name -> (numpy type, value of a new row); ``rows_min``: for
    how many there is room at first."""

    #: Where columns lie that have become long; None if they stay in memory.
    _directory: Path | None = None
    _mapped: MappedColumns | None = None

    def __init__(self, spec: dict[str, tuple[str, Any]], rows_min: int = 1024) -> None:
        self.spec = spec
        self.rows_min = rows_min
        self.count = 0
        self._arrays = {name: np.empty(0, code) for name, (code, _) in spec.items()}

    @property
    def capacity(self) -> int:
        return len(next(iter(self._arrays.values())))

    def grow(self, count: int) -> None:
        """Have at least ``count`` rows."""
        if count <= self.count:
            return
        if count > self.capacity:
            more = ROWS_TAKEN if self._mapped is not None else self.capacity >> 1
            self.reserve(max(count, self.capacity + more, self.rows_min))
        self.count = count

    def expect(self, rows: int) -> None:
        """So many rows will come: columns in memory are made once, not again and again."""
        if self._directory is None:
            self.reserve(rows)

    def reserve(self, capacity: int) -> None:
        """Have room for so many rows. What is empty costs no memory before it is written to."""
        if capacity <= self.capacity:
            return
        if self._directory is not None and capacity > MAPPED_ROWS_MIN and self._reserve_mapped(capacity):
            return
        for name, (code, fill) in self.spec.items():
            grown = np.zeros(capacity, code) if fill == 0 else np.full(capacity, fill, code)
            grown[: self.count] = self._arrays[name][: self.count]
            self._arrays[name] = grown

    def _reserve_mapped(self, capacity: int) -> bool:
        """Whether there is a file, and room in it."""
        assert self._directory is not None
        try:
            mapped = self._mapped or MappedColumns(self._directory, self.spec)
            mapped.reserve(capacity)
        except OSError as error:
            log.warning("%s rows stay in memory: %s", f"{self.count:,}", error)
            self._directory = self._mapped = None
            return False
        if self._mapped is None:
            for name, array in mapped.arrays.items():
                array[: self.count] = self._arrays[name][: self.count]
        self._mapped, self._arrays = mapped, mapped.arrays
        return True

    def lie_in(self, directory: Path) -> None:
        """From so many rows on, columns lie in a file of ``directory`` and are in memory while they are looked at."""
        self._directory = directory
        if self.capacity > MAPPED_ROWS_MIN:
            self._reserve_mapped(self.capacity)

    def release(self) -> None:
        """What lies in a file need not be in memory until somebody looks at it again."""
        if self._mapped is not None:
            self._mapped.release()

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name][: self.count]


# --- questions -------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One column of a question. ``kind``: "number", "text" (codes), "enum" (indices of ``names``), "id" (raw bytes).

    ``absent`` marks rows that have no value: they match no comparison and sort last.
    """

    kind: str
    values: Array
    names: Sequence[str] | None = None
    absent: Array | None = None


def query(
    columns: dict[str, Callable[[], Column]],
    count: int,
    texts: Texts,
    filters: Sequence[Filter],
    sort: str,
    limit: int,
    offset: int,
) -> tuple[Array, int]:
    """Which rows are on the page, in order, and how many match in all. Raises QueryError."""
    mask = matching(columns, texts, filters)
    rows = np.arange(count) if mask is None else np.flatnonzero(mask)
    total = len(rows)
    if sort:
        rows = page(_column(columns, sort.lstrip("-+")), sort.startswith("-"), rows, offset + limit, texts)
    return rows[offset : offset + limit], total


def matching(columns: dict[str, Callable[[], Column]], texts: Texts, filters: Sequence[Filter]) -> Array | None:
    """Which rows fulfil all filters; None if there is no filter. Raises QueryError."""
    mask: Array | None = None
    for name, operator, value in filters:
        matched = match(_column(columns, name), name, operator, value, texts)
        mask = matched if mask is None else mask & matched
    return mask


def _column(columns: dict[str, Callable[[], Column]], name: str) -> Column:
    make = columns.get(name)
    if make is None:
        raise QueryError(f"no column {name!r}; there are {', '.join(sorted(columns))}")
    return make()


def match(column: Column, name: str, operator: str, value: Any, texts: Texts) -> Array:
    """Which rows of a column fulfil one filter. Raises QueryError."""
    if operator == "is not":
        return ~match(column, name, "is", value, texts)
    if operator not in OPERATORS and operator != "is":
        raise QueryError(f"no operator {operator!r}; there are {' '.join(OPERATORS)}")
    if operator == "in":
        values = value.split(",") if isinstance(value, str) else list(value)
        matched = np.zeros(len(column.values), np.bool_)
        for one in values:
            matched |= match(column, name, "=", one, texts)
        return matched
    if column.kind == "number":
        matched = _match_number(column.values, name, operator, value)
    elif column.kind == "id":
        matched = _match_id(column.values, operator, str(value))
    else:
        names = texts.texts if column.names is None else column.names
        wanted = str(value)
        table = np.array([_compare_text(text, operator, wanted) for text in names], np.bool_)
        matched = table[column.values] if len(table) else np.zeros(len(column.values), np.bool_)
    if column.absent is not None:
        matched = matched & ~column.absent
    return matched


def _match_number(values: Array, name: str, operator: str, value: Any) -> Array:
    if operator == "is":
        try:
            number = float(value)
        except (TypeError, ValueError):
            return np.zeros(len(values), np.bool_)
        same: Array = values == number
        return same
    try:
        number = float(value) if not isinstance(value, int) else value
        if isinstance(value, str) and value.lstrip("-").isdigit():
            number = int(value)
    except (TypeError, ValueError):
        raise QueryError(f"{name} is a number, {value!r} is not") from None
    if operator == "contains":
        raise QueryError(f"{name} is a number: use = != < <= > >=")
    found: Array = {
        "=": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    }[operator](values, number)  # fmt: skip
    return found


def _match_id(values: Array, operator: str, text: str) -> Array:
    size = values.dtype.itemsize
    operator = "=" if operator == "is" else operator
    try:
        exact: bytes | None = bytes.fromhex(text)
    except ValueError:
        exact = None
    if operator in ("=", "!="):
        equal = np.zeros(len(values), np.bool_) if exact is None or len(exact) != size else same_id(values, exact)
        return equal if operator == "=" else ~equal
    if operator != "contains":
        raise QueryError("an id can be compared with = != contains in")
    hexes = np.frombuffer(binascii.hexlify(np.ascontiguousarray(values).tobytes()), f"S{2 * size}")
    return np.char.find(hexes, text.lower().encode()) >= 0


def same_id(values: Array, identifier: bytes) -> Array:
    """Which of an array of ids equal ``identifier``."""
    size = values.dtype.itemsize
    wanted = identifier.ljust(size, b"\0")[:size]
    code = "<u8" if size % 8 == 0 else "<u4"
    words = np.ascontiguousarray(values).view(code).reshape(len(values), size // int(code[2]))
    found: Array = (words == np.frombuffer(wanted, code)).all(axis=1)
    return found


def _compare_text(text: str, operator: str, wanted: str) -> bool:
    if operator == "contains":
        return wanted.lower() in text.lower()
    if operator == "is":
        return text.lower() == wanted.lower()
    return {
        "=": text == wanted, "!=": text != wanted, "<": text < wanted, "<=": text <= wanted,
        ">": text > wanted, ">=": text >= wanted,
    }[operator]  # fmt: skip


def page(column: Column, descending: bool, rows: Array, wanted: int, texts: Texts) -> Array:
    """The first ``wanted`` of ``rows`` in the order of a column; equal values keep the order of rows."""
    keys = column.values[rows]
    if column.kind in ("text", "enum"):
        names = texts.texts if column.names is None else column.names
        rank = np.empty(len(names), np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        keys = rank[keys]
    elif column.kind == "id":
        keys = np.frombuffer(binascii.hexlify(np.ascontiguousarray(keys).tobytes()), f"S{2 * keys.dtype.itemsize}")
        order = np.argsort(keys, kind="stable")
        return rows[order[::-1] if descending else order]
    keys = keys.astype(np.float64) if keys.dtype.kind == "f" else keys.astype(np.int64)
    if descending:
        keys = -keys
    if column.absent is not None:
        keys[column.absent[rows]] = np.inf if keys.dtype.kind == "f" else np.iinfo(np.int64).max
    if wanted < len(rows) // 8:
        near = np.argpartition(keys, wanted - 1)[:wanted] if wanted else np.empty(0, np.int64)
        bound = keys[near].max() if len(near) else 0
        candidates = np.flatnonzero(keys <= bound)
        return rows[candidates[np.argsort(keys[candidates], kind="stable")]]
    return rows[np.argsort(keys, kind="stable")]
