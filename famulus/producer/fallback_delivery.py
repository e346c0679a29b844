"""Deliver published events and dead letters, with a smaller fallback for large records.

`Producer` sends records unchanged and reports errors to its caller. Here no caller could act on an
error, so the delivery is repeated until Kafka has all records.
"""

from collections.abc import Sequence

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from famulus.errors import ConfigError, UnsentError
from famulus.producer.producer import Producer
from famulus.producer.results import RecordTooLargeError, TooLarge, cause
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()


async def deliver(producer: Producer, records: Sequence[ProducerRecord]) -> None:
    """Send *records* in order per partition and wait until the cluster has them all.

    Their topics are named as on the cluster. A record that is too large is replaced by its
    `fallback`, if it has one. Raises UnsentError with the cause and the cure when Kafka does not
    take a record: some may have been sent. The caller may deliver all of them again, with the same
    ids.
    """
    try:
        try:
            fitting = [
                record
                if record.fallback is None or producer.is_small(record)
                else await _fitting(producer, record)
                for record in records
            ]
            await producer.hand_over(fitting)
        except MessageSizeTooLargeError as error:
            if isinstance(error, TooLarge):  # and no fallback is small enough
                raise
            await producer.renew()
            for record in records:
                await _deliver_alone(producer, record)
    except (KafkaError, TimeoutError) as error:
        if not isinstance(error, TooLarge):
            await producer.renew()
        raise UnsentError(
            f"Kafka does not take records for {_topics(records)}: {cause(error)}"
        ) from error
    except ConfigError as error:  # of the partitioner
        raise UnsentError(f"records for {_topics(records)} cannot leave: {error}") from error


async def _fitting(producer: Producer, record: ProducerRecord) -> ProducerRecord:
    """Return *record*, or its first fallback that is small enough for its topic.

    Checks against the known limits. The last fallback is returned unchecked.
    """
    while record.fallback is not None:
        try:
            await producer.check(record)
        except RecordTooLargeError as error:
            log.warning(
                "something smaller leaves in its place", why=str(error), to=record.fallback.topic
            )
            record = record.fallback
        else:
            break
    return record


async def _deliver_alone(producer: Producer, record: ProducerRecord) -> None:
    """Send *record* alone, with a fallback when the topic refuses it as too large.

    This is needed for a topic whose limit the cluster did not report.
    """
    while True:
        try:
            await producer.hand_over([record])
        except MessageSizeTooLargeError as error:
            if record.fallback is None:
                raise
            log.warning(
                "something smaller leaves in its place", why=str(error), to=record.fallback.topic
            )
            record = record.fallback
            await producer.renew()
        else:
            return


def _topics(records: Sequence[ProducerRecord]) -> str:
    return ", ".join(sorted({record.topic for record in records}))
