"""Record batches that cannot be read: their offsets, and if another fetch may help.

aiokafka has another error for each fault:

- CorruptRecordException for a wrong checksum;
- RecordTooLargeError for a damaged batch header, with which it skips one offset;
- UnicodeDecodeError, without an offset, for a header name that is not UTF-8.

This module replaces the two classes by which aiokafka's fetcher unpacks. All of these faults then
raise UnreadableBatchError, and nothing is skipped.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition

from famulus.kafka.decompression import BatchTooLargeError
from famulus.kafka.leader_epochs import last_epoch

WRONG_CRC, SHORT = "Invalid CRC", "Record size is less"  # how aiokafka's messages begin
TRIES = 10  # fetches of a damaged batch, as the network may have damaged it
NOT_UTF8 = "a header's name is not UTF-8"
DAMAGED = "its bytes are not those that were written"


class UnreadableBatchError(CorruptRecordException):  # type: ignore[misc]  # aiokafka is untyped
    """The batch of *place* from *first_offset* on cannot be read; *why* is for people.

    The next batch begins at *next_offset*, None if that is unknown. *is_damaged* means that the
    bytes were changed, so that another fetch may help; else the batch was written like that.
    *is_too_large* means that it would unpack to more than the limit of `decompression`.
    """

    def __init__(
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
        """Return True for an unreadable batch that a foreign client wrote like that.

        In one of the group's own topics such a batch is skipped.
        """
        return not (self.is_damaged or self.is_too_large or self.next_offset is None)


class Batches:
    """Batches of one fetch, as aiokafka's MemoryRecords has them; *last* is the newest one taken.

    *leader_epoch* is that of the last batch. Bytes that begin with no complete batch are damaged: a
    broker sends the first one whole, however large it is.
    """

    def __init__(self, raw: bytes) -> None:
        self._records = _MemoryRecords(raw)
        self.leader_epoch = last_epoch(raw)
        self._is_damaged = len(raw) > 0 and not self._records.has_next()
        self.last: Any = None

    def has_next(self) -> bool:
        """Return True if another batch follows, or damaged bytes."""
        return self._is_damaged or bool(self._records.has_next())

    def size_in_bytes(self) -> int:
        """Return the size of all batches."""
        return int(self._records.size_in_bytes())

    def next_batch(self) -> Any:
        """Return the next batch. Raises CorruptRecordException when its header is damaged."""
        self.last = None
        if self._is_damaged:
            raise CorruptRecordException(DAMAGED)
        self.last = self._records.next_batch()
        return self.last

    def following(self) -> int | None:
        """Take the next batch and return its base offset, None unless it is complete and intact."""
        try:
            batch = self._records.next_batch() if self._records.has_next() else None
            return int(batch.base_offset) if batch is not None and batch.validate_crc() else None
        except CorruptRecordException:
            return None


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """Records of one fetch; errors of unpacking become UnreadableBatchError."""

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except (CorruptRecordException, UnicodeDecodeError) as error:
            if is_damage(error):
                raise damage(self._tp, self.next_fetch_offset, self._records) from None
            raise unreadable(self._tp, self.next_fetch_offset, self._records.last, error) from None


def is_damage(error: Exception) -> bool:
    """Return True if aiokafka, or `Batches`, reports by *error* that bytes were changed."""
    return bool(error.args) and str(error.args[0]).startswith((WRONG_CRC, DAMAGED, SHORT))


def damage(place: TopicPartition, position: int, records: Batches) -> UnreadableBatchError:
    """Return the error for the damaged batch that *records* returned last, at *position*.

    Its next offset is the base offset of the following batch if that one is intact, else it comes
    from the header of the damaged batch. An offset that is not behind *position* is no use: None.
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
    """Return the error for an intact *batch* that cannot be read at *position*."""
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
