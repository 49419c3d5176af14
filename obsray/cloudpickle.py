"""The package of that name, which pickles functions and classes by value: ``import obsray.cloudpickle as pickle``."""

from pickle import load, loads

from cloudpickle import CloudPickler, dump, dumps, register_pickle_by_value, unregister_pickle_by_value

__all__ = [
    "CloudPickler",
    "dump",
    "dumps",
    "load",
    "loads",
    "register_pickle_by_value",
    "unregister_pickle_by_value",
]
