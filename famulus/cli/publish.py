"""`faust -A app publish [FILE]`: publish events from JSON lines to their topics."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

import click
import msgspec
from faust import Record as Event
from faust.cli import argument, option
from faust.models.base import registry

from famulus.cli.command import Command
from famulus.cli.dlq.listing import progress
from famulus.cli.output import is_answering, print_note, print_text
from famulus.errors import (
    AccessError,
    ConfigError,
    DataError,
    DecodeError,
    OperatingError,
    StreamError,
    UnavailableError,
)
from famulus.formatting import number, without_mark
from famulus.kafka.admin import partitions_of
from famulus.producer.producer import Producer
from famulus.producer.results import PublishError
from famulus.serialization.json_codec import codec_of
from famulus.wiring import topic_of

CHUNK = 1_000  # events that are sent and awaited together
SHOWN = 10  # faults that are printed
MEMORY_BYTES = 16 * 2**20  # of standard input are kept in memory; a larger input goes to disk


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the input.

    Without a *key* the event's own key is taken, without an *id* a new one.
    """

    type: str
    value: msgspec.Raw
    key: str | int | msgspec.UnsetType | None = msgspec.UNSET
    id: str | None = None


class Ready(NamedTuple):
    """An event that is ready to be sent, and the number of its line."""

    line: int
    topic: str
    key: object
    event: Event
    id: str | None


class publish(Command):  # Faust names the command after the class
    """Publish events from FILE or standard input, one JSON object a line.

    Each line is {"type": ..., "value": {...}}, with "key" and "id" if you like. The type is the
    event's name on the wire. The topic follows from the type, and so does the key unless "key" is
    given. Every line is checked against its model before the first event is sent; if one line is
    wrong, nothing is sent. With an "id" of your own, an event that is published twice is recognised
    as the same event.

    \b
    For example:
    faust -A app publish orders.ndjson
    faust -A app publish --dry-run < orders.ndjson
    echo '{"type": "orders.OrderCreated", "value": {...}}' | faust -A app publish --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument(
            "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False
        ),
        option(
            "--dry-run", "is_dry", is_flag=True, help="Only check the lines; it needs no broker."
        ),
        option(
            "--json",
            "is_json",
            is_flag=True,
            help="A JSON object for each event: line, topic, partition, offset.",
        ),
    ]

    async def run(self, file: Path | None, *, is_dry: bool, is_json: bool) -> None:
        """Check all lines, then publish their events.

        Raises ConfigError for wrong lines and missing topics, and as the producer does.
        """
        if file is None and is_answering():
            raise click.UsageError("name a FILE, or write to standard input")
        with opened_lines(file) as lines:
            types = {name: of for name, of in registry.items() if hasattr(of, "__topic__")}
            topics = checked(lines, types)
            total = sum(topics.values())
            what = ", ".join(
                f"{number(count, 'event')} of {topic}" for topic, count in sorted(topics.items())
            )
            if is_dry:
                print_note(f"{what or 'no events'}: nothing was sent")
                return
            await self._check_topics(topics)
            lines.seek(0)
            async with Producer(self.app.settings.kafka, self.app.claims) as producer:
                with progress("publishing", total, is_quiet=is_json) as (_, progressed):
                    for chunk in chunks(ready_of(lines, types)):
                        await send(producer, chunk, is_json=is_json)
                        progressed(len(chunk), None)
        print_note(f"published: {what or 'no events'}")

    async def _check_topics(self, topics: Counter[str]) -> None:
        settings = self.app.settings
        names = [settings.kafka.topic(topic) for topic in topics]
        there = await partitions_of(settings.kafka, names, settings.worker.startup_timeout_s)
        if missing := sorted(set(names) - there.keys()):
            raise ConfigError(
                f"missing topics: {', '.join(missing)}; `faust -A app topics apply` creates "
                "those that "
                "the subscriptions need"
            )


@contextmanager
def opened_lines(file: Path | None) -> Iterator[IO[bytes]]:
    """Open the input so that it can be read twice.

    Standard input is copied to memory, and to disk when it is large. Raises ConfigError when the
    file cannot be read, StreamError when standard input cannot.
    """
    if file is None:
        with SpooledTemporaryFile(MEMORY_BYTES) as spooled:
            try:
                copyfileobj(sys.stdin.buffer, spooled)
            except OSError as error:
                raise StreamError(f"standard input cannot be read: {error.strerror}") from None
            spooled.seek(0)
            yield spooled
        return
    try:
        lines = file.open("rb")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    with lines:
        yield lines


def checked(lines: IO[bytes], types: dict[str, Any]) -> Counter[str]:
    """Check every line, and count the events for each topic, by its name in models.

    Faults are printed as notes, the first ten only. Raises ConfigError when a line is wrong.
    """
    found: Counter[str] = Counter()
    faults = total = 0
    for line, text in numbered(lines):
        total += 1
        try:
            found[ready(line, text, types).topic] += 1
        except (DecodeError, ValueError) as error:  # errors of msgspec are ValueErrors
            faults += 1
            if faults <= SHOWN:
                print_note(f"line {line}: {error}")
    if faults:
        raise ConfigError(
            f"{faults} of {number(total, 'line')} {'is' if faults == 1 else 'are'} wrong; "
            "nothing was sent"
        )
    return found


def numbered(lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Return the lines that are not empty, each with its number from 1 on."""
    return ((line, text) for line, text in enumerate(without_mark(lines), 1) if text.strip())


