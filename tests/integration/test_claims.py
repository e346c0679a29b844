"""Large payloads on a real broker: 50 MB through a worker, what is wrong with them, a store that is away, the sweep."""

import asyncio
import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from famulus import Event
from famulus.config import ClaimCheckConfig, KafkaConfig
from famulus.deadletter.record import origin_of, our_headers, sender_headers
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.event_bus import EventBus
from famulus.producer.payload_store import PayloadStore
from famulus.producer.producer import Producer
from famulus.producer.results import PublishError
from famulus.serialization.claim_check import CLAIMED, is_claim_check
from famulus.serialization.records import ProducerRecord
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House, wait_for
from tests.support.on_kafka.things import Thing

MB = 2**20
LARGE = 50 * MB
EVENTS = 3
IN_HAND = 60 * MB
# Of the worker, beyond what it has without large events: one that is redeemed (its bytes, its
# text), what its handler publishes (the bytes, and their copy on the way to the disk), and what the
# allocator keeps. All at once would be more.
RSS_MAX = 250 * MB
# Of a note: the event is not larger than the threshold, its copy with the longer key is.
JUST_SMALL = 99_960
# Republishes what it gets, once, as an event as large.
COPYING = """
@handles(Thing)
async def note(thing: Thing, bus: front.EventBus) -> None:
    if thing.note == "fail":
        await bus.publish(Thing(key="never", note="x" * 1_000_000))
        raise front.PermanentError("no")
    count[thing.key] += len(thing.note)
    if thing.number == 0 and len(thing.note) > 1000:
        await bus.publish(Thing(key="copy of " + thing.key, number=1, note=thing.note))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store."""
    return tmp_path / "claims"


def claims(root: Path, **options: int) -> dict[str, str]:
    """The environment of a worker with this store."""
    named = {"MAXBYTES": 64 * MB, "INHANDBYTES": 64 * MB, "THRESHOLDBYTES": 100_000, **options}
    return {
        "CLAIMCHECK__STORE": str(root),
        **{f"CLAIMCHECK__{name}": str(value) for name, value in named.items()},
    }


def started(house: House, root: Path, **options: int) -> WorkerProcess:
    """A worker with this store."""
    settings: dict[str, Any] = claims(root, **options)  # Any: House.start has arguments of its own
    return house.start(**settings)


def store_of(root: Path) -> PayloadStore:
    """The same for this process."""
    return PayloadStore(ClaimCheckConfig(store=str(root), threshold_bytes=100_000))


def publish(kafka: KafkaConfig, root: Path, *events: Event) -> None:
    """Publish *events* as a script does."""

    async def run() -> None:
        async with Producer(kafka, store_of(root)) as producer:
            for event in events:
                await EventBus(producer).publish(event)

    asyncio.run(run())


