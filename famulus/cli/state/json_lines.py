"""`state export` and `state import`: table rows as lines of JSON.

The lines also serve to move rows to another number of partitions.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.errors import ConfigError
from famulus.formatting import without_mark
from famulus.inspection.changelog_reader import (
    Fold,
    Progressed,
    Writer,
    answered,
    places_of,
    reading,
    source_partitions,
)
from famulus.kafka.admin import add_partitions, partitions_of, prepare_state_topics
from famulus.kafka.group_members import check_empty
from famulus.kafka.partitioner import Choose, chooser, murmur2
from famulus.processing.subscription import Subscription
from famulus.state.changelog import size_of, table_and_key
from famulus.state.tables import Table

RowsByPartition = dict[int, dict[bytes, bytes]]  # partition -> changelog key -> value


class Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One row.

    The key is that of the table. With windows it is a text: the window's beginning, a slash, the
    key.

    *unreadable* says why a row cannot be read. Such a row is imported unchanged until a user
    corrects it and removes that field. *raw_key* and *raw_value* (base64) have its key and value
    where these cannot be shown as JSON.
    """

    table: str
    key: msgspec.Raw
    value: msgspec.Raw
    partition: int | None = None
    unreadable: str = ""
    raw_key: bytes | None = None
    raw_value: bytes | None = None


# Export.


async def exported(
    app: Famulus,
    places: Mapping[Subscription, Sequence[TopicPartition]],
    only: str | None,
    *,
    progressed: Progressed,
    unknown: set[str],
    unreadable: Counter[str],
) -> AsyncIterator[bytes]:
    """Yield the rows of *places* as lines, sorted by table and key in each subscription.

    *only* is the one table to export, None for all. Names of tables that have rows but are declared
    nowhere are added to *unknown*. Rows that do not fit their table's types are counted in
    *unreadable*.
    """
    async with reading(app) as logs:
        for subscription, every in places.items():
            found: list[tuple[str, bytes, int, bytes]] = []
            for at in every:
                fold = await logs.fold(at, progressed)
                for row, value in fold.rows.items():
                    table, key = table_and_key(row)
                    if table not in subscription.tables:
                        unknown.add(table)
                    elif only in (None, table):
                        found.append((table, key, at.partition, value))
            for table, key, partition, value in sorted(found):
                line = line_of(subscription.tables[table], key, partition, value)
                if line.unreadable:
                    unreadable[table] += 1
                yield msgspec.json.encode(line) + b"\n"


def line_of(table: Table[Any, Any], key: bytes, partition: int, value: bytes) -> Line:
    """Convert a row to a line."""
    try:
        text, content = table.as_json(key, value)
    except ValueError as error:
        why = str(error)
    else:
        return Line(table.name, msgspec.Raw(text), msgspec.Raw(content), partition)
    line = Line(table.name, msgspec.Raw(b"null"), msgspec.Raw(b"null"), partition, why)
    try:
        line.key = msgspec.Raw(table.key_json(key))
    except Exception:  # decoding runs the code of users' types
        line.key, line.raw_key = msgspec.Raw(msgspec.json.encode(table.key_text(key))), key
    if _is_one_line_of_json(value):
        line.value = msgspec.Raw(value)
    else:
        line.raw_value = value
    return line


def _is_one_line_of_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return b"\n" not in value


# Import.


def read_lines(
    subscription: Subscription,
    file: Path,
    partitions: int,
    row_bytes_max: int,
    *,
    is_kept: bool,
    choose: Choose = murmur2,
) -> RowsByPartition:
    """Read the rows of *file*, by partition.

    The partition is that of the row's key, or the one that the line names when *is_kept*. Raises
    ConfigError with the number of the first wrong line.
    """
    rows: RowsByPartition = {}
    lines: dict[tuple[int, bytes], int] = {}
    decoder = msgspec.json.Decoder(Line)
    with file.open("rb") as content:
        for number, text in enumerate(without_mark(content), 1):
            try:
                partition, key, value = _row(
                    subscription, decoder.decode(text), partitions, None if is_kept else choose
                )
            except (ValueError, msgspec.DecodeError) as error:
                raise _fault(file, number, error) from None
            if (size := size_of(key, value)) > row_bytes_max:
                raise _fault(
                    file, number, f"{size} bytes, at most {row_bytes_max} are settled at once"
                )
            if (before := lines.setdefault((partition, key), number)) != number:
                raise _fault(
                    file,
                    number,
                    f"the row of line {before} again, in partition {partition}; rows that are "
                    "not keyed "
                    "as their events are stay where they are with --keep-partition",
                )
            rows.setdefault(partition, {})[key] = value
    return rows


