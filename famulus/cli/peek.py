"""`faust -A app peek TOPIC`: the newest or chosen records of a topic, decoded."""

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

WIDER = 4  # factor by which the next range of offsets is larger, while records are few
LOOKED = 10_000  # newest offsets of each partition that are searched for a key


class peek(Command):  # Faust names the command after the class
    """Show records of any topic: offset, time, key, headers and value, with decoding errors.

    By default the newest records are shown, ordered by timestamp. No consumer group is involved,
    and nothing is committed. A claim check is shown with its payload, or with the reason why the
    payload is unavailable.

    \b
    For example:
    faust -A app peek order-events
    faust -A app peek order-events --key 4711 --last 3
    faust -A app peek order-events --partition 3 --offset 1042 --last 1 --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
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

    async def run(  # one parameter for each option
        self,
        topic: str,
        partition: int | None,
        offset: int | None,
        limit: int,
        key: str | None,
        *,
        is_json: bool,
    ) -> None:
        """Print the records.

        Raises ConfigError when there is no such topic or partition.
        """
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
            found = await _from(reader, name, numbers, offset=offset, limit=limit, key=key)
        out = console()
        for each in found:  # so that one payload at a time is in memory
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
        """Return the decoder of the topic's events, None when no subscription reads the topic."""
        for subscription in self.app.subscriptions.values():
            if subscription.topic_name in {name, topic}:
                return decoder_of(self.app.settings, subscription, self.app.dispatcher)
        return None

    def _shown_by(self, name: str) -> EventTypes | None:
        """Return the decoder that knows which fields of the topic's events are sensitive.

        Dead letter, redrive and retry topics have the events of their source, so they get its
        decoder. None means that no subscription reads the source.
        """
        for subscription in self.app.subscriptions.values():
            if name == subscription.topic_name or is_way_of(subscription.topic_name, name):
                return decoder_of(self.app.settings, subscription, self.app.dispatcher)
        return None


async def _with_payload(claims: PayloadStore, record: Any) -> tuple[Any, str]:  # Any: as below
    """Return *record* with its payload if it is a claim check, and an error text.

    When the payload is unavailable, the record is returned unchanged, and the text says why.
    Otherwise the text is empty.
    """
    if not is_claim_check(record):
        return record, ""
    try:
        return await claims.redeem(record), ""
    except (ClaimError, ClaimStoreError) as error:
        return record, f"a claim check, its payload cannot be had: {error}"


async def _from(
    reader: Reader, topic: str, partitions: Any, *, offset: int | None, limit: int, key: str | None
) -> list[Any]:  # Any: aiokafka is untyped
    """Read the records that the options select, oldest first."""
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
    """Read the newest records of a partition, *limit* at least if there are as many.

    Offsets may have no record, because transactions and compaction leave gaps.
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
    """Read the records between two offsets, and print a note for each unreadable part."""
    found: list[Any] = []
    behind: int | None = start
    while behind is not None and behind < stop:
        try:
            async for record in reader.between(at, behind, stop):
                found.append(record)  # noqa: PERF401  # keeps the records before an error
        except UnreadableError as error:
            print_note(str(error))
            behind = error.next_offset
        else:
            break
    return found


def show(out: Out, record: Any, value: bytes | None, fault: str) -> None:  # Any: as above
    """Print a record as text."""
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
    """Return a record as an object for JSON.

    A value that is not JSON is given in hexadecimal.
    """
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
