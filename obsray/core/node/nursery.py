"""Shell: what an autoscaler beside the head's node gets from it: its settings, and a lifeline for nodes it starts.

The write end of the lifeline is here alone, so nodes on this machine live as long as the head's node, however that
ends, and not as long as the autoscaler, which may be started again.
"""

from __future__ import annotations

import json
import os

from obsray.core.node.options import Options
from obsray.core.node.services import Services

#: Under this number the autoscaler has the read end of the lifeline.
LIFELINE_FD = 3
SETTINGS = "autoscaling.json"


class Nursery:
    """Nothing but ``offered`` False where there is no autoscaler."""

    def __init__(self, options: Options, services: Services) -> None:
        self.offered = options.autoscaling is not None
        self._services = services
        self._write_end: int | None = None
        if self.offered:
            path = options.session / SETTINGS
            path.write_text(json.dumps(options.autoscaling))
            read_end, self._write_end = os.pipe()
            services.give("autoscaler", LIFELINE_FD, read_end)

    def close(self, grace_seconds: float) -> None:
        """The cluster ends: so do the nodes that were started here. Returns when they are gone, or time is up."""
        if self._write_end is None:
            return
        os.close(self._write_end)
        self._write_end = None
        self._services.end({"autoscaler"}, grace_seconds)
