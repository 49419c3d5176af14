"""SQL over a session: DuckDB on the Arrow columns that the telemetry consists of.

``prepare`` looks at which tables a query can mean, makes those, and gives a ``Statement`` that needs the session no
more: it may run on another thread while the session is read on. Queries only read. They see no file, no network and no
variable of this process unless files are asked for, and they end when their time is over.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from obsray.telemetry.columns import SCHEMAS
from obsray.telemetry.database.relations import BY_NAME, RELATIONS, SQL_TYPES, Relation
from obsray.telemetry.database.rows import tables
from obsray.telemetry.events import BY_NAME as EVENTS
from obsray.telemetry.events import Event
from obsray.telemetry.store import Store
from obsray.telemetry.table import QueryError
from obsray.telemetry.views import Views

INSTALL = "pip install 'obsray[sql]'"
#: Share of the machine that a query may take.
MEMORY = "60%"
QUERY_CHARACTERS_MAX = 1 << 20

_WORD = re.compile(r"[A-Za-z_]\w*")
#: Words of queries about the tables themselves: then all of them are shown, those not named without rows.
_ABOUT_TABLES = frozenset({"show", "information_schema", "duckdb_tables", "duckdb_views", "duckdb_columns", "tables"})
_IDS = {"task": "task_id", "first_task": "task_id", "object": "object_id", "actor": "actor_id", "worker": "worker_id"}


class MissingLibrary(QueryError):
    """DuckDB is not installed; the text says what installs it."""


class Statement:
    """One query with the tables it reads. ``run`` may be called once, on any thread."""

    def __init__(self, connection: Any, query: str, parameters: Sequence[Any] | dict[str, Any] | None) -> None:
        self._connection = connection
        self._query = query
        self._parameters = parameters

    def run(self, seconds_max: float | None = None) -> pa.Table:
        """The answer. Raises QueryError with what DuckDB says of the query, or that it took too long."""
        import duckdb

        timer = None
        over = threading.Event()

        def stop() -> None:
            over.set()
            self._connection.interrupt()

        if seconds_max is not None:
            timer = threading.Timer(seconds_max, stop)
            timer.daemon = True
            timer.start()
        try:
            found = self._connection.sql(self._query, params=self._parameters)
            answer: pa.Table = pa.table({}) if found is None else found.to_arrow_table()
            return answer
        except duckdb.Error as error:
            if over.is_set():
                raise QueryError(f"the query took longer than {seconds_max:g} s and was stopped") from None
            raise QueryError(_said(error)) from None
        finally:
            if timer is not None:
                timer.cancel()
            self._connection.close()


def prepare(
    views: Views,
    query: str,
    parameters: Sequence[Any] | dict[str, Any] | None = None,
    allow_files: bool = False,
    threads: int | None = None,
) -> Statement:
    """A query over a session as it is now (``views`` are refreshed by whoever calls).

    ``parameters`` stand for ``?`` or ``$name`` in it. Raises QueryError for what is no single query that reads.
    """
    if not isinstance(query, str) or not query.strip():
        raise QueryError("a query is text such as: SELECT name, count(*) FROM tasks GROUP BY name")
    if len(query) > QUERY_CHARACTERS_MAX:
        raise QueryError(f"a query may have {QUERY_CHARACTERS_MAX:,} characters, this one has {len(query):,}")
    connection = _connection(threads)
    try:
        _check(connection, query, allow_files)
        words = {word.lower() for word in _WORD.findall(query)}
        _define(connection, views, words)
        if not allow_files:
            connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return Statement(connection, query, parameters)


def _connection(threads: int | None) -> Any:
    try:
        import duckdb
    except ImportError:
        raise MissingLibrary(f"SQL over telemetry needs DuckDB, which is not installed: {INSTALL}") from None
    settings: dict[str, Any] = {
        "python_enable_replacements": "false", "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false", "memory_limit": MEMORY, "temp_directory": "",
    }  # fmt: skip
    if threads is not None:
        settings["threads"] = threads
    return duckdb.connect(":memory:", config=settings)


def _check(connection: Any, query: str, allow_files: bool) -> None:
    """One statement that reads (with files allowed: or copies what it reads to a file)."""
    import duckdb

    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(_said(error)) from None
    if len(statements) != 1:
        raise QueryError(f"one query at a time, these are {len(statements)}")
    kind = statements[0].type.name
    allowed = {"SELECT", "EXPLAIN"} | ({"COPY"} if allow_files else set())
    if kind not in allowed:
        more = "" if kind != "COPY" else " (COPY works where files are allowed: --allow-files, allow_files=True)"
        raise QueryError(f"queries only read, this is {kind}{more}; begin with SELECT, WITH, FROM, SHOW or DESCRIBE")


def _said(error: Exception) -> str:
    return str(error).strip()


# --- tables --------------------------------------------------------------------------------------------------


def _define(connection: Any, views: Views, words: set[str]) -> None:
    """Every relation and every kind of event that the words of a query can mean, and the names of the others."""
    makers = tables(views)
    wanted = _wanted(words)
    everything = bool(words & _ABOUT_TABLES)
    kinds = _kinds_of(wanted, words)
    connection.execute("CREATE SCHEMA raw; CREATE SCHEMA event")
    if "events" in wanted:
        kinds |= EVENTS.keys()
    records = stored_events(views.store, kinds)
    for name in sorted(kinds | (EVENTS.keys() if everything else set())):
        _define_kind(connection, EVENTS[name], records.get(name) or SCHEMAS[name].empty_table())
    for relation in RELATIONS:
        if relation.name not in wanted and not everything:
            continue
        if relation.name == "events":
            _define_events(connection, [EVENTS[name] for name in records] or [EVENTS["node_started"]])
        elif relation.select is not None:
            if relation.name in wanted or everything:
                _define_missing_kinds(connection, relation, kinds, everything)
                connection.execute(f"CREATE VIEW {relation.name} AS {relation.select}")
        else:
            table = makers[relation.name]() if relation.name in wanted else _empty(relation)
            _define_table(connection, relation, table)


def _wanted(words: set[str]) -> set[str]:
    """The relations that words name, and those these are made of."""
    wanted = {relation.name for relation in RELATIONS if relation.name in words}
    for name in list(wanted):
        select = BY_NAME[name].select
        if select is not None:
            wanted |= {each for each in _WORD.findall(select) if each in BY_NAME and f"FROM {each}" in select}
    return wanted


def _kinds_of(wanted: set[str], words: set[str]) -> set[str]:
    """The kinds of events that are named, or that relations are made of."""
    found = words & EVENTS.keys()
    for name in wanted:
        select = BY_NAME[name].select
        found |= set(re.findall(r"\bevent\.(\w+)", select)) if select is not None else set()
    return found


def _define_missing_kinds(connection: Any, relation: Relation, kinds: set[str], everything: bool) -> None:
    if everything or relation.select is None:
        return
    for name in set(re.findall(r"\bevent\.(\w+)", relation.select)) - kinds:
        _define_kind(connection, EVENTS[name], SCHEMAS[name].empty_table())


def _empty(relation: Relation) -> pa.Table:
    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "time": pa.int64()}
    return pa.schema([(column.name, types.get(column.kind, pa.string())) for column in relation.columns]).empty_table()


def _define_table(connection: Any, relation: Relation, table: pa.Table) -> None:
    shown = []
    for column in relation.columns:
        kind = table.schema.field(column.name).type
        value = f'"{column.name}"'
        if pa.types.is_fixed_size_binary(kind):
            value = _hex(value, kind.byte_width)
        elif column.kind == "time":
            value = f"make_timestamp(nullif({value}, 0)::BIGINT // 1000)"
        else:
            value = f"{value}::{SQL_TYPES[column.kind].replace('JSON', 'VARCHAR')}"
        shown.append(f'{value} AS "{column.name}"')
    connection.register(f"raw_{relation.name}", table)
    connection.execute(f"CREATE VIEW {relation.name} AS SELECT {', '.join(shown)} FROM raw_{relation.name}")


def _define_kind(connection: Any, event: Event, table: pa.Table) -> None:
    shown = [
        "make_timestamp(time_ns::BIGINT // 1000) AS time", "time_ns::BIGINT AS time_ns",
        f"{_hex('process', 8)} AS process", "sequence::BIGINT AS sequence",
    ]  # fmt: skip
    for field in event.fields:
        value = f'"{field.name}"'
        kind = table.schema.field(field.name).type
        if pa.types.is_fixed_size_binary(kind):
            value = _hex(value, kind.byte_width)
        elif field.labels is not None:
            names = ", ".join(f"'{label.name.lower()}'" for label in field.labels)
            numbers = ", ".join(str(label.value) for label in field.labels)
            value = f"list_extract([{names}], list_position([{numbers}], {value}::INTEGER))"
        elif field.code == "str":
            value = f"{value}::VARCHAR"
        shown.append(f'{value} AS "{field.name}"')
    connection.register(f"raw_{event.name}_records", table)
    connection.execute(f"CREATE VIEW event.{event.name} AS SELECT {', '.join(shown)} FROM raw_{event.name}_records")


def _define_events(connection: Any, events: list[Event]) -> None:
    parts = []
    for event in events:
        names = [field.name for field in event.fields]
        known = {_IDS[name]: f'"{name}"' for name in reversed(names) if name in _IDS}
        fields = ", ".join(f"""'{name}': "{name}" """ for name in names)
        ids = ", ".join(f"{known.get(each, 'NULL::VARCHAR')} AS {each}" for each in dict.fromkeys(_IDS.values()))
        parts.append(
            f"SELECT time, '{event.name}' AS event, '{event.severity.name.lower()}' AS severity, "
            f"process AS process_id, sequence, {ids}, to_json({{{fields}}}) AS fields FROM event.{event.name}"
        )
    order = ", ".join(column.name for column in BY_NAME["events"].columns)
    connection.execute(f"CREATE VIEW events AS SELECT {order} FROM ({' UNION ALL '.join(parts)})")


def _hex(value: str, size: int) -> str:
    return f"nullif(lower(hex({value})), '{'00' * size}')"


# --- records -------------------------------------------------------------------------------------------------


def stored_events(store: Store, kinds: set[str]) -> dict[str, pa.Table]:
    """All records of some kinds, those that only stand in rings too; kinds without any are left out."""
    found: dict[str, list[pa.RecordBatch]] = {}
    if not kinds:
        return {}
    for name, columns in store.records(kinds):
        found.setdefault(name, []).append(columns)
    return {name: pa.Table.from_batches(batches, SCHEMAS[name]) for name, batches in found.items()}


__all__ = ["INSTALL", "MissingLibrary", "QueryError", "Statement", "prepare"]
