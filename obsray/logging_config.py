"""How the log records of a program look, in its driver and all its workers: ``obsray.LoggingConfig``."""

from __future__ import annotations

import logging
from typing import Any

ENCODINGS = ("TEXT", "JSON")
#: Attributes every log record has (https://docs.python.org/3/library/logging.html#logrecord-attributes).
STANDARD = frozenset({
    "args", "created", "exc_info", "exc_text", "filename", "funcName", "levelname", "levelno", "lineno", "module",
    "msecs", "msg", "name", "pathname", "process", "processName", "relativeCreated", "stack_info", "taskName",
    "thread", "threadName",
})  # fmt: skip


class LoggingConfig:
    """The root logger of the driver and of every worker of its job: encoding, level, more attributes.

    ``encoding``: "TEXT", or "JSON" for one object a line. ``log_level``: a name as ``logging`` knows it.
    ``additional_log_standard_attrs``: attributes of log records to show besides time, level, message, file and line.
    Every record also has timestamp_ns, job_id, worker_id, node_id and, inside tasks, task_id, task_name,
    task_func_name, actor_id, actor_name and trace_id.
    Raises ValueError for what does not exist, TypeError for a wrong type.
    """

    def __init__(
        self, encoding: str = "TEXT", log_level: str = "INFO", additional_log_standard_attrs: list[str] | None = None
    ) -> None:
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding={encoding!r}: must be one of {', '.join(ENCODINGS)}")
        level_of(log_level)
        more = list(additional_log_standard_attrs or ())
        unknown = sorted(set(more) - STANDARD)
        if unknown:
            raise ValueError(
                f"additional_log_standard_attrs: {unknown[0]!r} is no attribute of log records; "
                f"they are: {', '.join(sorted(STANDARD))}"
            )
        self.encoding = encoding
        self.log_level = log_level
        self.additional_log_standard_attrs = more

    def to_dict(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"LoggingConfig({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoggingConfig) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


def level_of(level: Any) -> int:
    """A level as a number. Raises TypeError or ValueError if there is no such level."""
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    if not isinstance(level, str):
        raise TypeError(f"a log level is a name or a number, got {level!r}")
    found = logging.getLevelName(level.upper())
    if not isinstance(found, int):
        raise ValueError(f"{level!r} is not a log level; they are: DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return found


__all__ = ["LoggingConfig"]
