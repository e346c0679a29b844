"""Record batches that cannot be read, whoever reads them: which offsets they have, and whether to ask for them again.

aiokafka says of a damaged batch that its checksum is wrong, of one whose header is damaged that it
is larger than a fetch, moving on by one offset, and of a header whose name is no UTF-8 nothing but
that. So the two classes by which its fetcher unpacks are replaced: all of these are an
UnreadableBatchError, and nothing is skipped.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition

from famulus.kafka.decompression import BatchTooLargeError
from famulus.kafka.leader_epochs import last_epoch

WRONG_CRC, SHORT = "Invalid CRC", "Record size is less"  # how aiokafka says it
TRIES = 10  # of a batch that comes damaged, since a network may have done it
NOT_UTF8 = "a header's name is not UTF-8"
DAMAGED = "its bytes are not those that were written"


class UnreadableBatchError(CorruptRecordException):  # type: ignore[misc]  # aiokafka is untyped
    """The batch of *place* from *first_offset* on cannot be read, *why* in words.

    The next one begins at *next_offset*, None where the batch does not even say that. *is_damaged*:
    its checksum is wrong, so it may be whole when it is fetched again. Else it is what somebody
    wrote.
    """

    def __init__(  # all that is known of it
        self,
        place: TopicPartition,
        first_offset: int,
        next_offset: int | None,
        why: str,
        *,
        is_damaged: bool,
        is_too_large: bool = False,
    ) -> None:
        until = f" to {next_offset - 1}" if next_offset is not None else " on"
        super().__init__(
            f"{place.topic}-{place.partition}: the records from offset {first_offset}{until} "
            f"cannot be read: {why}"
        )
        self.place = place
        self.why = why
        self.first_offset = first_offset
        self.next_offset = next_offset
        self.is_damaged = is_damaged
        self.is_too_large = is_too_large

    @property
    def is_stray(self) -> bool:
        """Whether it is what somebody wrote who is none of us: in a topic of the group's own it is left alone."""
        return not (self.is_damaged or self.is_too_large or self.next_offset is None)


class Batches:
    """The batches of one fetch: what aiokafka's MemoryRecords does, and *last* is the newest that was taken.

    *leader_epoch* is that of the last batch.

    Bytes that begin with no whole batch are damaged: a broker sends the first one whole, however
    large it is.
    """

    def __init__(self, raw: bytes) -> None:
        self._records = _MemoryRecords(raw)
        self.leader_epoch = last_epoch(raw)
        self._is_damaged = len(raw) > 0 and not self._records.has_next()
        self.last: Any = None

    def has_next(self) -> bool:
        """Whether there is another one, or what should be one."""
        return self._is_damaged or bool(self._records.has_next())

    def size_in_bytes(self) -> int:
        """Of all of them."""
        return int(self._records.size_in_bytes())

    def next_batch(self) -> Any:
        """The next one. Raises CorruptRecordException where its header is damaged."""
        self.last = None
        if self._is_damaged:
            raise CorruptRecordException(DAMAGED)
        self.last = self._records.next_batch()
        return self.last

    def following(self) -> int | None:
        """Where the batch begins that comes next in the fetch, None unless it is whole."""
        try:
            batch = self._records.next_batch() if self._records.has_next() else None
            return int(batch.base_offset) if batch is not None and batch.validate_crc() else None
        except CorruptRecordException:
            return None


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """The records of one fetch.

    Raises UnreadableBatchError where aiokafka's own raise whatever they raise.
    """

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except (CorruptRecordException, UnicodeDecodeError) as error:
            if is_damage(error):
                raise damage(self._tp, self.next_fetch_offset, self._records) from None
            raise unreadable(self._tp, self.next_fetch_offset, self._records.last, error) from None


def is_damage(error: Exception) -> bool:
    """Whether aiokafka, or `Batches`, says by *error* that bytes are not those that were written."""
    return bool(error.args) and str(error.args[0]).startswith((WRONG_CRC, DAMAGED, SHORT))


def damage(place: TopicPartition, position: int, records: Batches) -> UnreadableBatchError:
    """The error that says that the batch that *records* gave last, at *position*, is damaged.

    Where the next one begins is said by that one, or by what is left of this one's header.
    """
    batch, next_offset = records.last, records.following()
    if batch is not None and next_offset is None:
        next_offset = batch.next_offset
    if next_offset is not None and next_offset <= position:
        next_offset = None
    return UnreadableBatchError(place, position, next_offset, DAMAGED, is_damaged=True)


def unreadable(
    place: TopicPartition, position: int, batch: Any, error: Exception
) -> UnreadableBatchError:
    """The error that says that *batch*, whose bytes are whole, cannot be read at *position*, because of *error*."""
    first = max(batch.base_offset, position)
    following = batch.next_offset if batch.next_offset > first else None
    if isinstance(error, UnicodeDecodeError):
        return UnreadableBatchError(place, first, following, NOT_UTF8, is_damaged=False)
    why = str(error.args[0]) if error.args else type(error).__name__
    is_too_large = isinstance(error, BatchTooLargeError)
    return UnreadableBatchError(
        place, first, following, why, is_damaged=False, is_too_large=is_too_large
    )


_MemoryRecords = fetcher.MemoryRecords
fetcher.MemoryRecords = Batches
fetcher.PartitionRecords = PartitionRecords
