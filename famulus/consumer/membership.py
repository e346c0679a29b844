"""The worker's membership of its consumer group: it lasts as long as the event loop runs, whatever there is to fetch.

aiokafka takes a consumer that has not fetched for `max.poll.interval.ms` for stuck. It leaves the
group then, and joins it again only when somebody fetches. A worker without partitions, or whose
partitions are all busy, paused or being restored, has nothing to fetch, and would never come back.
So a timer of the event loop winds that clock. A loop that hangs winds nothing, and loses its
partitions as it should.

aiokafka keeps an error of the group until somebody asks for it, and does nothing meanwhile. The
same timer asks, has it try again, and ends the worker in words when the group goes on refusing it.
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
BEAT_S = 1.0  # between two looks; `MaxPollIntervalMs` is 10 s at least
ASK_S = 10.0  # to learn more of a refusal, or whether the brokers answer


class Client(Protocol):
    """What speaks with the group."""

    group_session: GroupSession

    @property
    def coordinator(self) -> Any:  # Any: aiokafka is untyped
        """The group coordinator of aiokafka, None before there is one."""

    def join_again(self) -> None:
        """Have the coordinator go on behind an error that it keeps."""


class Membership:
    """Keeps the membership of what *client* speaks for, None before there is one.

    *on_fault* ends the worker.

    A group may refuse the worker for *patience_s* seconds. Without a sign from the group for
    *ends_s* seconds, beside the time that a rebalance may take, a worker whose brokers answer ends.
    """

    def __init__(  # noqa: PLR0917  # all that it is tied to
        self,
        settings: KafkaConfig,
        client: Callable[[], Client | None],
        is_stopping: Callable[[], bool],
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
        self._error: str | None = None  # which one the group refuses us with
        self._refusal: OperatingError | None = None  # that, in words
        self._refused_s = 0.0
        self._signs: tuple[int, float] | None = None  # of life, from the group
        self._silent_s = 0.0

    @property
    def refused(self) -> str:
        """Why the group does not take this worker, empty while it does."""
        if self._error is None:
            return ""
        why = str(self._refusal) if self._refusal is not None else self._error
        return f"the group does not take this worker: {why}"

    def start(self) -> None:
        """Look every so often from now on."""
        self._beat.start()

    def stop(self) -> None:
        """Look no more."""
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
        """Note that the group has refused us, and end the worker when it did so for too long."""
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
        """End the worker when the group has not been heard of for too long although the brokers answer."""
        signs = coordinator.generation, group_session.answered_at
        self._silent_s = self._silent_s + passed_s if signs == self._signs else 0.0
        self._signs = signs
        rebalance_s = self._rebalance_s if coordinator._performed_join_prepare else 0.0
        if self._silent_s >= self._ends_s + rebalance_s:
            self._begin(self._ask(self._silent_s))

    async def _ask(self, silent_s: float) -> None:
        try:
            await members_of(self._settings, ASK_S)
        except UnavailableError:  # which is told elsewhere: it goes on when they answer again
            self._silent_s = 0.0
            return
        except OperatingError:  # that they do not tell is an answer, too
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
        """Have *what* run, one at a time: another look comes soon."""
        if self._asking is not None and not self._asking.done():
            what.close()
            return
        self._asking = asyncio.create_task(what, name="membership")
