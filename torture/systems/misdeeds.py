"""What handlers do that nobody should: by chance, at an event's first attempts, so that it succeeds in the end.

They cancel, raise what is no Exception, hang, hog the processor, leave tasks behind that publish
for an attempt that has failed, and leave context variables behind.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import NoReturn

from app import Delivery, EventBus
from torture.systems.famulus_models import PaymentAnnounced, PaymentMade

IS_ON = bool(os.environ.get("TORTURE_MISDEEDS"))
SHARE = 0.05  # of the attempts
ATTEMPTS = 3  # of an event that may go wrong
HOG_S = 0.05
Misdeed = Callable[[], Awaitable[None]]
customer_in_hand: ContextVar[str] = ContextVar("customer_in_hand", default="")
left_behind: set[asyncio.Task[None]] = set()


class Panic(BaseException):  # what an extension raises that panics
    """No Exception."""


def is_clean() -> bool:
    """Whether no earlier event is seen here, after which this one is."""
    before = customer_in_hand.get()
    customer_in_hand.set("somebody")
    return not before


async def maybe(payment: PaymentMade, delivery: Delivery, bus: EventBus) -> None:
    """Do one of them, or nothing."""
    if delivery.attempt <= ATTEMPTS and random.random() < SHARE:  # chance, not secrets
        deeds: tuple[Misdeed, ...] = (*MISDEEDS, partial(_leak, payment, bus))
        await random.choice(deeds)()


async def _raise_cancelled() -> NoReturn:
    raise asyncio.CancelledError


async def _wait_for_what_is_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(0.002, task.cancel)
    await task


async def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _cancel_all() -> NoReturn:
    for task in asyncio.all_tasks():
        if task.get_name().startswith("crew-"):
            task.cancel()
    await asyncio.sleep(0)
    raise ValueError("cleaned up")


async def _raise_anything() -> NoReturn:
    errors = (
        Panic(),
        KeyboardInterrupt(),
        GeneratorExit(),
        MemoryError(),
        RecursionError(),
        StopIteration(),
        BaseExceptionGroup("several", [asyncio.CancelledError(), SystemExit(2)]),
    )
    raise random.choice(errors)


async def _exit() -> NoReturn:
    sys.exit("this is not possible")


async def _hang() -> None:
    await asyncio.sleep(3600)


async def _hang_and_swallow() -> NoReturn:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
    raise ValueError("late")


async def _hog() -> None:
    time.sleep(HOG_S)  # on purpose


async def _leak(payment: PaymentMade, bus: EventBus) -> NoReturn:
    async def later() -> None:
        await asyncio.sleep(random.random() * 0.05)
        await bus.publish(
            PaymentAnnounced(payment_id=f"leaked {payment.payment_id}", customer=payment.customer)
        )

    task = asyncio.create_task(later())
    left_behind.add(task)
    task.add_done_callback(_forget)
    await asyncio.sleep(0)
    raise ValueError("the attempt has failed, its task goes on")


def _forget(task: "asyncio.Task[None]") -> None:
    left_behind.discard(task)
    if not task.cancelled():
        task.exception()


MISDEEDS: tuple[Misdeed, ...] = (
    _raise_cancelled,
    _wait_for_what_is_cancelled,
    _cancel_itself,
    _cancel_all,
    _raise_anything,
    _exit,
    _hang,
    _hang_and_swallow,
    _hog,
)
