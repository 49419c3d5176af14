"""How this process sends values of a class, under the familiar module name."""

from obsray.util.process import deregister_serializer, register_serializer

__all__ = ["deregister_serializer", "register_serializer"]
