"""What a driver says about its job, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PATHS_MAX = 1000
TEXT_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class JobDescription:
    """``told`` is what workers of the job get to know; ``runtime`` what its tasks run in, made now if ``eager``."""

    entrypoint: str
    namespace: str
    metadata: str
    runtime: dict[str, Any] | None
    eager: bool
    told: dict[str, Any]

    @classmethod
    def read(cls, description: dict[str, Any]) -> JobDescription:
        """What ``DescribeJob`` carries. Raises TypeError or ValueError for what cannot be."""
        path = description.get("sys_path") or ()
        if not isinstance(path, list | tuple) or not all(isinstance(entry, str) for entry in path):
            raise TypeError("sys_path is not a list of text")
        if len(path) > PATHS_MAX:
            raise ValueError(f"sys_path has more than {PATHS_MAX} entries")
        metadata, runtime = description.get("metadata") or {}, description.get("runtime")
        if not isinstance(metadata, dict) or not isinstance(runtime, dict | None):
            raise TypeError("metadata or runtime is not a dict")
        shown = json.dumps({str(name): str(value) for name, value in metadata.items()}, sort_keys=True)
        return cls(
            entrypoint=str(description.get("entrypoint", ""))[:TEXT_CHARACTERS_MAX],
            namespace=str(description.get("namespace", ""))[:TEXT_CHARACTERS_MAX],
            metadata=shown[:TEXT_CHARACTERS_MAX] if metadata else "",
            runtime=runtime,
            eager=description.get("eager") is not False,
            told=dict(description),
        )
