"""`faust -A app peek TOPIC`: the newest records of a topic, or those from a place on, decoded."""

import heapq
from typing import Any

import click
from aiokafka import TopicPartition
from faust.cli import argument, option
from rich.text import Text

from famulus.cli.command import OFFSET, PARTITION, Command
from famulus.cli.output import Out, console, print_note, print_text, raw_json
from famulus.deadletter.index import text_of
from famulus.deadletter.topics import is_way_of
from famulus.errors import ClaimError, ClaimStoreError, ConfigError, UnreadableError
from famulus.formatting import iso, number, printable, time_text, value_text
from famulus.inspection.deadletters.description import key_text
from famulus.inspection.deadletters.detail import fault_in
from famulus.inspection.deadletters.reader import Reader, reading
from famulus.processing.handlers import EventTypes
from famulus.producer.payload_store import PayloadStore
from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.records import event_type_of
from famulus.wiring import decoder_of

WIDER = 4  # so many times as many offsets are looked at where records are few
LOOKED = 10_000  # newest records of each partition that are looked through for a key


class peek(Command):  # the class's name is the command's
    """Show records of any topic: place, time, key, headers, value; and what is wrong with one that does not decode.

    The newest ones, in the order of their times, unless a place is given. No group is involved,
    nothing is committed. Claim checks are shown with their payload, or with why it cannot be had.

    \b
    For example:
    faust -A app peek order-events
    faust -A app peek order-events --key 4711 --last 3
    faust -A app peek order-events --partition 3 --offset 1042 --last 1 --json
    """  # click wants that control character, to leave the lines as they are

    options = [  # as Faust wants it
        argument("topic"),
        option("--partition", type=PARTITION, help="Only this one."),
        option("--offset", type=OFFSET, help="From here on, of one partition."),
        option(
            "--last",
            "limit",
            type=click.IntRange(1, 10_000),
            default=10,
            show_default=True,
            help="So many.",
        ),
        option(
            "--key",
            metavar="TEXT",
            help=f"With this key, among the newest {LOOKED:,} of each partition.",
        ),
        option("--json", "is_json", is_flag=True, help="One JSON object a line."),
    ]

    async def run(  # each is an option
        self,
        topic: str,
        partition: int | None,
        offset: int | None,
        limit: int,
        key: str | None,
        *,
        is_json: bool,
    ) -> None:
        """Do it. Raises ConfigError when there is no such topic, or partition."""
        if offset is not None and (partition is None or key is not None):
            raise click.UsageError("--offset is of one --partition, and without --key")
        kafka = self.app.settings.kafka
        name = topic if topic.startswith(kafka.topic_prefix) else kafka.topic(topic)
        types, shown_by = self._types(topic, name), self._shown_by(name)
        async with reading(self.app) as reader:
            count = (await reader.partitions(name))[name]
            if not count:
                raise ConfigError(f"there is no topic {name}")
            if partition is not None and partition >= count:
                raise ConfigError(f"topic {name} has {number(count, 'partition')}, the first is 0")
            numbers = range(count) if partition is None else [partition]
            found = await _from(reader, name, numbers, offset, limit, key)
        out = console()
        for each in found:  # one payload at a time is in memory
            record, away = await _with_payload(self.app.claims, each)
            fault = away or (
                fault_in(types, record, is_redeemed=record is not each) if types is not None else ""
            )
            value = shown_by.shown(record.value) if shown_by is not None else record.value
            if is_json:
                print_text(as_json(record, value, fault))
            else:
                show(out, record, value, fault)
        if not found:
            print_note(f"{name}: no records like that")

    def _types(self, topic: str, name: str) -> EventTypes | None:
        """What decodes the topic's events, None when nobody here reads it."""
        for subscription in self.app.subscriptions.values():
            if subscription.topic_name in {name, topic}:
                return decoder_of(self.app.settings, subscription, self.app.dispatcher)
        return None

    def _shown_by(self, name: str) -> EventTypes | None:
        """What knows what is sensitive in the topic: the events of a source are in its dead letters and retries too."""
        for subscription in self.app.subscriptions.values():
            if name == subscription.topic_name or is_way_of(subscription.topic_name, name):
                return decoder_of(self.app.settings, subscription, self.app.dispatcher)
        return None


