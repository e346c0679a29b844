"""Read the reply topic, with consumers that belong to no group."""

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from famulus.config import KafkaConfig
from famulus.errors import UnavailableError
from famulus.kafka.log_reader import opened, poll

POLL_MS = 1_000


class ReplyReader:
    """A partition of the reply topic, read from its beginning for one request."""

    def __init__(self, consumer: AIOKafkaConsumer, at: TopicPartition, key: bytes) -> None:
        self._consumer = consumer
        self._at = at
        self._key = key

    async def earlier(self) -> ConsumerRecord | None:
        """Return the reply if it is in the log already, else None."""
        end = (await self._consumer.end_offsets([self._at]))[self._at]
        while await self._consumer.position(self._at) < end:
            if (found := await self._look()) is not None:
                return found
        return None

    async def later(self) -> ConsumerRecord:
        """Wait for the reply and return it."""
        while (found := await self._look()) is None:
            pass
        return found

    async def _look(self) -> ConsumerRecord | None:
        fetched = await poll(self._consumer, self._at, timeout_ms=POLL_MS)
        return next(
            (
                each
                for records in fetched.values()
                for each in records
                if answered(each) == self._key
            ),
            None,
        )


async def reader(settings: KafkaConfig, at: TopicPartition, *, is_new: bool) -> AIOKafkaConsumer:
    """Return a consumer of one partition, positioned at its end if *is_new*.

    Otherwise it begins at the beginning. Raises UnavailableError when the topic cannot be read.
    """
    try:  # opened before the first request leaves, so that no reply is missed
        return await opened(
            settings, at, settings.consumer_config.fetch_max_wait_ms, from_end=is_new
        )
    except (KafkaError, OSError) as error:
        raise UnavailableError(f"topic {at.topic} cannot be read: {error}; ask again") from error


def answered(record: ConsumerRecord) -> bytes:
    """Return the id of the request to which *record* is the reply."""
    return next((value or b"" for name, value in record.headers if name == "ce_correlationid"), b"")
