"""The tortured handlers of this worker, and the blow that it deals at a step of its group commits.

TORTURE_LEDGER  the file in which every attempt at a payment is noted TORTURE_STEP    the step at
which the blow falls, none when empty TORTURE_AFTER   the how manieth time that the step is reached
TORTURE_SIGNAL  the signal that is sent then TORTURE_PID     the process that it is sent to, 0 is
this one TORTURE_MISDEEDS  lets handlers do what nobody should, see `misdeeds` TORTURE_DETOURS  has
what fails go through retry topics, and what is announced wait a second in the topic for that
TORTURE_WEIGHT  so many bytes are written into a further table with each payment, so that the disk
has work TORTURE_FENCE   `off` lets a worker that was replaced go on writing, which must show as
drift
"""

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from app import Deliveries, Delivery, EventBus, Retry, TransientError, app, handles
from torture.systems import misdeeds
from torture.systems.famulus_models import NEWS_EVERY, PaymentAnnounced, PaymentMade

FAILURES = 0.01  # of the first attempts
SLEEPS = 0.1  # of the attempts
# Added to a number in the ledger it makes the verdict say that something is wrong.
OUT_OF_ORDER = 1_000_000
WEIGHT = int(os.environ.get("TORTURE_WEIGHT", "0"))
DETOURS = bool(os.environ.get("TORTURE_DETOURS"))
ATTEMPTS = 1 if DETOURS else 20 if misdeeds.IS_ON else 5
RETRY = Retry(attempts=ATTEMPTS, wait_initial_s=0.001, wait_max_s=0.02)
ledger = os.open(os.environ["TORTURE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
paid = app.subscription("payments")
counts = paid.Table("counts", key=str, value=int, default=int, help="Payments of each customer.")
sums = paid.Table("sums", key=str, value=int, default=int, help="Cents paid by each customer.")
weights = paid.Table("weights", key=str, value=str, help="Bytes of no meaning.")


@app.agent(paid)
async def payment_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(PaymentMade)
async def count(payment: PaymentMade) -> None:
    """Note the attempt, and count it."""
    if misdeeds.IS_ON and not misdeeds.is_clean():
        os.write(ledger, f"{payment.customer} {payment.number + OUT_OF_ORDER}\n".encode())
    os.write(ledger, f"{payment.customer} {payment.number}\n".encode())
    counts[payment.customer] += 1
    if WEIGHT:
        weights[payment.customer] = os.urandom(WEIGHT // 2).hex()


@handles(PaymentMade, retry=RETRY, retry_topics=["1s"] if DETOURS else [])
async def add(payment: PaymentMade, delivery: Delivery, bus: EventBus) -> None:
    """Add the cents.

    It waits at times, with its writes done or not, and fails at times with all of them done.
    """
    if random.random() < SLEEPS:  # chance, not secrets
        await asyncio.sleep(random.random() * 0.003)
    sums[payment.customer] += payment.amount
    if payment.number % NEWS_EVERY == 0:
        later = datetime.now(UTC) + timedelta(seconds=1) if DETOURS else None
        await bus.publish(
            PaymentAnnounced(payment_id=payment.payment_id, customer=payment.customer),
            not_before=later,
        )
    if misdeeds.IS_ON:
        await misdeeds.maybe(payment, delivery, bus)
    if random.random() < SLEEPS:
        await asyncio.sleep(0)
    if delivery.attempt == 1 and random.random() < FAILURES:
        raise TransientError("by chance")


class Blow:
    """Sends its signal when a step of the group commits is reached for the *after*-th time."""

    def __init__(self, step: str, after: int, signal: int, pid: int) -> None:
        self._step = step
        self._left = after
        self._signal = signal
        self._pid = pid or os.getpid()

    def __call__(self, label: str) -> None:
        """A step is reached."""
        if label == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(self._pid, self._signal)


if os.environ.get("TORTURE_STEP"):
    cast(Any, app).probe = Blow(
        os.environ["TORTURE_STEP"],
        int(os.environ["TORTURE_AFTER"]),
        int(os.environ["TORTURE_SIGNAL"]),
        int(os.environ["TORTURE_PID"]),
    )
if os.environ.get("TORTURE_FENCE") == "off":
    cast(Any, app).fencing = False
