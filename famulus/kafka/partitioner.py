"""Partitioners: the partition of a record by its key and the topic's partition count. Pure.

All writers of a topic must agree on it, else records of one key are in several partitions and lose
their order. Java's clients, aiokafka and Faust use murmur2; librdkafka, the base of the .NET, Go
and C clients, uses CRC32 unless configured otherwise. For records without a key the producer
decides.
"""

import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from struct import unpack_from
from typing import Protocol
from zlib import crc32

from famulus.errors import ConfigError

# Key and number of partitions -> partition; None means any partition.
Choose = Callable[[bytes, int], int | None]
SETTING = "Kafka.ProducerConfig.Partitioner"
# Size of the cache of keys. Most keys repeat, and the hash takes longer than a send.
KEYS = 16_384
_WORD = 0xFFFFFFFF
_SEED, _MIX = 0x9747B28C, 0x5BD1E995


class Partitioner(Protocol):
    """Protocol of a class that `Kafka.ProducerConfig.Partitioner` names, made without arguments.

    The same key and count must give the same number in every process and every release. Python's
    `hash` of a text does not: it differs between processes.
    """

    def get_partition(self, key: bytes, partition_count: int) -> int:
        """Return a number from 0 to *partition_count* - 1; called only for records with a key."""


@lru_cache(maxsize=KEYS)
def murmur2(key: bytes, partitions: int) -> int:
    """Return the partition as Java's clients do by default (`murmur2_random` in librdkafka)."""
    return (murmur2_hash(key) & 0x7FFFFFFF) % partitions


def consistent_random(key: bytes, partitions: int) -> int | None:
    """Return the partition as librdkafka does by default.

    None for an empty key, which counts as none there: any partition may be used.
    """
    return crc32(key) % partitions if key else None


def chooser(name: str) -> Choose:
    """Return the partition function for the setting *name*.

    The name is that of a built-in function, or the dotted name of a class. Raises ConfigError when
    there is no such class. The function checks each result of a class: it raises ConfigError when
    the class raises, or returns no partition.
    """
    return BUILT_IN.get(name) or _custom(name)


BUILT_IN: dict[str, Choose] = {"murmur2": murmur2, "consistent_random": consistent_random}


@cache
def _custom(name: str) -> Choose:
    module, _, attribute = name.rpartition(".")
    try:
        partitioner: Partitioner = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise ConfigError(
            f"{SETTING} {name} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(partitioner, "get_partition", None)):
        raise ConfigError(f"{SETTING} {name} has no method get_partition(key, partition_count)")

    def choose(key: bytes, partitions: int) -> int:
        try:
            found = partitioner.get_partition(key, partitions)
        except Exception as error:
            raise ConfigError(
                f"{SETTING} {name} raised {type(error).__name__} for a key"
            ) from error
        if type(found) is not int or not 0 <= found < partitions:
            raise ConfigError(
                f"{SETTING} {name} gave {found!r} for a key and {partitions} partitions"
            )
        return found

    return choose


def murmur2_hash(key: bytes) -> int:
    """Return Kafka's MurmurHash2 (`org.apache.kafka.common.utils.Utils.murmur2`), unsigned."""
    length = len(key)
    mixed = _SEED ^ length
    whole = length & ~3
    for word in unpack_from(f"<{length // 4}I", key):
        word = word * _MIX & _WORD  # noqa: PLW2901  # a name for each step would explain no more
        mixed = (mixed * _MIX ^ (word ^ word >> 24) * _MIX) & _WORD
    if rest := key[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _MIX & _WORD
    mixed = (mixed ^ mixed >> 13) * _MIX & _WORD
    return mixed ^ mixed >> 15
