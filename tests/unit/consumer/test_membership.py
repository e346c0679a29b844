"""Tests of group membership, with aiokafka's real coordinator on a fake clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    KafkaError,
)

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.consumer import membership
from famulus.consumer.membership import Membership
from famulus.consumer.session import GroupSession
from famulus.errors import (
    AccessError,
    ConfigError,
    InvariantError,
    OperatingError,
    UnavailableError,
)
from famulus.kafka import group_refusal as refused
from tests.support.in_memory.clock import Clock

POLL_S, SESSION_S, PATIENCE_S, ENDS_S = 20.0, 6.0, 10.0, 90.0
REBALANCE_S = 60.0
SETTINGS = KafkaConfig(
    consumer_config=ConsumerConfig(group_id="g", session_timeout_ms=int(SESSION_S * 1000))
)
UNKNOWN_MEMBER, REBALANCING, SERVER_ERROR, TOO_MANY = 25, 27, -1, 81


class Assignor:
    """An assignor that accepts every assignment."""

    name = "any"

    @staticmethod
    def metadata(_: object) -> bytes:
        """Return no metadata."""
        return b""

    @staticmethod
    def on_assignment(_: object) -> None:
        """Accept the assignment."""


class Broker:
    """A substitute for the group's broker, in place of the coordinator's client."""

    def __init__(self) -> None:
        self.cluster = SimpleNamespace(add_listener=lambda _: None)
        self.asked: list[str] = []
        self.join_code = 0
        self.beat_code = 0
        self.is_silent = False
        self.generation = 0

    async def coordinator_lookup(self, *_: object) -> int:
        """Return the only broker."""
        return 1

    async def ready(self, *_: object, **__: object) -> bool:
        """Return True."""
        return True

    async def send(self, _node: int, request: Any, **_: object) -> Any:
        """Answer as a broker does."""
        name = type(request).__name__.removesuffix("Request")
        self.asked.append(name)
        if self.is_silent:
            await asyncio.sleep(40)
            raise KafkaError("no answer")
        if name == "JoinGroup":
            self.generation += 1
            return SimpleNamespace(
                error_code=self.join_code,
                generation_id=self.generation,
                group_protocol="any",
                leader_id="other",
                member_id=f"m{self.generation}",
                members=[],
            )
        if name == "SyncGroup":
            nothing = ConsumerProtocolMemberAssignment(0, [], b"")
            return SimpleNamespace(error_code=0, member_assignment=nothing.encode())
        return SimpleNamespace(error_code=self.beat_code if name == "Heartbeat" else 0)


class Worker:
    """A consumer of the group and its membership."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.group_session = GroupSession()
        self.is_stopping = False
        self.faults: list[Exception] = []
        self.subscription = SubscriptionState()
        self.subscription.register_fetch_waiters(set())
        self.subscription.subscribe({"t"})
        self.coordinator: Any = None
        self.membership = Membership(
            SETTINGS,
            lambda: self,
            lambda: self.is_stopping,
            on_fault=self.fault,
            patience_s=PATIENCE_S,
            ends_s=ENDS_S,
            rebalance_s=REBALANCE_S,
        )
        self.membership.start()

    async def join(self, *, code: int = 0) -> None:
        """Start the coordinator, with a group that answers with *code*."""
        self.broker.join_code = code
        self.coordinator = GroupCoordinator(
            self.broker,
            self.subscription,
            group_id="g",
            session_timeout_ms=int(SESSION_S * 1000),
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=int(POLL_S * 1000),
            enable_auto_commit=False,
            assignors=(Assignor,),
        )
        await asyncio.sleep(2)

    async def fault(self, error: Exception) -> None:
        """Record the error that would end the worker."""
        self.faults.append(error)

    def join_again(self) -> None:
        """Rejoin as the consumer's thread does."""
        self.coordinator.request_rejoin()
        with suppress(KafkaError):
            self.coordinator.check_errors()

    def is_member(self) -> bool:
        """Return whether aiokafka considers the worker a member."""
        return bool(self.coordinator.generation > 0)


