"""Limits on decompression: 500 KB may unpack to 500 MB, or gigabytes, of zeros.

aiokafka unpacks without a limit. Its compiled parsers look up the functions for that by name, so
this module replaces them. A batch above the limit is refused before its memory is allocated. Such a
batch and one that cannot be unpacked raise CorruptRecordException, which every reader has to
expect.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable

import cramjam
from aiokafka import codec
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crecords import default_records, legacy_records

BYTES_MAX = 64 * 2**20
NAME = "Kafka.ConsumerConfig.MaxUnpackedBytes"
# Highest compression ratios of the formats. Input that fits even at that ratio needs no check. The
# other formats are always checked.
GZIP_RATIO, LZ4_RATIO = 1_032, 255
# First buffer: least bytes, and ratio to the packed size. Most batches need no larger one.
ROOM_BYTES, ROOM_RATIO, ROOM_GROWTH = 256 * 1024, 16, 8
# Framing of Java's clients around snappy: blocks with their lengths.
XERIAL_HEAD, XERIAL_LENGTH = 16, struct.Struct(">i")
# cramjam's message for an output buffer that is too small.
_FULL = "failed to write whole buffer"
_limit = [BYTES_MAX]  # bytes, of this process


class BatchTooLargeError(CorruptRecordException):  # type: ignore[misc]  # aiokafka is untyped
    """A batch would unpack to more than `MaxUnpackedBytes`."""


def set_limit(bytes_max: int) -> None:
    """Limit the unpacked size of a batch to *bytes_max*, for every client of this process."""
    _limit[0] = bytes_max


def ungzip(packed: bytes) -> bytes:
    """Unpack gzip. Raises CorruptRecordException, as all of these functions do."""
    if len(packed) * GZIP_RATIO <= _limit[0]:
        return bytes(codec.gzip_decode(packed))
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        return _checked(file.read(_limit[0] + 1))


def unsnap(packed: bytes) -> bytes:
    """Unpack snappy, with or without Java's blocks around it.

    cramjam allocates the size that the input claims, so that size is checked first.
    """
    if not codec._detect_xerial_stream(packed):
        _check(cramjam.snappy.decompress_raw_len(packed))
        return bytes(cramjam.snappy.decompress_raw(packed))
    at, size = XERIAL_HEAD, 0
    while at < len(packed):
        (length,) = XERIAL_LENGTH.unpack_from(packed, at)
        at += XERIAL_LENGTH.size
        if not 0 < length <= len(packed) - at:
            raise CorruptRecordException("a block of snappy has a length that it cannot have")
        size += cramjam.snappy.decompress_raw_len(packed[at : at + length])
        _check(size)
        at += length
    return bytes(codec.snappy_decode(packed))


def unlz4(packed: bytes) -> bytes:
    """Unpack LZ4."""
    if len(packed) * LZ4_RATIO <= _limit[0]:
        return bytes(cramjam.lz4.decompress(packed))
    return _into(cramjam.lz4.decompress_into, packed)


def unzstd(packed: bytes) -> bytes:
    """Unpack Zstandard, which packs any number of zeros into a few bytes."""
    return _into(cramjam.zstd.decompress_into, packed)


def _into(unpack: Callable[[bytes, bytearray], int], packed: bytes) -> bytes:
    """Unpack into a buffer that grows until it is large enough, or reaches the limit."""
    room = max(ROOM_BYTES, len(packed) * ROOM_RATIO)
    while True:
        buffer = bytearray(min(room, _limit[0]))
        try:
            size = unpack(packed, buffer)
        except cramjam.DecompressionError as error:
            if _FULL not in str(error):
                raise
            if len(buffer) == _limit[0]:
                raise _too_large() from None
            room *= ROOM_GROWTH
        else:
            return bytes(memoryview(buffer)[:size])


def _check(size: int) -> None:
    if size > _limit[0]:
        raise _too_large()


def _checked(unpacked: bytes) -> bytes:
    _check(len(unpacked))
    return unpacked


def _too_large() -> BatchTooLargeError:
    return BatchTooLargeError(f"it unpacks to more than {_limit[0]} bytes ({NAME})")


def _guarded(unpack: Callable[[bytes], bytes]) -> Callable[[bytes | memoryview], bytes]:
    """Wrap *unpack* so that its every failure is a CorruptRecordException."""

    def guarded(packed: bytes | memoryview) -> bytes:
        try:
            return unpack(bytes(packed))
        except (
            cramjam.DecompressionError,
            zlib.error,
            struct.error,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            raise CorruptRecordException(f"it cannot be unpacked: {error}") from None

    return guarded


for _parser in (default_records, legacy_records):
    _parser.gzip_decode = _guarded(ungzip)
    _parser.snappy_decode = _guarded(unsnap)
    _parser.lz4_decode = _guarded(unlz4)
default_records.zstd_decode = _guarded(unzstd)
