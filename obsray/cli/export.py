"""``obsray export``: a session in the formats of other programs."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obsray.cli import sessions
from obsray.dashboard import plain_json, units

#: What is asked for -> how the file is called, and what opens it.
FORMATS = {
    "perfetto": (".perfetto-trace", "open it in https://ui.perfetto.dev"),
    "chrome": (".json", "open it in chrome://tracing or https://ui.perfetto.dev"),
    "speedscope": (".speedscope.json", "open it in https://www.speedscope.app"),
    "otlp": (".otlp.pb", "OTLP TracesData, protobuf"),
    "parquet": ("-parquet", "a directory of Parquet files"),
}
_SPANS_AT_ONCE = 2048


def run(options: argparse.Namespace) -> int:
    """Write a session in another program's format, or send its spans."""
    _check(options)
    directory = sessions.find(options.session)
    view = sessions.views(directory)
    if options.form == "otlp" and options.output is None and (options.endpoint or _endpoint_said()):
        return _send(view, options)
    suffix, told = FORMATS[options.form]
    path = options.output or f"{directory.name}{suffix}"
    try:
        if options.form == "parquet":
            from obsray.export import parquet

            size = sum(parquet.write(view, Path(path)).values())
            said = f"{units.count(size)} rows in {path}"
        else:
            if path == "-":
                sys.stdout.buffer.writelines(_pieces(view, options.form))
                return 0
            with open(path, "wb") as out:
                out.writelines(_pieces(view, options.form))
                size = out.tell()
            said = f"{units.size(size)} in {path}; {told}"
    except OSError as error:
        raise sessions.Problem(f"cannot write {path}: {error.strerror or error}", "Give another --output.") from None
    print(plain_json.dumps({"file": path, "format": options.form, "size": size}) if options.json else said)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Nothing is asked for that would be passed over."""
    if options.form != "otlp" and (options.endpoint or options.all):
        name = "--endpoint" if options.endpoint else "--all"
        raise sessions.Problem(
            f"{name} goes with --otlp, not with --{options.form}", "Only spans are sent; the others are files."
        )
    if options.output is not None and (options.endpoint or options.all):
        raise sessions.Problem(
            "spans are either sent or written to a file", "Give --endpoint (or OTEL_* variables), or --output."
        )
    if options.form == "parquet" and options.output == "-":
        raise sessions.Problem("Parquet files do not fit into one stream", "Give a directory with --output.")


def _pieces(view: Any, form: str) -> Iterator[bytes]:
    if form == "perfetto":
        from obsray.export import perfetto

        return perfetto.write(view)
    if form == "speedscope":
        from obsray.export import speedscope

        return speedscope.write(view)
    if form == "otlp":
        return _otlp(view)
    from obsray.telemetry import timeline

    return timeline.write(view, refresh=False)


def _otlp(view: Any) -> Iterator[bytes]:
    """Requests one behind the other are one ``TracesData``."""
    from obsray.export import gpu_spans, otlp

    resource, found = otlp.resources(view), gpu_spans.whole(view)
    while some := list(itertools.islice(found, _SPANS_AT_ONCE)):
        yield otlp.request(some, resource)


def _endpoint_said() -> bool:
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name) for name in names)


def _send(view: Any, options: argparse.Namespace) -> int:
    import time

    from obsray.export.receivers import SettingError, Settings, receiver
    from obsray.export.sending import GivenUp, Sender

    environment = dict(os.environ)
    if options.endpoint:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = options.endpoint
        environment.pop("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None)
    try:
        settings = Settings.read(environment)
        sender = Sender(view, receiver(settings), settings.ratio, settings.batch_spans, resume=not options.all)
    except SettingError as error:
        raise sessions.Problem(str(error), "See docs/tracing.md.") from None
    before = sender.sent
    try:
        sender.finish(time.monotonic() + options.timeout)
    except GivenUp as error:
        raise sessions.Problem(
            f"{units.count(sender.sent - before)} spans sent, then: {error}", "The same command goes on from there."
        ) from None
    finally:
        sender.receiver.close()
    if sender.refused:
        raise sessions.Problem(f"{units.count(sender.refused)} spans were refused: {sender.error}")
    print(f"{units.count(sender.sent - before)} spans sent to {sender.receiver.name}{_metrics_sent(view, environment)}")
    return 0


def _metrics_sent(view: Any, environment: dict[str, str]) -> str:
    """Send the last metrics that their receiver was away for; what is said of it."""
    from obsray.export import unsent
    from obsray.export.receivers import SettingError, Settings, Unavailable, receiver

    directory = view.store.session_dir
    try:
        settings = Settings.read(environment, "metrics")
        if not unsent.kept(directory) or not settings.endpoint:
            return ""
        target = receiver(settings)
    except SettingError as error:
        raise sessions.Problem(str(error), "See docs/monitoring.md.") from None
    try:
        return ", and the last metrics" if unsent.send(directory, target) else ""
    except Unavailable as error:
        raise sessions.Problem(f"the last metrics wait: {error}", "The same command sends them.") from None
    finally:
        target.close()