@pytest.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """Yield a worker that never fetches."""
    Clock(monkeypatch)
    monkeypatch.setattr(membership, "why_refused", why)
    made = Worker()
    yield made
    made.membership.stop()
    made.broker.is_silent = False
    await made.coordinator.close()


async def why(_: KafkaConfig, error: Exception, __: float) -> OperatingError:
    """Return the reason of a refusal without a broker."""
    return ConfigError(f"said of {type(error).__name__}")


async def test_who_has_nothing_to_fetch_stays_in_the_group(worker: Worker) -> None:
    """Nothing is fetched without partitions, or while all are busy, paused or being restored."""
    await worker.join()
    for _ in range(10):
        await asyncio.sleep(POLL_S / 2)
        assert worker.is_member()
    assert "LeaveGroup" not in worker.broker.asked
    assert worker.faults == []


async def test_who_hangs_loses_its_place_and_has_it_again_later(worker: Worker) -> None:
    """Heartbeats run in another loop than the one that hangs.

    Nothing else would inform the group.
    """
    await worker.join()
    worker.membership.stop()
    await asyncio.sleep(3 * POLL_S)
    assert "LeaveGroup" in worker.broker.asked
    assert not worker.is_member()
    worker.membership.start()
    await asyncio.sleep(5)
    assert worker.is_member()
    assert worker.faults == []


async def test_a_rebalance_that_lasts_costs_no_place(worker: Worker) -> None:
    """Nothing is fetched while the events in flight end."""
    released = asyncio.Event()

    async def drain(_: object) -> None:
        await released.wait()

    listener: Any = SimpleNamespace(
        on_partitions_revoked=drain, on_partitions_assigned=lambda _: None
    )
    await worker.join()
    worker.subscription._listener = listener
    worker.broker.beat_code = REBALANCING
    await asyncio.sleep(3 * POLL_S)
    assert "LeaveGroup" not in worker.broker.asked
    worker.broker.beat_code = 0
    joined = worker.broker.asked.count("JoinGroup")
    released.set()
    await asyncio.sleep(1)
    assert worker.broker.asked.count("JoinGroup") == joined + 1
    assert worker.is_member()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (23, "Inconsistent"),
        (24, "InvalidGroupId"),
        (26, "InvalidSession"),
        (30, "GroupAuth"),
        (SERVER_ERROR, "KafkaError"),
        (TOO_MANY, "KafkaError"),
    ],
)
async def test_a_group_that_refuses_a_worker_is_told_at_once_and_ends_it_soon(
    worker: Worker, code: int, error: str
) -> None:
    """The refusal comes before the first assignment.

    With any of these answers aiokafka alone would wait forever.
    """
    await worker.join(code=code)
    assert f"does not take this worker: said of {error}" in worker.membership.refused
    assert worker.faults == []
    await asyncio.sleep(PATIENCE_S)
    assert str(worker.faults[0]).startswith(f"said of {error}")


@pytest.mark.parametrize("code", [23, SERVER_ERROR])
async def test_who_is_taken_in_time_goes_on(worker: Worker, code: int) -> None:
    """Examples are a foreign member that has left and a broker that has recovered."""
    await worker.join(code=code)
    await asyncio.sleep(PATIENCE_S / 2)
    assert worker.membership.refused
    worker.broker.join_code = 0
    await asyncio.sleep(3)
    assert worker.is_member()
    assert worker.membership.refused == ""
    await asyncio.sleep(3 * PATIENCE_S)
    assert worker.faults == []


