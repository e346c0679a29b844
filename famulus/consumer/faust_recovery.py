"""Faust's table manager and its recovery, with the state of subscriptions beside the tables of plain Faust.

Faust restores the changelogs of its own tables; then ours are restored and claimed; only then
records are fetched.
"""

from typing import Any, Protocol, cast

import faust.tables
from faust.tables.recovery import Recovery as FaustRecovery

from famulus.runtime.topic_watch import Topics
from famulus.state.manager import PartitionStateManager


class Host(Protocol):
    """What recovery needs of our app beside Faust's own."""

    has_started: bool  # whether the first assignment is restored
    state_manager: PartitionStateManager
    topics_watched: Topics

    @property
    def state_topics(self) -> set[str]:
        """The state changelogs of all subscriptions."""

    async def fail(self, error: Exception) -> None:
        """End the worker."""


class Recovery(FaustRecovery):
    """Faust's recovery, which makes the state of subscriptions ours before it lets records flow."""

    @property
    def _host(self) -> Host:
        # Our app is both Faust's App and a Host.
        return cast(Any, self.app)  # type: ignore[no-any-return]

    async def _resume_streams(self, generation_id: int = 0) -> None:
        """How an assignment ends when Faust has nothing to restore."""
        if await self._acquire(generation_id):
            await super()._resume_streams(generation_id)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """How it ends when Faust has restored tables of its own."""
        if await self._acquire(generation_id):
            await super().on_recovery_completed(generation_id)

    async def _acquire(self, generation_id: int) -> bool:
        app: Any = self.app

        def is_wanted() -> bool:
            is_current = (
                app.consumer_generation_id == generation_id
                and not self.signal_recovery_start.is_set()
            )
            return bool(is_current and not (self.should_stop or app.should_stop))

        try:
            assigned, standbys = app.consumer.assignment(), app.assignor.assigned_standbys()
            await self._host.topics_watched.fit(assigned)
            if not await self._host.state_manager.acquire(assigned, standbys, is_wanted):
                return False
        except Exception as error:  # Faust's own loop would log it and go on without the partitions
            await self._host.fail(error)
            return False
        # Also where there is nothing to seek, because others have all partitions.
        app.consumer.renew_session()
        self._host.has_started = True
        return True


class Tables(faust.tables.TableManager):
    """Registers the tables at once.

    Faust's own sleeps for a second first, whatever there is to wait for.
    """

    async def on_start(self) -> None:
        """Let the tables' changelogs be subscribed to, and the recovery begin."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """What restores tables after an assignment."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast(Recovery, self._recovery)

    @property
    def changelog_topics(self) -> set[str]:
        """Those of Faust's tables and ours, so that Faust's own sticky assignment is used, also without a table."""
        host: Host = cast(Any, self.app)
        return super().changelog_topics | host.state_topics
