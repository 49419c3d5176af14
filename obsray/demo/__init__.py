"""``obsray demo``: real work on real input, checked against a single-process run, and what was recorded of it."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo with these command-line arguments; the exit code."""
    from obsray.demo.command import main as run

    return run(argv)