async def _with_payload(claims: PayloadStore, record: Any) -> tuple[Any, str]:  # Any: as below
    """*record* with what it stands for if it is a claim check; itself, and why, where that cannot be had."""
    if not is_claim_check(record):
        return record, ""
    try:
        return await claims.redeem(record), ""
    except (ClaimError, ClaimStoreError) as error:
        return record, f"a claim check, its payload cannot be had: {error}"


async def _from(  # noqa: PLR0917  # all that is asked for
    reader: Reader, topic: str, partitions: Any, offset: int | None, limit: int, key: str | None
) -> list[Any]:  # Any: aiokafka is untyped
    """The records that are meant, the oldest first."""
    found: list[Any] = []
    for number_ in partitions:
        at = TopicPartition(topic, number_)
        begin, end = await reader.span(at)
        if offset is not None:
            return (await _readable(reader, at, max(offset, begin), min(offset + limit, end)))[
                :limit
            ]
        if key is None:
            records = await _last(reader, at, begin, end, limit)
        else:
            looked = await _readable(reader, at, max(end - LOOKED, begin), end)
            records = [
                record for record in looked if record.key is not None and text_of(record.key) == key
            ]
        found = heapq.nlargest(
            limit, [*found, *records], key=lambda record: (record.timestamp, record.offset)
        )
    return found[::-1]


# Any: as above.
async def _last(reader: Reader, at: TopicPartition, begin: int, end: int, limit: int) -> list[Any]:
    """The newest records of a partition.

    Offsets may have none: transactions and compaction leave holes.
    """
    found: list[Any] = []
    start, step = end, limit
    while len(found) < limit and start > begin:
        stop, start = start, max(start - step, begin)
        found = [*await _readable(reader, at, start, stop), *found]
        step *= WIDER
    return found


# Any: as above.
async def _readable(reader: Reader, at: TopicPartition, start: int, stop: int) -> list[Any]:
    """The records between two offsets that can be read; of the others it says so."""
    found: list[Any] = []
    behind: int | None = start
    while behind is not None and behind < stop:
        try:
            async for record in reader.between(at, behind, stop):
                found.append(record)  # noqa: PERF401  # what came before an error stays
        except UnreadableError as error:
            print_note(str(error))
            behind = error.next_offset
        else:
            break
    return found


def show(out: Out, record: Any, value: bytes | None, fault: str) -> None:  # Any: as above
    """For people."""
    place = f"{record.topic}/{record.partition}/{record.offset}"
    out.put(
        Text.assemble(
            (place, "bold"), f"  {time_text(record.timestamp)}  key {key_text(record.key)}"
        )
    )
    for name, of in record.headers:
        out.put(
            Text(
                f"  {printable(name)}: "
                f"{printable((of or b'').decode('utf-8', 'backslashreplace'))}",
                "dim",
            )
        )
    if fault:
        out.put(Text(f"  at fault: {printable(fault)}", "red"))
    out.put(Text(value_text(value)))
    out.put("")


def as_json(record: Any, value: bytes | None, fault: str) -> dict[str, object]:  # Any: as above
    """For programs. A value that is no JSON is given in hexadecimal."""
    content = raw_json(value)
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": iso(record.timestamp),
        "key": text_of(record.key) if record.key is not None else None,
        "type": event_type_of(record.headers),
        "headers": {
            name: (value or b"").decode("utf-8", "backslashreplace")
            for name, value in record.headers
        },
        "value": content,
        "value_hex": value.hex() if content is None and value is not None else None,
        "fault": fault or None,
    }
