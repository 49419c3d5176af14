"""Which part of a value cannot travel, under the familiar module name."""

from obsray.util.inspection import inspect_serializability

__all__ = ["inspect_serializability"]