async def test_heartbeats_that_ended_with_an_error_are_begun_anew(worker: Worker) -> None:
    """By itself aiokafka would report the same error forever."""
    await worker.join()
    worker.broker.beat_code = SERVER_ERROR
    await asyncio.sleep(3)
    worker.broker.beat_code = 0
    await asyncio.sleep(5)
    assert worker.membership.refused == ""
    assert worker.group_session.is_held(SESSION_S)
    await asyncio.sleep(30)
    assert worker.group_session.is_held(SESSION_S)
    assert worker.faults == []


async def test_a_worker_that_nobody_speaks_for_must_not_stay_up(worker: Worker) -> None:
    """Such a worker would keep partitions forever without handling anything."""
    await worker.join()
    worker.coordinator._coordination_task.cancel()
    await asyncio.sleep(2)
    assert isinstance(worker.faults[0], InvariantError)
    assert "the task that speaks with the consumer group has ended" in str(worker.faults[0])


def answering(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let the brokers answer an admin client while the returned list is empty."""
    down: list[bool] = []

    async def members_of(*_: object) -> list[str]:
        if down:
            raise UnavailableError("nobody answers")
        return []

    monkeypatch.setattr(membership, "members_of", members_of)
    return down


async def test_silence_of_the_group_alone_ends_the_worker(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault may be any: there is no heartbeat and no rebalance, but brokers answer others."""
    down = answering(worker, monkeypatch)
    await worker.join()
    worker.broker.is_silent = True
    down.append(True)
    await asyncio.sleep(3 * ENDS_S)
    assert worker.faults == []  # an outage is no fault of the worker
    down.clear()
    await asyncio.sleep(ENDS_S + 2 * SESSION_S)
    assert "no place in its consumer group" in str(worker.faults[0])


async def test_a_rebalance_has_its_time(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebalance may last as long as other members finish events.

    One that never ends is a fault.
    """
    answering(worker, monkeypatch)
    await worker.join()
    worker.coordinator._performed_join_prepare = True
    monkeypatch.setattr(worker.coordinator, "_do_heartbeat", asyncio.Event().wait)
    await asyncio.sleep(ENDS_S + REBALANCE_S)
    assert worker.faults == []
    await asyncio.sleep(2 * SESSION_S)
    assert "no place in its consumer group" in str(worker.faults[0])
    worker.coordinator._performed_join_prepare = False


async def test_a_stop_is_no_fault(worker: Worker) -> None:
    """A stop closes the consumer while events in flight may still end."""
    await worker.join()
    worker.is_stopping = True
    await worker.coordinator.close()
    await asyncio.sleep(3 * ENDS_S)
    assert worker.faults == []


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            InconsistentGroupProtocolError(),
            ConfigError,
            "group g is used by rdkafka@h, x@y, with another way",
        ),
        (
            InvalidSessionTimeoutError(),
            ConfigError,
            "SessionTimeoutMs is 6000 ms, the brokers allow 10000 to 60000 ms",
        ),
        (InvalidGroupIdError(), ConfigError, "set another Kafka.ConsumerConfig.GroupId"),
        (KafkaError("GroupMaxSizeReachedError()"), ConfigError, "start fewer workers"),
        (GroupAuthorizationFailedError("g"), AccessError, "read in consumer group g.*acls"),
        (KafkaError("UnknownError()"), UnavailableError, "UnknownError"),
    ],
)
@pytest.mark.parametrize("answers", [True, False])
async def test_a_refusal_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[OperatingError],
    says: str,
    *,
    answers: bool,
) -> None:
    """The reason contains the facts that the brokers report, if they do."""
    known = {"_others": "rdkafka@h, x@y", "_session_limits": "10000 to 60000 ms"}

    async def asked(_: object, ask: Callable[..., object], __: float, unless: str) -> str:
        return known[ask.__name__] if answers else unless

    monkeypatch.setattr(refused, "_asked", asked)
    reason = await refused.why_refused(SETTINGS, error, 1.0)
    assert type(reason) is kind
    if answers:
        with pytest.raises(kind, match=says):
            raise reason
