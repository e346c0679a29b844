"""The payments that a run is made of, and what they come to when each counts once.

All of it follows from a seed.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from famulus.serialization.records import ProducerRecord
from torture.systems.famulus_models import NEWS_EVERY

CUSTOMERS = 1_000
DUPLICATES = 0.05
# A near duplicate follows its original within so many records, most often in one fetch and one
# group.
NEAR = 40
SOURCE = b"torture"


@dataclass(frozen=True, slots=True)
class Payment:
    """A customer paid. *amount* in cents, *number* counts the payments of this customer from 0."""

    payment_id: str
    customer: str
    amount: int
    number: int


@dataclass(frozen=True, slots=True)
class Fold:
    """What exact tables hold, by customer, and the ids of the payments that are announced in the topic `news`."""

    counts: dict[str, int]
    sums: dict[str, int]
    announced: set[str]

    @property
    def unique(self) -> int:
        """How many different payments there are."""
        return sum(self.counts.values())


def payments(events: int, seed: int) -> list[Payment]:
    """*events* payments, of which about 5 % are there for the second time: half of those near, half anywhere before."""
    chance = random.Random(seed)  # to be repeated, not to be secret
    numbers: Counter[str] = Counter()
    made: list[Payment] = []
    for place in range(events):
        if made and chance.random() < DUPLICATES:
            near = made[-NEAR:]
            made.append(chance.choice(near) if chance.random() < 0.5 else chance.choice(made))
            continue
        customer = f"customer-{chance.randrange(CUSTOMERS):04}"
        made.append(
            Payment(f"{seed}-{place}", customer, chance.randrange(1, 100_000), numbers[customer])
        )
        numbers[customer] += 1
    return made


def fold(made: Iterable[Payment]) -> Fold:
    """Count every payment once."""
    unique = {payment.payment_id: payment for payment in made}.values()
    sums: Counter[str] = Counter()
    for payment in unique:
        sums[payment.customer] += payment.amount
    announced = {payment.payment_id for payment in unique if payment.number % NEWS_EVERY == 0}
    return Fold(dict(Counter(payment.customer for payment in unique)), dict(sums), announced)


def record_of(payment: Payment, topic: str) -> ProducerRecord:
    """The payment as a record; a duplicate is the same record again."""
    headers = (("ce_id", payment.payment_id.encode()), ("ce_source", SOURCE))
    return ProducerRecord(topic, payment.customer.encode(), orjson.dumps(payment), headers)
