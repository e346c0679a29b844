"""Details of one dead letter, for `dlq show`.

The event is compared with the last event of its type before it that did not fail.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.deadletter.dead_letter import Audit, DeadLetter, Origin, parse_dead_letter
from famulus.deadletter.index import Entry
from famulus.deadletter.record import sender_headers
from famulus.errors import DecodeError
from famulus.inspection.deadletters.diff import Difference, differences
from famulus.inspection.deadletters.reader import Reader
from famulus.inspection.deadletters.redelivery_builder import StaysError, sent_back
from famulus.processing.handlers import EventTypes
from famulus.processing.subscription import Subscription
from famulus.serialization.json_codec import json_of
from famulus.serialization.records import ConsumerRecord, Headers, attributes_of, event_type_of
from famulus.wiring import decoder_of, types_of

SCANNED = 1_000  # records in front of the event that are searched for a good one of its type


@dataclass(frozen=True)
class LetterDetail:
    """One dead letter, and the actions taken on its event (*audits*).

    *value* is the value of the event, or None, and *gone* says why then. *fault* says what this
    code finds wrong with the value. *good* is the origin of the event that it is compared with.
    """

    entry: Entry
    letter: DeadLetter
    headers: Headers
    event_type: str
    value: bytes | None
    gone: str
    fault: str
    audits: Sequence[Audit]
    good: Origin | None = None
    differences: Sequence[Difference] = ()


async def seen(
    app: Famulus,
    reader: Reader,
    subscription: Subscription,
    *,
    entry: Entry,
    record: Any,
    audits: Sequence[Audit],
    dead: Container[Origin],
) -> LetterDetail:
    """Collect the details of the dead letter *entry*, whose record is *record*.

    *dead* has the origins of all dead letters, none of which can be the good event.
    """
    letter = parse_dead_letter(record)
    known = types_of(subscription, app.dispatcher)
    types = {str(of._options.namespace) for of in known}
    decoder = decoder_of(app.settings, subscription, app.dispatcher)
    value, gone, fault = None, "", ""
    try:
        _, returned = await sent_back(reader, record, "redrive", None)
    except StaysError as error:
        gone = str(error)
        name = event_type_of(record.headers) or ""
    else:
        value = returned.value
        name = _type_name(attributes_of(returned), value, types)
        fault = fault_in(decoder, returned)
    good = None
    if name in types and letter.id.origin.topic == subscription.topic_name:
        good = await _good_before(reader, decoder, letter.id.origin, name, dead)
    value = decoder.shown(value)
    here, there = json_of(value), json_of(decoder.shown(good.value) if good is not None else None)
    return LetterDetail(
        entry,
        letter,
        sender_headers(record.headers),
        name,
        value,
        gone,
        fault,
        audits,
        Origin(good.topic, good.partition, good.offset) if good is not None else None,
        differences(here, there) if here is not None and there is not None else (),
    )


# Any: a consumer record, or an object with its attributes.
def fault_in(decoder: EventTypes, record: Any, *, is_redeemed: bool = False) -> str:
    """Return what is wrong with the value of *record*, empty if nothing is.

    A type without a handler is a fault, too.

    A value that *is_redeemed*, taken from the payload store, has the size limit of that store.
    """
    try:
        event = decoder.decode(record, is_redeemed=is_redeemed)
    except DecodeError as error:
        return str(error)
    return "a type that nobody here handles" if event is None else ""


def _type_name(headers: Headers, value: bytes | None, types: set[str]) -> str:
    """Return the event's type by its attributes, else by the `__faust` field of its value.

    Without both it is the only type that there is, or empty if there are several.
    """
    name = event_type_of(headers)
    content = json_of(value)
    if name is None and isinstance(content, dict) and isinstance(content.get("__faust"), dict):
        name = str(content["__faust"].get("ns"))
    return name or (next(iter(types)) if len(types) == 1 else "")


async def _good_before(
    reader: Reader, decoder: EventTypes, origin: Origin, name: str, dead: Container[Origin]
) -> ConsumerRecord | None:
    """Return the last event of type *name* before *origin* that did not fail, or None."""
    good = None
    if origin.partition >= (await reader.partitions(origin.topic))[origin.topic]:
        return None
    at = TopicPartition(origin.topic, origin.partition)
    async for record in reader.between(at, max(origin.offset - SCANNED, 0), origin.offset):
        if Origin(record.topic, record.partition, record.offset) in dead:
            continue
        try:
            event = decoder.decode(record)
        except DecodeError:
            continue
        if event is not None and str(type(event)._options.namespace) == name:
            good = record
    return good
