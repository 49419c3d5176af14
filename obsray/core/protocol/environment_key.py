"""What makes two descriptions of an environment the same, for those who ask and for the node that makes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

#: How many threads OpenMP may use; in workers as many as ``num_cpus`` says, if the other variable tells that nobody
#: else has set it.
THREADS_OF_A_TASK = "OMP_NUM_THREADS"
FOLLOWS_CPUS = "_OBSRAY_THREADS_FOLLOW_CPUS"
#: Fields that do not change what a process is.
ASIDE = frozenset({"fresh", "shown", "seconds_max"})


def environment_key(description: Mapping[str, Any] | None) -> str:
    """Equal keys mean interchangeable processes; "" for nothing special."""
    made = {str(name): value for name, value in (description or {}).items() if name not in ASIDE and value}
    return json.dumps(made, sort_keys=True, default=repr) if made else ""


def environment_id(key: str) -> bytes:
    """The 8 bytes by which events name the environment of a key."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