def _fault(file: Path, number: int, what: object) -> ConfigError:
    return ConfigError(f"{file}, line {number}: {what}; nothing was written")


def _row(
    subscription: Subscription, line: Line, partitions: int, choose: Choose | None
) -> tuple[int, bytes, bytes]:
    table = subscription.tables.get(line.table)
    if table is None:
        known = ", ".join(subscription.tables) or "none"
        raise ValueError(
            f"topic {subscription.name} has no table {line.table!r}; there are: {known}"
        )
    key, value = _row_of(table, line)
    if choose is not None:
        partition = choose(table.event_key(key), partitions)
        if partition is None:
            raise ValueError(
                "events of an empty key may stand in any partition: use --keep-partition"
            )
        return partition, table.prefix + key, value
    if line.partition is None or not 0 <= line.partition < partitions:
        raise ValueError(f"partition {line.partition} is none of the topic's {partitions}")
    return line.partition, table.prefix + key, value


def _row_of(table: Table[Any, Any], line: Line) -> tuple[bytes, bytes]:
    """Return key and value of the row of a line.

    Raises ValueError for an unreadable row that is not marked as `unreadable`.
    """
    if not line.unreadable:
        if line.raw_key is not None or line.raw_value is not None:
            raise ValueError("raw_key and raw_value are for rows that say `unreadable`")
        return table.from_json(bytes(line.key), bytes(line.value))
    key = table.key_from_json(bytes(line.key)) if line.raw_key is None else line.raw_key
    return key, bytes(line.value) if line.raw_value is None else line.raw_value


async def import_rows(
    app: Famulus, subscription: Subscription, file: Path, *, is_replacing: bool, is_kept: bool
) -> tuple[int, int]:
    """Write the rows of *file* into the state; *is_replacing* deletes all other rows.

    Returns the number of rows written and of rows deleted. Marks and positions stay unchanged.
    Raises ConfigError while the group has members or when a line is wrong, before anything is
    written; InvariantError when a worker writes meanwhile.
    """
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    if not subscription.tables:
        raise ConfigError(f"topic {subscription.name} has no tables")
    await check_empty(kafka, timeout_s)
    partitions = await source_partitions(app, subscription)
    rows = read_lines(
        subscription,
        file,
        partitions,
        app.settings.state.group_bytes,
        is_kept=is_kept,
        choose=chooser(kafka.producer_config.partitioner),
    )
    await prepare_state(app, subscription, partitions, may_grow=is_replacing)
    places = (await places_of(app, [subscription]))[subscription]
    written = deleted = 0
    async with claimed(
        app, [at for at in places if is_replacing or at.partition in rows]
    ) as claims:
        for at, fold, writer in claims:
            new = rows.get(at.partition, {})
            written += await writer.write(new.items())
            if is_replacing:  # last, so that an interruption never loses rows
                deleted += await writer.write((key, None) for key in fold.rows if key not in new)
    return written, deleted


async def prepare_state(
    app: Famulus, subscription: Subscription, partitions: int, *, may_grow: bool
) -> None:
    """Create the changelog if missing, with as many *partitions* as the source.

    A changelog with fewer partitions is extended if *may_grow*. Extension is correct only when
    every row is written to its new partition. Raises ConfigError if the numbers differ otherwise.
    """
    topic = subscription.state_topic
    assert topic is not None
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    there = (await partitions_of(kafka, [topic], timeout_s)).get(topic, partitions)
    if may_grow and there < partitions:
        await add_partitions(kafka, topic, partitions, timeout_s)
    await prepare_state_topics(
        kafka, {topic: partitions}, app.settings.state.tombstones_h, timeout_s
    )


@asynccontextmanager
async def claimed(
    app: Famulus,
    places: Iterable[TopicPartition],
    folds: Mapping[TopicPartition, Fold] | None = None,
) -> AsyncIterator[list[tuple[TopicPartition, Fold, Writer]]]:
    """Claim all of *places*, and yield the fold of each and a writer for it.

    The folds are read unless *folds* gives them. Raises InvariantError when a worker writes
    meanwhile.
    """
    found = []
    async with answered(app), app.sender, reading(app) as logs:
        for at in places:
            fold = folds[at] if folds is not None else await logs.fold(at)
            found.append((at, fold, Writer(app.sender, at, app.settings.state.group_bytes)))
        for _, fold, writer in found:
            await writer.claim(fold)
        yield found
