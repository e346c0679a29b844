"""Tests of the findings of `doctor`: one fault gives one finding, and a sound cluster none."""

from dataclasses import replace

import pytest

from famulus.kafka.diagnostics import (
    Family,
    Finding,
    Place,
    TopicFacts,
    about_files,
    about_keys,
    about_place,
    about_retired,
    about_times,
    about_topics,
)
from famulus.kafka.partitioner import consistent_random, murmur2

DAY_MS = 86_400_000
PLAIN = {
    "retention.ms": str(7 * DAY_MS),
    "cleanup.policy": "delete",
    "max.message.bytes": "1000000",
    "min.insync.replicas": "2",
}
FAMILY = Family("orders", "orders.dead-letter", ["orders.g.redrive"], "g-orders-state", 7 * DAY_MS)
SOURCE = TopicFacts(4, 3, PLAIN)
DEAD = TopicFacts(4, 3, {**PLAIN, "retention.ms": str(30 * DAY_MS), "max.message.bytes": "2000000"})
STATE = TopicFacts(4, 3, {**PLAIN, "cleanup.policy": "compact"})
WELL = {
    "orders": SOURCE,
    "orders.dead-letter": DEAD,
    "orders.g.redrive": TopicFacts(4, 3),
    "g-orders-state": STATE,
}
KEYS = [b"key-%d" % number for number in range(200)]
HERE = Place("data", is_writable=True, free_bytes=2**36, total_bytes=2**38)


def with_config(facts: TopicFacts, **configs: str) -> TopicFacts:
    """Return *facts* with some topic settings changed."""
    return replace(
        facts,
        configs={
            **facts.configs,
            **{name.replace("_", "."): value for name, value in configs.items()},
        },
    )


def names(found: list[Finding]) -> list[tuple[str, str]]:
    """Return severity and name of each finding; each must have all its texts."""
    assert all(finding.what and finding.cure and finding.subject for finding in found)
    return [(finding.severity, finding.check) for finding in found]


def test_nothing_is_wrong_with_topics_that_are_well() -> None:
    assert list(about_topics(FAMILY, WELL, brokers=3)) == []
    assert (
        list(about_topics(replace(FAMILY, state=None, dedupe_window_ms=None), WELL, brokers=3))
        == []
    )


@pytest.mark.parametrize(
    ("topic", "facts", "expected"),
    [
        ("orders", None, ("error", "topic-missing")),
        ("orders.dead-letter", None, ("error", "topic-missing")),
        ("orders.dead-letter", replace(DEAD, partitions=2), ("warning", "dead-letter-partitions")),
        (
            "orders.dead-letter",
            with_config(DEAD, retention_ms=str(DAY_MS)),
            ("warning", "dead-letter-retention"),
        ),
        (
            "orders.dead-letter",
            with_config(DEAD, cleanup_policy="compact,delete"),
            ("error", "dead-letter-compacted"),
        ),
        (
            "orders.dead-letter",
            with_config(DEAD, max_message_bytes="1000000"),
            ("warning", "dead-letter-size"),
        ),
        ("orders.g.redrive", TopicFacts(5, 3), ("error", "topic-back-partitions")),
        ("g-orders-state", replace(STATE, partitions=3), ("error", "state-partitions")),
        (
            "g-orders-state",
            with_config(STATE, cleanup_policy="delete"),
            ("error", "state-not-compacted"),
        ),
        (
            "orders",
            replace(SOURCE, copies=1, configs={**PLAIN, "min.insync.replicas": "1"}),
            ("warning", "one-copy"),
        ),
        ("orders", replace(SOURCE, copies=1), ("error", "in-sync")),
        ("orders", with_config(SOURCE, min_insync_replicas="1"), ("warning", "in-sync")),
    ],
)
def test_each_fault_of_a_topic_is_found(
    topic: str, facts: TopicFacts | None, expected: tuple[str, str]
) -> None:
    topics = {name: of for name, of in {**WELL, topic: facts}.items() if of is not None}
    assert names(list(about_topics(FAMILY, topics, brokers=3))) == [expected]


def test_a_topic_that_is_kept_longer_than_events_are_recognised() -> None:
    """A second read of the topic would handle its oldest events twice."""
    kept = {**WELL, "orders": with_config(SOURCE, retention_ms=str(8 * DAY_MS))}
    assert names(list(about_topics(FAMILY, kept, brokers=3))) == [("warning", "dedupe-window")]


def test_one_copy_is_well_on_one_broker() -> None:
    """A single broker, as on a laptop, cannot have more copies."""
    one = {
        name: TopicFacts(4, 1, {**of.configs, "min.insync.replicas": "1"})
        for name, of in WELL.items()
    }
    assert list(about_topics(FAMILY, one, brokers=1)) == []


def test_keys_that_another_partitioner_has_placed() -> None:
    """The finding names the partitioner if it is a known one."""
    java = [(key, murmur2(key, 4)) for key in KEYS]
    dotnet = [(key, consistent_random(key, 4) or 0) for key in KEYS]
    assert list(about_keys("orders", 4, java, "murmur2", murmur2)) == []
    assert list(about_keys("orders", 1, [(key, 0) for key in KEYS], "murmur2", murmur2)) == []
    # Too few keys to decide.
    assert list(about_keys("orders", 4, dotnet[:10], "murmur2", murmur2)) == []
    (finding,) = about_keys("orders", 4, dotnet, "murmur2", murmur2)
    assert (finding.check, finding.cure) == (
        "partitioner",
        "set Kafka.ProducerConfig.Partitioner to consistent_random",
    )
    (finding,) = about_keys("orders", 4, [(key, 3) for key in KEYS], "murmur2", murmur2)
    assert "no partitioner that is known" in finding.what


def test_times_ahead_of_the_clock() -> None:
    """A difference of up to a minute is allowed."""
    assert list(about_times("orders", [], 1_000_000)) == []
    assert list(about_times("orders", [1_000_000, 1_059_000], 1_000_000)) == []
    assert names(list(about_times("orders", [0, 1_061_000], 1_000_000))) == [("warning", "clock")]


def test_retry_topics_that_no_handler_sends_to() -> None:
    """Such topics are read until they are empty, and may then be deleted."""
    assert names(list(about_retired("orders.g.retry-3", 5))) == [("warning", "retry-topic-retired")]
    [unused] = about_retired("orders.g.retry-3", 0)
    assert (unused.check, unused.cure) == (
        "retry-topic-unused",
        "delete it while no worker of the group runs",
    )


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (HERE, []),
        (replace(HERE, is_writable=False), [("error", "data-folder")]),
        (replace(HERE, free_bytes=2**29), [("warning", "disk")]),
        (replace(HERE, free_bytes=2**32, total_bytes=2**40), [("warning", "disk")]),
    ],
)
def test_the_machine(place: Place, expected: list[tuple[str, str]]) -> None:
    """The folder must be writable and its disk must have space."""
    assert names(list(about_place(place))) == expected


def test_a_state_that_workers_grow_is_no_error() -> None:
    """The next worker that starts adds the missing partitions."""
    topics = WELL | {"g-orders-state": replace(STATE, partitions=3)}
    assert list(about_topics(replace(FAMILY, may_grow=True), topics, brokers=3)) == []


def test_too_few_files_for_all_partitions_are_found() -> None:
    """A worker raises its own limit as far as the hard limit."""
    assert list(about_files(200, 1_700, 65_536)) == []
    [finding] = about_files(200, 1_700, 1_024)
    assert (finding.severity, finding.check) == ("warning", "open-files")
    assert "1,700" in finding.what
    assert "1,024" in finding.what
