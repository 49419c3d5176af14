"""Views that are analyses: why, where the time went, what would help. Each is a module of ``answers/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from obsray.telemetry.process_views import ProcessViews
from obsray.telemetry.table import Filter
from obsray.telemetry.tables import Row

if TYPE_CHECKING:
    from obsray.telemetry.answers.replay import Change
    from obsray.telemetry.views import Views


class AnswerViews(ProcessViews):
    """What can be asked that is more than a look at a table. ``job`` is a job's number; None: the whole session."""

    #: The newest job that was replayed (``answers/whatif.py``).
    replayed: Any = None

    @property
    def _views(self) -> Views:
        return cast("Any", self)  # type: ignore[no-any-return]

    def why(self, id_hex: str, refresh: bool = True) -> Row:
        """Why a task, actor, placement group or object is as it is. Raises LookupError, ValueError."""
        from obsray.telemetry.answers import why

        return why.why(self._views, id_hex, refresh)

    def books(self, job: int | None = None, refresh: bool = True) -> Row:
        """Where every second of every worker slot went. Raises LookupError for an unknown job."""
        from obsray.telemetry.answers import books

        return books.books(self._views, job, refresh)

    def slots_over_time(self, job: int | None = None, refresh: bool = True) -> Row:
        """The books of each worker over time. Raises LookupError for an unknown job."""
        from obsray.telemetry.answers import slots_over_time

        return slots_over_time.slots_over_time(self._views, job, refresh)

    def gpus(self, refresh: bool = True) -> list[Row]:
        """Every GPU: who has it, how busy it is, and why it idles."""
        from obsray.telemetry.answers import gpus

        if refresh:
            self._views.refresh()
        return gpus.gpus(self._views)

    def gpu_shares(self, refresh: bool = True) -> list[tuple[str, int, str, float]]:
        """Node, GPU, activity, and which share of the last minute that was."""
        from obsray.telemetry.answers import gpus

        if refresh:
            self._views.refresh()
        return gpus.recent_shares(self._views)

    def critical_path(self, job: int | None = None, refresh: bool = True) -> Row:
        """What the duration of a job consists of, and which tasks have slack. Raises LookupError."""
        from obsray.telemetry.answers import critical

        return critical.critical_path(self._views, job, refresh)

    def what_if(
        self, job: int | None = None, changes: list[Change] | None = None, refresh: bool = True, rough: bool = False
    ) -> Row:
        """How long a job would have taken with changes, the usual ones if None. Raises LookupError, ValueError."""
        from obsray.telemetry.answers import whatif

        return whatif.what_if(self._views, job, changes, refresh, rough)

    def stragglers(self, job: int | None = None, refresh: bool = True) -> Row:
        """Tasks that took much longer than others of their function, with the likely cause."""
        from obsray.telemetry.answers import stragglers

        return stragglers.stragglers(self._views, job, refresh)

    def different(self, chosen: Sequence[Filter], among: Sequence[Filter] = (), refresh: bool = True) -> Row:
        """What is different about the chosen tasks. Raises QueryError (a ValueError), LookupError."""
        from obsray.telemetry.answers import differences

        return differences.different(self._views, chosen, among, refresh)

    def memory(self, refresh: bool = True) -> Row:
        """What fills the object store, and what looks leaked."""
        from obsray.telemetry.answers import memory

        return memory.memory(self._views, refresh)

    def profile(self, function: str = "", thing: str = "", slow_vs_fast: bool = False, refresh: bool = True) -> Row:
        """Where the code of a function, task, actor or process spent its time. Raises LookupError, ValueError."""
        from obsray.telemetry.answers import profile

        return profile.profile(self._views, function, thing, slow_vs_fast, refresh)

    def hangs(self, refresh: bool = True) -> Row:
        """What waits for itself or for something that makes no progress."""
        from obsray.telemetry.answers import hangs

        return hangs.hangs(self._views, refresh)

    def post_mortem(self, id_hex: str, refresh: bool = True) -> Row:
        """Why the process of a worker, actor or task ended, what it did last, what it had. Raises LookupError."""
        from obsray.telemetry.answers import post_mortem

        return post_mortem.post_mortem(self._views, id_hex, refresh)
