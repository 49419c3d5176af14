"""What a program may say about the size of its cluster."""

from obsray.autoscaler import sdk

__all__ = ["sdk"]
