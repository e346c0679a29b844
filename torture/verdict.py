"""The verdict on a leg: what the tables hold, what was published and in which order, against the exact fold."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.table import Table

from famulus.config import KafkaConfig
from torture.load import Payment, fold

READ_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """What was wrong, in payments, and *wrong_sums* in customers.

    *reordered* ones overtook one of their customer's.
    """

    events: int
    unique: int
    unsettled: int
    lost: int
    duplicated: int
    wrong_sums: int
    unpublished: int
    reordered: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing was wrong."""
        return not (
            self.unsettled
            or self.lost
            or self.duplicated
            or self.wrong_sums
            or self.unpublished
            or self.reordered
        )


@dataclass(frozen=True)
class Found:
    """What a leg left behind: rows of both tables, the ids that were announced, the ledger of the attempts."""

    counts: Mapping[str, int]
    sums: Mapping[str, int]
    announced: set[str]
    ledger: Path


def judge(made: Sequence[Payment], unsettled: int, found: Found) -> Verdict:
    """Compare what was *found* with what the payments come to, bit for bit."""
    exact, counts, sums = fold(made), found.counts, found.sums
    drift = {
        customer: counts.get(customer, 0) - exact.counts.get(customer, 0)
        for customer in {*counts, *exact.counts}
    }
    return Verdict(
        events=len(made),
        unique=exact.unique,
        unsettled=unsettled,
        lost=-sum(more for more in drift.values() if more < 0),
        duplicated=sum(more for more in drift.values() if more > 0),
        wrong_sums=sum(
            sums.get(customer) != exact.sums.get(customer) for customer in {*sums, *exact.sums}
        ),
        unpublished=len(exact.announced ^ found.announced),
        reordered=reordered(attempts(found.ledger)),
    )


def attempts(ledger: Path) -> Iterator[tuple[str, int]]:
    """Customer and number of every attempt, as they were noted."""
    with ledger.open("r", encoding="ascii") as lines:
        for line in lines:
            customer, _, number = line.partition(" ")
            yield customer, int(number)


def reordered(noted: Iterable[tuple[str, int]]) -> int:
    """How many payments were begun before the one before them was.

    One that comes again is in order.
    """
    following: Counter[str] = Counter()
    jumps = 0
    for customer, number in noted:
        jumps += number > following[customer]
        following[customer] = max(following[customer], number + 1)
    return jumps


def announced_in(kafka: KafkaConfig, topic: str) -> set[str]:
    """The ids of the payments that are announced in *topic*.

    One that is there twice carries the same id twice.
    """
    return asyncio.run(_announced_in(kafka, topic))


async def _announced_in(kafka: KafkaConfig, topic: str) -> set[str]:
    found: set[str] = set()
    async with (
        asyncio.timeout(READ_S),
        AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer,
    ):
        partitions = [TopicPartition(topic, number) for number in range(kafka.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found.update(orjson.loads(record.value)["payment_id"] for record in records)
    return found


@dataclass
class Result:
    """What came of a scenario.

    *unexpected* has in words what was not to be, a run that could not be ended included.
    """

    faults: Counter[str] = field(default_factory=Counter)
    verdicts: list[Verdict] = field(default_factory=list)
    stood_still: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether every event counted once, and all else was as it must be."""
        is_right = bool(self.verdicts) and all(verdict.is_exact for verdict in self.verdicts)
        return is_right and not (self.stood_still or self.unexpected)

    def cells(self) -> list[int]:
        """Its line of the overview, after the name."""
        of = self.verdicts
        return [
            len(self.faults),
            sum(verdict.events for verdict in of),
            self.faults.total(),
            sum(verdict.lost for verdict in of),
            sum(verdict.duplicated for verdict in of),
            sum(verdict.wrong_sums + verdict.unpublished for verdict in of),
            sum(verdict.reordered for verdict in of),
            sum(verdict.unsettled for verdict in of) + len(self.stood_still),
            len(self.unexpected),
            round(self.seconds),
        ]


def overview(results: Mapping[str, Result], title: str) -> Table:
    """A table with a line for each scenario, and one for all of them."""
    table = Table("scenario", title=title)
    columns = (
        "kinds of faults",
        "events",
        "faults",
        "lost",
        "duplicated",
        "wrong",
        "reordered",
        "stood still",
        "unexpected",
        "seconds",
    )
    for column in columns:
        table.add_column(column, justify="right")
    lines = {name: result.cells() for name, result in results.items()}
    for name, cells in lines.items():
        table.add_row(name, *(f"{cell:,}" for cell in cells))
    table.add_section()
    table.add_row("all", *(f"{sum(cells):,}" for cells in zip(*lines.values(), strict=True)))
    return table


def shown(columns: Mapping[str, Mapping[str, object]], title: str) -> Table:
    """A table with a column for each leg."""
    table = Table("", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    lines = dict.fromkeys(line for column in columns.values() for line in column)
    for line in lines:
        values = [column.get(line, "") for column in columns.values()]
        table.add_row(
            line, *(f"{value:,}" if isinstance(value, int) else str(value) for value in values)
        )
    return table
