"""`faust -A app explain`: where an event is, why, and what gets it on."""

import time
from dataclasses import asdict

import click
from aiokafka import TopicPartition
from faust.cli import argument, option
from rich.text import Text

from app.commands.base import Command
from app.commands.dlq.letters.read import Reader, reading
from app.commands.explain.answers import Answer, Facts, answer_of
from app.commands.explain.facts import Gathering
from app.commands.out import console, say
from app.commands.state.log import subscription_of
from app.deadletter.selection import text_of
from app.errors import OperatingError
from app.text import printable
from app.wire.envelope import event_id_of

GOOD = {"handled", "duplicate", "redriven", "dropped", "settled", "ignored"}
BAD = {"dead letter", "parked", "nobody reads"}
LOOKED = 100_000  # newest records of each partition that are looked through for a key or an id
SHOWN = 20


class explain(Command):  # noqa: N801  # the class's name is the command's
    """Say where an event is and why: waiting, in back-off, a dead letter, handled, a duplicate; and what gets it on.

    It reads the logs alone, so no worker needs to answer; what a worker has in hand this second, its /livez knows. An
    event is named by its place, or looked for among the newest ones by its key or its id.

    \b
    For example:
    faust -A app explain order-events 3 1042
    faust -A app explain order-events --key 4711
    faust -A app explain order-events --id famulus#8f6e0c9a-5b1c-4b8b-9d8e-0a3c7f9d1b2e --json
    """  # noqa: D301  # click wants that control character, to leave the lines as they are

    options = [  # noqa: RUF012  # as Faust wants it
        argument("topic"),
        argument("partition", type=click.IntRange(0), required=False),
        argument("offset", type=click.IntRange(0), required=False),
        option("--key", metavar="TEXT", help="The newest events with this key."),
        option("--id", "event_id", metavar="EVENTID", help="The events with this id; its source may be left out."),
        option("--json", "is_json", is_flag=True, help="One JSON object a line."),
    ]

    async def run(  # noqa: PLR0913  # each is an option
        self, topic: str, partition: int | None, offset: int | None, key: str | None, event_id: str | None,
        *, is_json: bool,
    ) -> None:  # fmt: skip
        """Do it. Raises OperatingError when no event is like that."""
        if sum((offset is not None, key is not None, event_id is not None)) != 1:
            raise click.UsageError("name an event: TOPIC PARTITION OFFSET, or TOPIC with --key or --id")
        subscription = subscription_of(self.app, topic)
        async with reading(self.app) as reader:
            if partition is not None and offset is not None:
                places = [(partition, offset)]
            else:
                places = await _found(reader, subscription.topic_name, key, event_id)
            gathering = Gathering(self.app, reader, subscription)
            for place in places:
                facts = await gathering.of(*place)
                show(facts, answer_of(facts, time.time_ns() // 1_000_000), is_json=is_json)


async def _found(reader: Reader, topic: str, key: str | None, event_id: str | None) -> list[tuple[int, int]]:
    """The places of the newest events that have the key or the id."""
    found: list[tuple[int, int, int]] = []
    for partition in range((await reader.partitions(topic))[topic]):
        at = TopicPartition(topic, partition)
        _, end = await reader.span(at)
        async for record in reader.between(at, max(end - LOOKED, 0), end):
            if key is not None:
                is_meant = record.key is not None and text_of(record.key) == key
            else:
                its_id = event_id_of(record)
                is_meant = event_id in (its_id, its_id.partition("#")[2])
            if is_meant:
                found.append((record.timestamp, partition, record.offset))
    if not found:
        raise OperatingError(f"none of the newest {LOOKED:,} events of each partition of {topic} is like that")
    return [(partition, offset) for _, partition, offset in sorted(found)[-SHOWN:]]


def show(facts: Facts, answer: Answer, *, is_json: bool) -> None:
    """For programs, or for people: an error's text is somebody else's."""
    if is_json:
        place = {"topic": facts.topic, "partition": facts.partition, "offset": facts.offset}
        say({**place, "type": facts.type_name, **asdict(answer)})
        return
    colour = "green" if answer.state in GOOD else "red" if answer.state in BAD else "yellow"
    out = console()
    out.print(Text.assemble(f"{facts.place} ", (answer.state, colour), f": {printable(answer.why)}"), soft_wrap=True)
    if answer.action:
        out.print(Text(f"  {printable(answer.action)}", "dim"), soft_wrap=True)
