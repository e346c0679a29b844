"""Stores and changelogs that are damaged or gone, on a real Kafka: noticed, said, and made again where it can be."""

import random
from pathlib import Path
from urllib.error import HTTPError

import pytest
from aiokafka.admin import NewPartitions

from tests.integration.test_state_start import refused
from tests.support.on_kafka.house import COUNTING, LIMIT_S, House

NOTES = COUNTING + "    notes[thing.key] = (notes.get(thing.key) or thing.note) and thing.note\n"
NOTES = NOTES.replace(
    "\n@handles", '\nnotes = things.Table("notes", key=str, value=str)\n\n\n@handles', 1
)


def flip(file: Path, at: int) -> None:
    """Turn some bytes of a file into others."""
    data = bytearray(file.read_bytes())
    for offset in range(at, at + 8):
        data[offset] ^= 0xFF
    file.write_bytes(data)


def test_a_damaged_store_is_put_aside_and_rebuilt(house: House) -> None:
    """A MANIFEST cut short, a file of rows that is missing, flipped bytes: noticed when the store is opened.

    RocksDB forgives a MANIFEST that lacks its last words: the store is an older one then, and the
    log goes on from it.
    """
    house.build(partitions=4)
    worker = house.start()
    events = [
        house.thing(f"key-{number % 12}", number, partition=number % 4) for number in range(60)
    ]
    house.send(*events)
    house.wait_settled(60, worker)
    rows = worker.rows("count")
    assert worker.stop() == 0
    for partition, size in (0, 10), (3, -40):
        [manifest] = house.store(partition).glob("MANIFEST-*")
        manifest.write_bytes(manifest.read_bytes()[:size])
    for file in house.store(1).glob("*.sst"):
        file.unlink()
    for file in house.store(2).glob("*.sst"):
        flip(file, 20)
    assert list(house.store(2).glob("*.sst")), "nothing was damaged"

    worker = house.start()
    assert worker.rows("count") == rows
    text = worker.log.read_text("utf-8", "replace")
    for partition in range(3):
        [aside] = house.store(partition).parent.glob(f"{partition}.damaged-*")
        assert f"kept_at={aside}" in text
    assert text.count("damaged state was put aside and is rebuilt from the changelog") == 3
    house.send(*events[:12])
    house.wait_settled(72, worker)
    assert worker.rows("count") == rows
    assert house.outcomes(worker)["duplicate"] == 12


def test_damage_that_shows_later_ends_the_worker_and_the_next_one_rebuilds(house: House) -> None:
    """Bytes of some rows are not what was written: no handler is given them, no page shows a part of the table."""
    house.build(NOTES)
    worker = house.start()
    notes = {f"key-{number:03}": random.randbytes(400).hex() for number in range(400)}
    house.send(*(house.thing(key, 0, note) for key, note in notes.items()))
    house.wait_settled(400, worker)
    assert worker.rows("notes") == notes
    assert worker.stop() == 0
    [file] = [file for file in house.store().glob("*.sst") if file.stat().st_size > 100_000]
    flip(file, file.stat().st_size * 3 // 4)

    worker = house.start()
    with pytest.raises(HTTPError, match="500"):
        worker.get("/tables/notes/?limit=1000")
    house.send(*(house.thing(key, 1, note) for key, note in notes.items()))
    assert worker.wait_exit(LIMIT_S) == 70
    assert "is damaged" in worker.log.read_text().splitlines()[-1]
    worker = house.start()
    house.wait_settled(800, worker)
    assert "damaged state was put aside" in worker.log.read_text()
    assert worker.rows("notes") == notes
    assert set(worker.rows("count").values()) == {2}


def test_another_number_of_partitions_is_refused(house: House) -> None:
    """Keys would look for their rows in other partitions than they are in."""
    house.build(partitions=2)
    assert house.start().stop() == 0
    house.admin(lambda admin: admin.create_partitions({house.topic: NewPartitions(total_count=3)}))
    line = refused(house.start(ready=0))
    assert (
        f"the source of {house.state_topic} has 3 partitions, the state 2: the number was changed"
        in line
    )
