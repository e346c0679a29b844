"""Tests that state and records of version 0.1.0 are still read: an upgrade loses nothing."""

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from famulus.control.control_state import ControlState
from famulus.deadletter.dead_letter import parse_dead_letter
from famulus.deadletter.redelivery import parse_redelivery
from famulus.inspection.changelog_reader import Fold
from famulus.serialization.records import RecordCopy
from famulus.state.changelog import ATTEMPTS, PACK, PROCESSED, ROW, decode_processed, table_and_key
from famulus.state.identity import ChangelogPartition
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import Memory, Store

DATA = Path(__file__).resolve().parents[1] / "data" / "written-by-0.1.0"
EXPECTED = json.loads((DATA / "expected.json").read_text())
TOPIC = EXPECTED["names"]["topic"]


def records(name: str, topic: str = "t") -> list[RecordCopy]:
    """Read the records of a file, in their order."""

    def plain(text: str | None) -> Any:
        return None if text is None else base64.b64decode(text)

    lines = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return [
        RecordCopy(
            topic,
            0,
            line["offset"],
            line["timestamp"],
            plain(line["key"]),
            plain(line["value"]),
            [(name, plain(value)) for name, value in line["headers"]],
        )
        for line in lines
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Yield a copy of the store that version 0.1.0 wrote."""
    with tarfile.open(DATA / "store.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    store = Store(tmp_path / "store", Memory.of(4, 4))
    store.open()
    yield store
    store.close()


def shown(rows: dict[bytes, bytes]) -> dict[str, list[Any]]:
    """Return the values of *rows* by table."""
    found: dict[str, list[Any]] = {}
    for key, value in sorted(rows.items()):
        found.setdefault(table_and_key(key)[0], []).append(json.loads(value))
    return found


def wanted() -> dict[str, list[Any]]:
    """Return the expected values by table."""
    return {name: [row[-1] for row in rows] for name, rows in EXPECTED["rows"].items()}


def test_a_changelog_is_folded_into_its_rows() -> None:
    fold = Fold()
    for record in records("changelog"):
        fold.add(record)  # type: ignore[arg-type]  # a RecordCopy has the fields that are used
    assert shown(fold.rows) == wanted()
    assert (fold.strays, len(fold.marks), fold.epoch) == (0, 32, 1)
    assert fold.processed is not None
    assert decode_processed(fold.processed).next_offset == 33


def test_a_store_has_what_its_changelog_says(store: Store) -> None:
    fold = Fold()
    for record in records("changelog"):
        fold.add(record)  # type: ignore[arg-type]  # as above
    assert dict(store.items(ROW)) == fold.rows
    assert dict(store.items(PACK)) == fold.packs
    assert not list(store.items(ATTEMPTS))
    assert store.get(PROCESSED) == fold.processed
    assert store.position == records("changelog")[-1].offset
    assert store.home is not None
    assert (store.home.topic, store.home.partition) == (EXPECTED["names"]["state_topic"], 0)


def test_a_changelog_is_replayed_into_a_new_store(store: Store, tmp_path: Path) -> None:
    assert store.home is not None
    made = Store(tmp_path / "made", Memory.of(4, 4))
    made.open()
    replica = Replica(
        ChangelogPartition(store.home.cluster_id, store.home.topic, store.home.topic_id, 0),
        TOPIC,
        made,
    )
    read = records("changelog")
    replica.replay(read, read[-1].offset)  # type: ignore[arg-type]  # as above
    for kind in (ROW, PACK, ATTEMPTS):
        assert dict(made.items(kind)) == dict(store.items(kind))
    assert (made.get(PROCESSED), replica.stale) == (store.get(PROCESSED), 0)
    made.close()


def test_dead_letters_say_what_failed() -> None:
    """The error keeps the name that it had in that version."""
    [record] = records("dead-letters")
    letter = parse_dead_letter(record)
    assert (letter.id.origin.topic, letter.id.origin.offset, letter.cause.kind) == (
        TOPIC,
        31,
        "permanent",
    )
    assert letter.cause.error == "app.errors.PermanentError"
    assert json.loads(record.value or b"") == {"key": "bad", "number": 1, "note": "bad"}


def test_a_record_of_a_retry_topic_waits_on() -> None:
    [record] = records("retry")
    waiting = parse_redelivery(record)
    assert (waiting.topic, waiting.offset, waiting.action, waiting.stage) == (TOPIC, 32, "retry", 1)
    assert (waiting.attempts, waiting.handler) == (3, "agents.things.note")
    assert waiting.due_ms - waiting.first_ms > 3_600_000


def test_what_operators_said_still_counts() -> None:
    state = ControlState()
    record = records("admin")[-1]
    said = state.take(record.key, record.value)
    assert said.endswith("is paused since 2026-12-01T11:04:42Z by root@vm: for the data")
    assert "for the data" in state.pauses.why(TOPIC, 0)