def peak_bytes(worker: WorkerProcess) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{worker.pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_events_of_50_mb_go_through_a_worker_in_bounded_memory(house: House, root: Path) -> None:
    """Published by a script, redeemed, handled, published again by the handler, and redeemed again; each once."""
    house.build(COPYING)
    worker = started(house, root, INHANDBYTES=IN_HAND, MAXBYTES=IN_HAND)
    publish(house.kafka, root, Thing(key="small", note="x" * 10))
    house.wait_settled(1, worker)
    before = peak_bytes(worker)
    publish(
        house.kafka, root, *(Thing(key=f"k{number}", note="x" * LARGE) for number in range(EVENTS))
    )
    wait_for(lambda: len(worker.rows("count")) == 1 + 2 * EVENTS, 60)
    grown = peak_bytes(worker) - before
    print(f"grown by {grown / MB:.0f} MB")  # pytest -s shows it
    assert grown < RSS_MAX
    assert set(worker.rows("count").values()) == {10, LARGE}
    records = house.logged(topic=house.topic)
    assert [record.value == CLAIMED for record in records] == [False] + [True] * 2 * EVENTS
    assert {name for name, _ in records[1].headers} >= {
        "ce_id",
        "ce_type",
        "content-type",
        "famulus-claim-sha256",
    }
    assert len({path.name for path in (root / house.topic).iterdir()}) == 2 * EVENTS
    assert worker.stop() == 0


def test_what_cannot_be_redeemed_is_a_dead_letter_and_stops_nobody(
    house: House, root: Path
) -> None:
    """The small record, byte for byte, and why; with its blob back it is redriven as the event that it was."""
    house.build(COPYING)
    publish(house.kafka, root, Thing(key="lost", number=1, note="x" * 200_000))
    [blob] = (root / house.topic).iterdir()
    blob.rename(root / "kept")
    value = b'{"key":"forged","number":1,"note":""}'
    (root / house.topic / sha256(value).hexdigest()).write_bytes(value)

    def forged(
        reference: str, size: int = len(value), digest: str = sha256(value).hexdigest()
    ) -> ProducerRecord:
        ours = {"reference": reference, "size": str(size), "sha256": digest}
        headers = [(f"famulus-claim-{name}", text.encode()) for name, text in ours.items()]
        return ProducerRecord(
            house.topic, b"k", CLAIMED, [("ce_type", b"things.Thing"), *headers], 0
        )

    good = f"{house.topic}/{sha256(value).hexdigest()}"
    bad = [
        forged("../" + good),
        forged("/etc/passwd"),
        forged("http://127.0.0.1/" + good),
        forged("other/" + good[-64:]),
        forged(good, size=10),
        forged(good, size=10**12),
        forged(good, digest="0" * 64),
        ProducerRecord(house.topic, b"k", CLAIMED, (), 0),
    ]
    house.send(*bad, forged(good), house.thing("fails", note="fail"))
    worker = started(house, root)
    house.wait_settled(len(bad) + 3, worker)
    assert worker.rows("count") == {"forged": 0}
    letters = sorted(
        house.logged(topic=f"{house.topic}.dead-letter"),
        key=lambda letter: origin_of(letter.headers),
    )
    assert [(r.value, list(sender_headers(r.headers))) for r in letters[1:-1]] == [
        (record.value, list(record.headers)) for record in bad
    ]
    whys = [our_headers(record.headers) for record in letters]
    assert [why["famulus-failure"] for why in whys] == [b"poison"] * (1 + len(bad)) + [b"permanent"]
    says = [why["__streams.errors.message"].decode() for why in whys]
    assert "no such blob" in says[0]
    assert "MaxBytes" in says[6]
    assert all("passwd" not in text for text in says)
    assert is_claim_check(letters[0])
    # Its blob is there, for the sweep.
    assert not [r for r in house.logged(topic=house.topic) if r.key == b"never"]
    (root / "kept").rename(blob)
    settings = {**settings_of(house.kafka, house.folder / "data"), **claims(root)}
    origin = f"{house.topic}/0/0"
    code, output = faust("dlq", "redrive", origin, "--dry-run", cwd=house.checkout, **settings)
    assert (code, "200000" in output) == (0, True), output
    code, output = faust("dlq", "redrive", origin, "--yes", cwd=house.checkout, **settings)
    assert code == 0, output
    wait_for(lambda: worker.rows("count").get("lost") == 200_000)
    assert worker.stop() == 0


def test_a_store_that_is_away_is_waited_for(house: House, root: Path) -> None:
    """On both ways; small events go on meanwhile, no attempt counts, and nothing is a dead letter."""
    house.build(COPYING)
    root.mkdir()
    gone = root.with_name("gone")
    publish(house.kafka, root, Thing(key="in", number=1, note="x" * 200_000))
    root.rename(gone)
    root.write_text("a file where the folder should be")
    worker = started(house, root)
    house.send(house.thing("out", note="x" * JUST_SMALL), house.thing("small"))
    wait_for(lambda: worker.rows("count") == {"small": 0})
    wait_for(lambda: "is away" in str(worker.answer("/readyz")[1]["waiting"]))
    with pytest.raises(PublishError, match="was not sent"):
        publish(house.kafka, root, Thing(key="script", note="x" * 200_000))
    root.unlink()
    gone.rename(root)
    wait_for(
        lambda: (
            worker.rows("count")
            == {"small": 0, "in": 200_000, "out": JUST_SMALL, "copy of out": JUST_SMALL}
        )
    )
    outcomes = house.outcomes(worker)
    assert (outcomes["handled"], outcomes["retried"], outcomes["dead_lettered"]) == (4, 0, 0)
    assert worker.answer("/readyz") == (200, worker.answer("/readyz")[1])
    assert not worker.answer("/readyz")[1]["waiting"]
    assert worker.stop() == 0
    assert "Traceback" not in worker.log.read_text("utf-8", "replace")


def test_peek_shows_payloads(house: House, root: Path) -> None:
    """And why there is none: without the store, and when the blob is gone."""
    house.build()
    note = "x" * 2_000_000
    publish(house.kafka, root, Thing(key="k", note=note))
    settings = settings_of(house.kafka, house.folder / "asked")

    def peek(**more: str) -> dict[str, Any]:
        code, output = faust("peek", "things", "--json", cwd=house.checkout, **settings, **more)
        assert code == 0, output[-2_000:]
        return dict(json.loads(output))

    shown = peek(**claims(root))
    assert (shown["value"]["note"] == note, shown["fault"], shown["key"]) == (True, None, "k")
    assert "set ClaimCheck.Store" in peek()["fault"]
    [blob] = (root / house.topic).iterdir()
    blob.unlink()
    gone = peek(**claims(root))
    assert gone["value"] == "famulus-claim"
    assert "a claim check, its payload cannot be had: claim: there is no such blob" in gone["fault"]


def test_the_sweep_removes_what_no_record_can_need(
    kafka: KafkaConfig, root: Path, tmp_path: Path
) -> None:
    """By each topic's retention; a dry run removes nothing."""
    hour = 3600
    settings = {
        **settings_of(kafka, tmp_path / "data"),
        **claims(root),
        "CLAIMCHECK__SWEEPMARGINH": "1",
    }

    async def prepare() -> None:
        for name, kept_h in (
            ("a", 1),
            ("a.dead-letter", 2),
            ("a.g.redrive", 3),
            ("b", 1),
            ("log", -1),
        ):
            config = {"retention.ms": str(kept_h * hour * 1000 if kept_h > 0 else -1)}
            await create_topics(kafka, {kafka.topic(name): 1}, 30, config)
        await create_topics(kafka, {kafka.topic("c"): 1}, 30, {"cleanup.policy": "compact"})
        store = store_of(root)
        for topic in ("a", "b", "c", "log", "gone"):
            for age_h in (0, 1.9, 2.1, 6.9, 7.1, 1000):
                slim = await store.check_in(
                    ProducerRecord(kafka.topic(topic), None, b"%f" % age_h * 100_000)
                )
                blob = root / dict(slim.headers)["famulus-claim-reference"].decode()
                at = blob.stat().st_mtime - age_h * hour
                os.utime(blob, (at, at))

    asyncio.run(prepare())
    before = files(root)
    code, output = faust("claims", "list", **settings)
    assert code == 0, output
    assert output.count(kafka.topic_prefix) == 5
    code, output = faust("claims", "sweep", "--dry-run", **settings)
    assert (code, files(root)) == (0, before), output
    code, output = faust("claims", "sweep", **settings)
    assert code == 0, output
    left = {
        topic: len(list((root / kafka.topic(topic)).iterdir()))
        for topic in ("a", "b", "c", "log", "gone")
    }
    assert left == {"a": 4, "b": 2, "c": 6, "log": 6, "gone": 6}, output
    assert f"{kafka.topic('a')}: 2 payloads, 1,900,000 bytes removed; 4 stay" in output
    code, output = faust("claims", "sweep", "--topic", "gone", "--older-than", "24h", **settings)
    assert (code, len(list((root / kafka.topic("gone")).iterdir()))) == (0, 5), output


def files(root: Path) -> set[Path]:
    """What is in the store."""
    return set(root.rglob("*"))
