"""Tests of the choice of a partition: test vectors of other clients, and custom classes."""

import sys
from types import SimpleNamespace

import pytest

from famulus.config import ProducerConfig
from famulus.errors import ConfigError
from famulus.kafka.partitioner import chooser, consistent_random, murmur2, murmur2_hash

# Kafka: clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
# librdkafka: tests/0048-partitioner.c. CRC32 first, then murmur2 as Java's client has it, without
# the sign.
LONG = b"this is another string with more length to it perhaps"
LIBRDKAFKA = {
    b"23456": (0xB1B451D7, 0x058D780F),
    LONG: (0xB0150DF7, 0x4F7703DA),
    b"hejsan": (0xD077037E, 0x5EC19395),
}


class ByLength:
    """A custom partitioner."""

    def get_partition(self, key: bytes, partition_count: int) -> int:
        """Return a partition by the length of the key; two keys make it fail."""
        if key == b"raise":
            raise ValueError("the key is private")
        return -1 if key == b"outside" else len(key) % partition_count


class Nothing:
    """A class that is no partitioner."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the classes of this file importable under a name for a setting: tests are no package."""
    here = SimpleNamespace(ByLength=ByLength, Nothing=Nothing)
    monkeypatch.setitem(sys.modules, "house", here)


@pytest.mark.parametrize(("key", "signed"), JAVA.items())
def test_murmur2_is_java_s(key: bytes, signed: int) -> None:
    """The vectors are those of Kafka's own test."""
    assert murmur2_hash(key) == signed & 0xFFFFFFFF
    assert murmur2(key, 7) == (signed & 0x7FFFFFFF) % 7


@pytest.mark.parametrize("count", [1, 7, 17])
@pytest.mark.parametrize("key", LIBRDKAFKA)
def test_both_are_librdkafka_s(key: bytes, count: int) -> None:
    """The vectors are those of librdkafka's own test, with several numbers of partitions."""
    crc32, java = LIBRDKAFKA[key]
    assert (consistent_random(key, count), murmur2(key, count)) == (crc32 % count, java % count)


def test_an_empty_key_is_a_key_for_java_and_none_for_librdkafka() -> None:
    """The two partitioners differ in this and in the hash only."""
    assert murmur2(b"", 17) == 0x106E08D9 % 17
    assert consistent_random(b"", 17) is None


def test_a_custom_class_decides() -> None:
    """The setting names the class, which gets the key and the number of partitions."""
    assert chooser("house.ByLength")(b"four", 3) == 1


@pytest.mark.parametrize(
    ("key", "says"),
    [(b"raise", "raised ValueError for a key"), (b"outside", "gave -1 for a key and 3 partitions")],
)
def test_what_a_custom_class_does_wrong_is_said_without_the_key(key: bytes, says: str) -> None:
    """Keys may be private data."""
    with pytest.raises(ConfigError, match=says) as caught:
        chooser("house.ByLength")(key, 3)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.at.All", "nowhere.at.All cannot be made: ModuleNotFoundError"),
        ("house.Absent", "cannot be made: AttributeError"),
        ("house.Nothing", "has no method get_partition"),
    ],
)
def test_a_class_that_is_not_there_is_one_line(name: str, says: str) -> None:
    """The error names the class that the setting has."""
    with pytest.raises(ConfigError, match=says):
        chooser(name)


@pytest.mark.parametrize(
    ("name", "choose"),
    [("murmur2", murmur2), ("murmur2_random", murmur2), ("ConsistentRandom", consistent_random)],
)
def test_the_names_of_other_clients_are_known(name: str, choose: object) -> None:
    """The names are those of librdkafka and of its .NET client."""
    assert chooser(ProducerConfig(partitioner=name).partitioner) is choose
