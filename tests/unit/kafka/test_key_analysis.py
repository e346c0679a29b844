"""Tests of the verdict on a choice of keys: good, bad, pointless and unclear."""

import json
from collections.abc import Sequence
from uuid import UUID

import pytest

from famulus.cli.keys import starts_of
from famulus.kafka.key_analysis import KeyStudy, Report, Tally, key_of
from famulus.kafka.partitioner import murmur2

PARTITIONS = 4


def judged(keys: Sequence[bytes | None], partitions: int = PARTITIONS) -> Report:
    """Return the report on events with *keys*."""
    tally = Tally("key", partitions, murmur2)
    for key in keys:
        tally.note(key)
    return tally.report()


@pytest.mark.parametrize(
    ("keys", "verdict", "says"),
    [
        ([b"customer-%d" % (n % 200) for n in range(2_000)], "good", "come again, evenly"),
        ([b"orders"] * 100, "bad", "one key"),
        (
            [str(UUID(int=n)).encode() for n in range(1_000)],
            "pointless",
            "comes once in this sample",
        ),
        ([b"hot"] * 500 + [b"%d" % (n % 100) for n in range(500)], "bad", "a hot key: 50%"),
        ([b"DE", b"AT", b"CH", b"FR", b"IT", b"PL"] * 50, "bad", "few keys for 4 partitions"),
        ([None] * 60 + [b"a"] * 59, "pointless", "no such key"),
        ([b"a"] * 10, "unclear", "only 10 events"),
    ],
)
def test_each_kind_of_key_is_told(keys: list[bytes | None], verdict: str, says: str) -> None:
    """The report has a verdict and its reason."""
    report = judged(keys)
    assert report.verdict == verdict
    assert says in report.why


def test_the_figures() -> None:
    """The skew is the fullest partition divided by the mean."""
    report = judged([b"a"] * 60 + [b"b"] * 40 + [None] * 7, 2)
    a, b = murmur2(b"a", 2), murmur2(b"b", 2)
    expected = [0, 0]
    expected[a] += 60
    expected[b] += 40
    assert (report.events, report.missing, report.keys, report.largest) == (100, 7, 2, 0.6)
    assert list(report.partitions) == expected
    assert report.skew == max(expected) / 50


def test_one_partition_has_no_hot_key() -> None:
    """Other keys would not make a single partition any faster."""
    assert judged([b"hot"] * 60 + [b"%d" % (n % 9) for n in range(60)], 1).verdict == "good"


def test_fields_are_compared_with_the_present_key() -> None:
    """All plain fields of the events are candidates.

    A field that appears late counts as missing in the events before it.
    """
    study = KeyStudy(PARTITIONS, murmur2)
    for number in range(1_000):
        event = {
            "order_id": number,
            "customer_id": f"c{number % 100}",
            "amount": 1.5,
            "paid": True,
            "lines": [1],
        }
        study.note(b"orders", 3, event if number < 900 else {**event, "late": f"l{number % 9}"})
    study.note(None, 0, None)
    study.note(b"orders", 3, [1])
    present, *fields = study.reports()
    assert (present.verdict, present.partitions, present.missing) == ("bad", (0, 0, 0, 1001), 1)
    assert [(of.key, of.verdict) for of in fields[:1]] == [("customer_id", "good")]
    assert {of.key: of.missing for of in fields} == {"customer_id": 2, "order_id": 2, "late": 902}


def test_only_the_fields_asked_for() -> None:
    """A field that no event has is reported too."""
    study = KeyStudy(PARTITIONS, murmur2, ["absent"])
    for _ in range(100):
        study.note(b"k", 0, {"order_id": 1})
    [_, absent] = study.reports()
    assert (absent.key, absent.missing, absent.verdict) == ("absent", 100, "pointless")


def test_no_key_is_quoted() -> None:
    """Keys may be private data."""
    assert "secret" not in json.dumps(judged([b"secret"] * 100).as_json())


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("x", b"x"),
        (7, b"7"),
        ("\ud800", b"\xed\xa0\x80"),
        (None, None),
        (True, None),
        (1.5, None),
        ({}, None),
    ],
)
def test_what_a_field_would_be_as_a_key(value: object, key: bytes | None) -> None:
    """The key is the text that the producer writes; floats and booleans are no keys."""
    assert key_of(value) == key


def test_a_sample_has_the_same_part_of_each_partition() -> None:
    """Otherwise a full partition would look like the others."""
    assert starts_of([1_000, 0, 3_000], 400) == [900, 0, 2_700]
    assert starts_of([10, 5], 100) == [0, 0]
