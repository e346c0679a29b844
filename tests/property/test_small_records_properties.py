"""Properties of the quick size check: a large record is never taken for a small one."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from famulus.config import KafkaConfig, ProducerConfig
from famulus.producer.connection import size_of
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

LIMIT = 1024
PRODUCER = Producer(KafkaConfig(producer_config=ProducerConfig(max_request_size=LIMIT)))
texts = st.none() | st.integers(0, 1_200).map(bytes)


@given(
    key=texts,
    value=texts,
    headers=st.lists(st.tuples(st.text(max_size=30), st.binary(max_size=200)), max_size=30),
)
def test_what_is_called_small_is_small(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    """The limit applies to aiokafka's own estimate."""
    record = ProducerRecord("t", key, value, headers)
    assert not PRODUCER.is_small(record) or size_of(key, value, headers) <= LIMIT


def test_a_record_that_is_made_of_another_is_measured_anew() -> None:
    """The remembered size belongs to one record only."""
    small = ProducerRecord("t", b"k", b"v")
    assert PRODUCER.is_small(small)
    large = replace(small, value=bytes(2 * LIMIT))
    assert (small.size > 0, large.size) == (True, 0)
    assert not PRODUCER.is_small(large)
