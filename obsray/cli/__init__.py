"""The command line: ``obsray``. It reads recorded telemetry and speaks no protocol, so it also works after the end."""

from obsray.cli.command import main

__all__ = ["main"]
