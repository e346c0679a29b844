"""Properties of partitioners: any key has one partition of the topic."""

from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from famulus.kafka.partitioner import BUILT_IN, murmur2_hash

keys = st.binary(max_size=100)
counts = st.integers(1, 10_000)


@given(key=keys)
def test_murmur2_is_that_of_aiokafka(key: bytes) -> None:
    """The implementation of aiokafka works byte by byte, this one word by word."""
    assert murmur2_hash(key) == murmur2_of_aiokafka(key)


@given(key=keys, count=counts, name=st.sampled_from(sorted(BUILT_IN)))
def test_a_partition_of_the_topic_and_always_the_same(key: bytes, count: int, name: str) -> None:
    """None means any partition, and is only for an empty key."""
    found = BUILT_IN[name](key, count)
    assert found == BUILT_IN[name](key, count)
    assert found in range(count) if found is not None else not key
