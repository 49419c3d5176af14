"""References under their familiar module name, for annotations: ``ObjectRef[int]``."""

from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.streams import ObjectRefGenerator

__all__ = ["ObjectRef", "ObjectRefGenerator"]