def ready(line: int, text: bytes, types: dict[str, Any]) -> Ready:
    """Decode a line to its event.

    Raises DecodeError or ValueError, which say what is wrong with the line.
    """
    said = msgspec.json.decode(text, type=Line)
    event_type = types.get(said.type)
    if event_type is None:
        raise ValueError(
            f"there is no event type {said.type!r}; there are {', '.join(sorted(types))}"
        )
    if said.id is not None and not (said.id and said.id.isprintable()):
        raise ValueError("an id is a text that can be printed")
    event = codec_of(event_type).decode(bytes(said.value))
    key = getattr(event, event_type.__key__) if said.key is msgspec.UNSET else said.key
    return Ready(line, topic_of(event_type), key, event, said.id)


def ready_of(lines: IO[bytes], types: dict[str, Any]) -> Iterator[Ready]:
    """Decode lines that were checked before."""
    return (ready(line, text, types) for line, text in numbered(lines))


def chunks(events: Iterator[Ready]) -> Iterator[list[Ready]]:
    """Split *events* into lists of a thousand at most."""
    while chunk := list(islice(events, CHUNK)):
        yield chunk


async def send(producer: Producer, chunk: Sequence[Ready], *, is_json: bool) -> None:
    """Publish the events of *chunk*, those of one topic in their order.

    Raises as the producer does. The error says which lines were sent.
    """
    for topic, group in groupby(sorted(chunk, key=lambda of: of.topic), key=lambda of: of.topic):
        events = list(group)
        try:
            published = await producer.produce_many(
                topic, [(of.key, of.event, headers(producer, of)) for of in events]
            )
        except PublishError as error:
            first, last = chunk[0].line, chunk[-1].line
            reason = (
                f"{error}; lines before {first} were sent, some from {first} to {last} may "
                "have been, none behind"
            )
            kinds: dict[int, type[OperatingError]] = {
                kind.exit_code: kind for kind in (ConfigError, AccessError, DataError)
            }
            raise kinds.get(error.exit_code, UnavailableError)(reason) from error
        for of, place in zip(events, published, strict=True) if is_json else ():
            print_text(
                {
                    "line": of.line,
                    "topic": place.topic,
                    "partition": place.partition,
                    "offset": place.offset,
                }
            )


def headers(producer: Producer, of: Ready) -> list[tuple[str, bytes]]:
    """Return the headers of a new event, with the id of its line if any."""
    new = producer.new_headers(of.event)
    if of.id is None:
        return new
    return [
        (name, of.id.encode() if name in ("ce_id", "ce_correlationid") else value)
        for name, value in new
    ]
