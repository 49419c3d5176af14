"""Placement groups: resources that are reserved together, for tasks and actors that belong together.

    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK")
    group.wait(30)
    f.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()

The module may be called like the function of the same name, because ``obsray.util.placement_group`` is both.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from obsray.core.protocol.messages import GROUP_STRATEGIES

if TYPE_CHECKING:
    from obsray.core.groups import (
        PlacementGroup,
        get_current_placement_group,
        get_placement_group,
        placement_group,
        placement_group_table,
        remove_placement_group,
    )
    from obsray.typed_ids import PlacementGroupID

#: What ``strategy`` may be.
VALID_PLACEMENT_GROUP_STRATEGIES = frozenset(GROUP_STRATEGIES)

__all__ = [
    "VALID_PLACEMENT_GROUP_STRATEGIES",
    "PlacementGroup",
    "PlacementGroupID",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'obsray.util.placement_group' has no attribute {name!r}")
    from obsray.core import groups

    value = globals()[name] = getattr(groups, name)
    return value


class _Callable(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        from obsray.core.groups import placement_group as make

        return make(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


# Importing this module makes it an attribute of the package, in place of the function.
sys.modules[__name__].__class__ = _Callable
