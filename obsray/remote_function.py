"""What ``@remote`` makes of a function, under its familiar module name."""

from obsray.core.functions import RemoteFunction

__all__ = ["RemoteFunction"]
