"""Tests of the end of a connection when a task of aiokafka misbehaves."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest

from famulus.config import KafkaConfig
from famulus.producer import connection
from famulus.producer.connection import Connection


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python's `wait_for` can lose a cancellation, and a stop must not wait forever."""
    monkeypatch.setattr(connection, "DROP_S", 0.01)
    lost: list[str] = []

    async def goes_on() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        lost.append("lost")
        await asyncio.sleep(60)

    background = asyncio.create_task(goes_on())
    await asyncio.sleep(0)

    async def close() -> None:
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background

    async def stop() -> None:
        await asyncio.sleep(60)

    made = Connection(KafkaConfig())
    made.kafka = SimpleNamespace(
        stop=stop, client=SimpleNamespace(close=close), _sender=SimpleNamespace(close=close)
    )
    done, _ = await asyncio.wait({asyncio.create_task(made.stop(0.01))}, timeout=3)
    assert (len(done), lost, background.cancelled()) == (1, ["lost"], True)
