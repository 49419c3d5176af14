"""What collective operations speak of: backends, ways to reduce, and arrays whatever library they come from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class ReduceOp(IntEnum):
    """How values of the members become one."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3


class Backend(StrEnum):
    """Names of backends. All of them mean the same ring through host memory."""

    OBSRAY = "obsray"
    GLOO = "gloo"
    NCCL = "nccl"

    @classmethod
    def of(cls, name: Any) -> Backend:
        """The backend of this name, in any case. Raises ValueError for others."""
        try:
            return cls(str(getattr(name, "value", name)).lower())
        except ValueError:
            raise ValueError(
                f"backend={name!r}: there are {', '.join(repr(each.value) for each in cls)}; all of them run obsray's "
                "ring through host memory"
            ) from None


_UFUNCS: dict[ReduceOp, Any] = {
    ReduceOp.SUM: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
}
#: Kinds of numpy types that can be sent, and those that can be reduced.
_SENT, _REDUCED = "biufc", "iufc"


def ufunc_of(op: Any, dtype: np.dtype[Any]) -> Any:
    """The numpy function of a way to reduce. Raises ValueError for other ways, TypeError for types it cannot take."""
    try:
        found = ReduceOp(op)
    except ValueError:
        raise ValueError(
            f"op={op!r}: must be one of {', '.join(f'ReduceOp.{each.name}' for each in ReduceOp)}"
        ) from None
    if dtype.kind not in _REDUCED or (dtype.kind == "c" and found in (ReduceOp.MIN, ReduceOp.MAX)):
        raise TypeError(f"{dtype} cannot be reduced with {found.name}")
    return _UFUNCS[found]


class Tensor:
    """One array of a caller: ``work`` is what is sent and written, contiguous; ``finish`` brings results back."""

    def __init__(self, given: Any, writes: bool) -> None:
        self._back: Callable[[Array], Any] | None = None
        array = self._host(given)
        if array.dtype.kind not in _SENT:
            raise TypeError(f"arrays of numbers can be sent, not of {array.dtype}")
        if writes and not array.flags.writeable:
            raise ValueError(
                "the array is read-only, as everything that comes out of the object store; the operation works in "
                "place: pass a copy (array.copy())"
            )
        self.work: Array = np.ascontiguousarray(array).reshape(array.shape)
        if writes and self._back is None and not np.shares_memory(self.work, array):
            self._back = lambda result: np.copyto(array, result)

    def _host(self, given: Any) -> Array:
        if isinstance(given, np.ndarray):
            return given
        # Whoever has a tensor of torch has imported torch.
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(given, torch.Tensor):
            raise TypeError(f"collective operations take numpy arrays and torch tensors, got {type(given).__name__}")
        tensor = given.detach()
        if tensor.device.type == "cpu":
            found: Array = tensor.numpy()
            return found
        self._back = lambda result: tensor.copy_(torch.from_numpy(result))
        staged: Array = tensor.cpu().numpy()
        return staged

    @property
    def flat(self) -> Array:
        return self.work.reshape(-1)

    def finish(self) -> None:
        """Bring what was written to ``work`` back to where the caller wants it."""
        if self._back is not None:
            self._back(self.work)


__all__ = ["Backend", "ReduceOp", "Tensor", "ufunc_of"]
