"""What is said only once, under the familiar module name."""

from obsray.util.process import log_once

__all__ = ["log_once"]
