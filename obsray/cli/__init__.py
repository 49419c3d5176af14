"""The command line: ``obsray``. Questions are answered out of recorded telemetry, so they also work after the end."""

from obsray.cli.command import main

__all__ = ["main"]
