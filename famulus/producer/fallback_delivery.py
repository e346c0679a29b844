"""Delivers what events publish and dead letters: one that is too large gives way to something smaller.

`Producer` sends records as they are and says what is wrong with one. Here nobody is there who could
be told: whoever delivers tries again until Kafka has all of them.
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
    """Send *records* (their topics as on the cluster), in order per partition, and wait for every one.

    A record that is too large leaves as its `fallback`, if it has one. Raises UnsentError with the
    cause and the cure when Kafka does not take one: some may have been sent. They may be delivered
    again, by the same ids.
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
            if isinstance(error, TooLarge):  # and nothing that is smaller is there
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
    """*record*, or the first of its fallbacks that is not too large, as far as we know what its topic takes."""
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
    """The same for a topic that did not say what it takes."""
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
