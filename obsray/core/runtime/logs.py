"""Log records of a program: the ids of what runs on every record, and the form ``LoggingConfig`` asks for."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.logging_config import LoggingConfig, level_of
from obsray.telemetry import span_ids

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

#: The package's own logger.
OURS = "obsray"
_SHOWN = ("asctime", "levelname", "message", "filename", "lineno")
_IDS = ("job_id", "worker_id", "node_id", "task_id", "actor_id", "trace_id", "span_id")
_NAMES = ("task_name", "task_func_name", "actor_name")
_TEXT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"

_plain_factory: Callable[..., logging.LogRecord] | None = None
_handlers: list[tuple[logging.Logger, logging.Handler, int]] = []


def set_up_logging(session: Session) -> None:
    """Ids on every record of this process, and its loggers as the job's driver has asked."""
    global _plain_factory
    if _plain_factory is None:
        _plain_factory = logging.getLogRecordFactory()
    plain = _plain_factory
    ids_of = _ids(session)

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.__dict__.update(ids_of())
        return record

    logging.setLogRecordFactory(make)
    description = session.description
    level, form = description.get("level"), description.get("format")
    if level is not None or form is not None:
        _install(logging.getLogger(OURS), logging.Formatter(form or _TEXT), logging.INFO if level is None else level)
        logging.getLogger(OURS).propagate = False
    if description.get("logging"):
        config = LoggingConfig(**description["logging"])
        more = config.additional_log_standard_attrs
        formatter = JsonFormatter(more) if config.encoding == "JSON" else TextFormatter(more)
        _install(logging.getLogger(), formatter, level_of(config.log_level))


def tear_down_logging() -> None:
    """A driver has left its runtime: loggers are as they were."""
    global _plain_factory
    while _handlers:
        logger, handler, level = _handlers.pop()
        logger.removeHandler(handler)
        logger.setLevel(level)
    logging.getLogger(OURS).propagate = True
    if _plain_factory is not None:
        logging.setLogRecordFactory(_plain_factory)
        _plain_factory = None


def _install(logger: logging.Logger, formatter: logging.Formatter, level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    _handlers.append((logger, handler, logger.level))
    logger.addHandler(handler)
    logger.setLevel(level)


def _ids(session: Session) -> Callable[[], dict[str, str]]:
    worker, node = session.worker.hex(), session.node_id.hex()

    def ids() -> dict[str, str]:
        found = {"job_id": session.job.to_bytes(4, "big").hex(), "worker_id": worker, "node_id": node}
        running = session.local.running
        if running is None:
            found.update(
                task_id="", actor_id="", trace_id="", span_id="", task_name="", task_func_name="", actor_name=""
            )
            return found
        executor = session.executor
        actor = executor.actor if executor is not None else None
        function = running.loaded.name if running.loaded is not None else ""
        found.update(
            task_id=running.task.hex(), actor_id="" if actor is None else actor.id.hex(),
            trace_id=running.trace.hex(), span_id=f"{span_ids.of_task(running.task, running.attempt):016x}",
            task_name=str((running.options or {}).get("name") or function),
            task_func_name=function, actor_name="" if actor is None else str(actor.spec.get("name") or ""),
        )  # fmt: skip
        return found

    return ids


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the program itself has put on a record (``extra=``)."""
    known = _STANDARD | set(_IDS)
    return {name: value for name, value in record.__dict__.items() if name not in known}


_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", *_NAMES}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, more: list[str]) -> None:
        super().__init__()
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        names = [*_SHOWN, *(name for name in self._more if name not in _SHOWN)]
        shown = {name: getattr(record, name, None) for name in names}
        shown |= {name: value for name in (*_IDS, *_NAMES) if (value := getattr(record, name, ""))}
        shown |= _extra(record)
        if record.exc_info:
            shown["exc_text"] = self.formatException(record.exc_info)
        shown["logger"] = record.name
        shown["timestamp_ns"] = int(record.created * 1e9)
        return json.dumps(shown, default=str)


class TextFormatter(logging.Formatter):
    """A line for people, with the ids behind the message."""

    def __init__(self, more: list[str]) -> None:
        super().__init__(_TEXT)
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        names = [*(name for name in self._more if name not in _SHOWN), *_IDS, *_NAMES]
        pairs = {name: value for name in names if (value := getattr(record, name, ""))} | _extra(record)
        pairs["timestamp_ns"] = int(record.created * 1e9)
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = " ".join([self.formatMessage(record), *(f"{name}={value}" for name, value in pairs.items())])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
