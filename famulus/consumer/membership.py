"""Membership in the consumer group, kept for as long as the event loop runs.

aiokafka takes a consumer that has not fetched for `max.poll.interval.ms` for stuck: the consumer
leaves the group and joins again only at the next fetch. A worker without partitions, or whose
partitions are all busy, paused or being restored, fetches nothing and would never return. A timer
of the event loop therefore resets that clock. An event loop that hangs does not reset it, and the
worker loses its partitions as it should.

aiokafka keeps an error of the group until a caller asks for it, and does nothing meanwhile. This
module's timer asks for it and has aiokafka try again. The worker ends with an explanation when the
group keeps refusing it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from famulus.config import KafkaConfig
from famulus.consumer.session import GroupSession
from famulus.errors import InvariantError, OperatingError, UnavailableError
from famulus.kafka.group_members import members_of
from famulus.kafka.group_refusal import why_refused
from famulus.runtime.periodic import Beat

log = structlog.get_logger()
BEAT_S = 1.0  # between two checks; `MaxPollIntervalMs` is 10 s at least
ASK_S = 10.0  # time limit for asking why the group refuses, or whether the brokers answer


class Client(Protocol):
    """Client of the group coordinator."""

    group_session: GroupSession

    @property
    def coordinator(self) -> Any:  # Any: aiokafka is untyped
        """Return aiokafka's group coordinator, None before there is one."""

    def join_again(self) -> None:
        """Clear the error that the coordinator keeps, so that it continues."""


class Membership:
    """Keeps the group membership of *client*, which returns None before there is one.

    *on_fault* ends the worker. This happens when the group has refused the worker for *patience_s*
    seconds. The worker also ends when the group gave no sign for *ends_s* seconds although the
    brokers answer. During a rebalance it may be silent *rebalance_s* and a session timeout longer.
    """

    def __init__(
        self,
        settings: KafkaConfig,
        client: Callable[[], Client | None],
        is_stopping: Callable[[], bool],
        *,
        on_fault: Callable[[Exception], Awaitable[Any]],
        patience_s: float,
        ends_s: float,
        rebalance_s: float,
    ) -> None:
        self._settings = settings
        self._client, self._is_stopping, self._on_fault = client, is_stopping, on_fault
        session_s = settings.consumer_config.session_timeout_ms / 1000
        self._patience_s, self._ends_s = patience_s, max(ends_s, session_s)
        self._rebalance_s = rebalance_s + session_s
        self._beat = Beat(BEAT_S, self._look)
        self._asking: asyncio.Task[None] | None = None
        self._error: str | None = None  # `repr` of the error with which the group refuses us
        self._refusal: OperatingError | None = None  # its explanation
        self._refused_s = 0.0
        self._signs: tuple[int, float] | None = None  # generation, time of the last heartbeat
        self._silent_s = 0.0

    @property
    def refused(self) -> str:
        """Return why the group refuses this worker, empty while it does not."""
        if self._error is None:
            return ""
        why = str(self._refusal) if self._refusal is not None else self._error
        return f"the group does not take this worker: {why}"

    def start(self) -> None:
        """Check the membership every BEAT_S seconds from now on."""
        self._beat.start()

    def stop(self) -> None:
        """Stop checking."""
        self._beat.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _look(self, passed_s: float) -> None:
        client = self._client()
        if client is not None and client.coordinator is not None:
            self._look_at(client, passed_s)

    def _look_at(self, client: Client, passed_s: float) -> None:
        coordinator = client.coordinator
        coordinator._subscription._last_fetch_ended = time.monotonic()
        client.group_session.watch(coordinator)
        if self._is_stopping():
            return
        if coordinator._coordination_task.done():
            self._begin(
                self._end(
                    InvariantError(
                        "the task that speaks with the consumer group has ended; see the log "
                        "above for why"
                    )
                )
            )
            return
        error: Exception | None = coordinator._pending_exception
        if error is not None:
            self._refuse(error, passed_s)
            client.join_again()
        elif coordinator.generation > 0:
            self._error, self._refusal, self._refused_s = None, None, 0.0
        self._listen(coordinator, client.group_session, passed_s)

    def _refuse(self, error: Exception, passed_s: float) -> None:
        """Note that the group refused this worker; end the worker after *patience_s*."""
        self._refused_s += passed_s
        if self._error != repr(error):
            self._error, self._refusal = repr(error), None
            self._begin(self._explain(error))
        elif self._refusal is not None and self._refused_s >= self._patience_s:
            self._begin(self._end(self._refusal))

    async def _explain(self, error: Exception) -> None:
        refusal = await why_refused(self._settings, error, ASK_S)
        if self._error == repr(error):
            self._refusal = refusal
            log.warning(self.refused, tries_again_for_s=self._patience_s)

    def _listen(self, coordinator: Any, group_session: GroupSession, passed_s: float) -> None:
        """End the worker when the group is silent for too long although the brokers answer."""
        signs = coordinator.generation, group_session.answered_at
        self._silent_s = self._silent_s + passed_s if signs == self._signs else 0.0
        self._signs = signs
        rebalance_s = self._rebalance_s if coordinator._performed_join_prepare else 0.0
        if self._silent_s >= self._ends_s + rebalance_s:
            self._begin(self._ask(self._silent_s))

    async def _ask(self, silent_s: float) -> None:
        try:
            await members_of(self._settings, ASK_S)
        except UnavailableError:  # reported elsewhere; counting restarts when the brokers answer
            self._silent_s = 0.0
            return
        except OperatingError:  # a refusal is an answer, too
            pass
        if self._silent_s >= silent_s:
            await self._end(
                InvariantError(
                    f"this worker has had no place in its consumer group for {silent_s:.0f} s "
                    "although the brokers answer"
                )
            )

    async def _end(self, error: Exception) -> None:
        await self._on_fault(error)

    def _begin(self, what: Coroutine[Any, Any, None]) -> None:
        """Run *what* in a task unless one is running; a later check tries again."""
        if self._asking is not None and not self._asking.done():
            what.close()
            return
        self._asking = asyncio.create_task(what, name="membership")
