"""Faust's table manager and recovery, extended by the state of subscriptions.

Faust restores the changelogs of its own tables. Then the state of subscriptions is restored and
claimed, and only then are records fetched.
"""

from typing import Any, Protocol, cast

import faust.tables
from faust.tables.recovery import Recovery as FaustRecovery

from famulus.runtime.topic_watch import Topics
from famulus.state.manager import PartitionStateManager


class Host(Protocol):
    """Attributes of the app that recovery needs beside Faust's own."""

    has_started: bool  # whether the first assignment is restored
    state_manager: PartitionStateManager
    topics_watched: Topics

    @property
    def state_topics(self) -> set[str]:
        """Return the state changelogs of all subscriptions."""

    async def fail(self, error: Exception) -> None:
        """End the worker."""


class Recovery(FaustRecovery):
    """Faust's recovery, which acquires the state of subscriptions before records flow."""

    @property
    def _host(self) -> Host:
        # The app is both Faust's App and a Host.
        return cast(Any, self.app)  # type: ignore[no-any-return]

    async def _resume_streams(self, generation_id: int = 0) -> None:
        """Finish an assignment for which Faust has nothing to restore."""
        if await self._acquire(generation_id):
            await super()._resume_streams(generation_id)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Finish an assignment for which Faust has restored its own tables."""
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
        except Exception as error:  # Faust's loop would log it and continue without the partitions
            await self._host.fail(error)
            return False
        # Needed here too: without assigned partitions there is no seek, which renews it otherwise.
        app.consumer.renew_session()
        self._host.has_started = True
        return True


class Tables(faust.tables.TableManager):
    """Faust's table manager, which registers tables without its delay of one second."""

    async def on_start(self) -> None:
        """Subscribe to the changelogs of the tables and start recovery."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """Return the service that restores tables after an assignment."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast(Recovery, self._recovery)

    @property
    def changelog_topics(self) -> set[str]:
        """Return the changelogs of Faust's tables and of all subscriptions.

        Faust uses its sticky assignment only where there are changelogs; this makes it do so even
        without a Faust table.
        """
        host: Host = cast(Any, self.app)
        return super().changelog_topics | host.state_topics
