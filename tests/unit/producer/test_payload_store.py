"""Tests of the payload store: folder and bucket, their faults, and the limit of memory."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from famulus.cli.claims import kept_of
from famulus.config import ClaimCheckConfig
from famulus.deadletter.topics import is_way_of
from famulus.errors import ClaimError, ClaimStoreError, ClaimTooLargeError
from famulus.processing.payload_redeeming import MemoryLimit
from famulus.producer.payload_store import PayloadStore
from famulus.serialization.records import ProducerRecord, RecordCopy

LARGE = b'{"note":"%s"}' % (b"x" * 3_000_000)
RECORD = ProducerRecord("t", b"k", LARGE, [("ce_id", b"1")])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of a folder that does not exist yet."""
    return tmp_path / "claims"


def store_of(store: object, **options: Any) -> PayloadStore:
    """Return a store for payloads of more than 100 bytes."""
    return PayloadStore(ClaimCheckConfig(store=str(store), threshold_bytes=100, **options))


def arrived(record: ProducerRecord) -> Any:
    """Return the record as a consumer reads it."""
    return RecordCopy(record.topic, 0, 0, 0, record.key, record.value, record.headers)


async def test_a_payload_goes_in_and_comes_out(root: Path) -> None:
    """A second write of equal bytes renews the time of the blob.

    Small payloads and tombstones stay in their records.
    """
    store = store_of(root)
    slim = await store.check_in(RECORD)
    [blob] = await store.blobs()
    assert blob.reference == f"t/{sha256(LARGE).hexdigest()}"
    assert (root / blob.reference).read_bytes() == LARGE
    assert root.stat().st_mode & 0o077 == 0
    os.utime(root / blob.reference, (1, 1))
    assert await store.check_in(RECORD) == slim
    [again] = await store.blobs()
    assert (again.reference, again.size, again.written >= blob.written) == (
        blob.reference,
        len(LARGE),
        True,
    )
    found = await store.redeem(arrived(slim))
    assert (found.value, found.headers, found.key) == (LARGE, slim.headers, b"k")
    for small in (replace(RECORD, value=b"x" * 100), replace(RECORD, value=None)):
        assert await store.check_in(small) is small
    assert await store_of(f"file://{root}").redeem(arrived(slim)) == found


async def test_nothing_is_checked_in_or_redeemed_without_a_store() -> None:
    """No store is the default."""
    store = PayloadStore(ClaimCheckConfig())
    assert await store.check_in(RECORD) is RECORD
    with pytest.raises(ClaimError, match="there is no store"):
        await store.redeem(arrived(RECORD))


async def test_what_is_larger_than_the_limit_is_refused(root: Path) -> None:
    """A blob that is too large is refused before any of it is read."""
    slim = await store_of(root).check_in(RECORD)
    small = store_of(root, max_bytes=1000)
    with pytest.raises(ClaimTooLargeError, match="MaxBytes is 1000"):
        await small.check_in(RECORD)
    with pytest.raises(ClaimError, match="MaxBytes is 1000"):
        await small.redeem(arrived(slim))


def outside(root: Path, blob: Path) -> None:
    """Replace the blob by a link to equal bytes elsewhere."""
    shutil.move(blob, root.parent / "elsewhere")
    blob.symlink_to(root.parent / "elsewhere")


def folder_outside(root: Path, blob: Path) -> None:
    """Replace the folder of the blob by a link."""
    shutil.move(blob.parent, root.parent / "elsewhere")
    blob.parent.symlink_to(root.parent / "elsewhere")


def pipe(root: Path, blob: Path) -> None:
    """Replace the blob by a named pipe without a writer."""
    blob.unlink()
    os.mkfifo(blob)


SPOILT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda _, blob: blob.unlink(), "no such blob"),
    "shorter": (lambda _, blob: os.truncate(blob, 10), "has 10 bytes, the record says"),
    "longer": (lambda _, blob: blob.write_bytes(LARGE + b"x"), "bytes, the record says"),
    "other bytes": (
        lambda _, blob: blob.write_bytes(LARGE[:-1] + b"y"),
        "does not have the digest",
    ),
    "a link": (outside, "symbolic link"),
    "a folder that is a link": (folder_outside, "symbolic link"),
    "a pipe": (pipe, "no plain file"),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_a_blob_that_is_not_what_was_claimed_is_refused(root: Path, name: str) -> None:
    """The event is at fault, not the store."""
    spoil, says = SPOILT[name]
    store = store_of(root)
    slim = await store.check_in(RECORD)
    [blob] = await store.blobs()
    spoil(root, root / blob.reference)
    with pytest.raises(ClaimError, match=says):
        await store.redeem(arrived(slim))
    assert not store.away


async def test_a_folder_that_is_away_comes_back(root: Path) -> None:
    """A missing folder differs from a missing blob: the store is unavailable."""
    store = store_of(root)
    slim = await store.check_in(RECORD)
    root.rename(root.with_name("gone"))
    for call in (store.redeem(arrived(slim)), store.blobs()):
        with pytest.raises(ClaimStoreError):
            await call
        assert "is away: the folder" in store.away
    root.with_name("gone").rename(root)
    assert (await store.redeem(arrived(slim))).value == LARGE
    assert not store.away


async def test_nothing_is_written_through_a_link(root: Path) -> None:
    """The folder of a topic must be one of the worker's own."""
    (root.parent / "elsewhere").mkdir()
    root.mkdir()
    (root / "t").symlink_to(root.parent / "elsewhere")
    with pytest.raises(ClaimStoreError, match="symbolic link"):
        await store_of(root).check_in(RECORD)
    assert not list((root.parent / "elsewhere").iterdir())


async def test_others_may_not_read_what_is_checked_in(root: Path) -> None:
    """A blob stays private also if the root and the folder of the topic are open to others."""
    (root / "t").mkdir(parents=True)
    for folder in (root, root / "t"):
        folder.chmod(0o755)
    await store_of(root).check_in(ProducerRecord("t", b"k", b"x" * 2_000_000))
    [blob] = (root / "t").iterdir()
    assert [path.stat().st_mode & 0o777 for path in (root / "t", blob)] == [
        0o750,
        blob.stat().st_mode & 0o770,
    ]
    # The root belongs to the operator and keeps its mode.
    assert root.stat().st_mode & 0o777 == 0o755


async def test_only_what_nobody_wrote_again_is_removed(root: Path) -> None:
    """A listed blob may have been written again since then; foreign files are not listed."""
    store = store_of(root)
    await store.check_in(RECORD)
    await store.check_in(replace(RECORD, value=LARGE + b" "))
    (root / "t" / "notes.txt").write_text("mine")
    (root / "t" / "sub").mkdir()
    (root / "t" / "sub" / ("a" * 64)).write_text("mine")
    listed = await store.blobs()
    assert len(listed) == 2
    os.utime(root / listed[0].reference, (5, 5))
    assert await store.remove(listed) == listed[1:]
    assert await store.remove(listed[1:]) == []
    assert [blob.reference for blob in await store.blobs()] == [listed[0].reference]
    assert (root / "t" / "notes.txt").exists()


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that these tests need."""

    blobs: dict[str, bytes]
    is_away = False
    protocol_version = "HTTP/1.1"

    def _answer(self, code: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:  # the base class requires this name
        """Store a blob."""
        self.blobs[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_GET(self) -> None:
        """Return a blob, or list all."""
        url = urlsplit(self.path)
        if self.is_away:
            self._answer(503)
        elif "list-type" in parse_qs(url.query):
            name = "".join(
                f"<Contents><Key>{path.removeprefix('/bucket/')}</Key><Size>{len(value)}</Size>"
                f"<LastModified>1970-01-01T00:00:00Z</LastModified><ETag>1</ETag></Contents>"
                for path, value in self.blobs.items()
            )
            self._answer(200, f"<ListBucketResult>{name}</ListBucketResult>".encode())
        elif url.path in self.blobs:
            self._answer(200, self.blobs[url.path])
        else:
            self._answer(404)

    def do_HEAD(self) -> None:
        """Return the size of a blob."""
        value = self.blobs.get(self.path)
        self._answer(404) if value is None else self._answer(200, length=len(value))

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """Yield a bucket, and set the environment variables that lead to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Bucket,), {"blobs": {}}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "here",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    server.server_close()


async def test_a_bucket_does_what_a_folder_does(bucket: ThreadingHTTPServer) -> None:
    """A missing blob is no outage; a server that does not answer is one."""
    store = store_of("s3://bucket/large", timeout_s=5)
    slim = await store.check_in(RECORD)
    [blob] = await store.blobs()
    assert (blob.topic, blob.size) == ("t", len(LARGE))
    assert (await store.redeem(arrived(slim))).value == LARGE
    blobs: dict[str, bytes] = bucket.RequestHandlerClass.blobs  # type: ignore[attr-defined]
    [path] = blobs
    assert path == f"/bucket/large/{blob.reference}"
    blobs[path] = LARGE[:-1] + b"y"
    with pytest.raises(ClaimError, match="digest"):
        await store.redeem(arrived(slim))
    del blobs[path]
    with pytest.raises(ClaimError, match="no such blob"):
        await store.redeem(arrived(slim))
    bucket.RequestHandlerClass.is_away = True  # type: ignore[attr-defined]
    began = time.monotonic()
    with pytest.raises(ClaimStoreError):
        await store.redeem(arrived(slim))
    assert time.monotonic() - began < 8
    assert "s3://bucket/large, is away" in store.away
    assert "secret" not in store.away


async def test_room_is_given_in_the_order_of_coming() -> None:
    """Small requests do not overtake a large one forever; a cancelled one frees its place."""
    room = MemoryLimit(10)
    got: list[str] = []

    async def come(name: str, size: int) -> None:
        await room.take(size)
        got.append(name)

    await come("a", 6)
    tasks = [
        asyncio.create_task(come(name, size))
        for name, size in (("b", 8), ("c", 3), ("d", 4), ("e", 4))
    ]
    await asyncio.sleep(0)
    assert got == ["a"]
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert got == ["a", "c"]
    room.give(6)
    tasks[2].cancel()  # it has been granted the memory, but has not run yet
    await asyncio.sleep(0.01)
    assert got == ["a", "c", "e"]
    room.give(3)
    room.give(4)
    assert room.left == 10


@pytest.mark.parametrize(
    "settings",
    [
        {"store": "http://127.0.0.1/x"},
        {"store": "ftp://x"},
        {"store": "s3://"},
        {"threshold_bytes": 5},
        {"in_hand_bytes": 10, "max_bytes": 11},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClaimCheckConfig(**settings)


def test_blobs_are_kept_for_as_long_as_a_record_may_need_them() -> None:
    """The retention of the topic, its dead letters and its redrive topic add up with the margin.

    If one of them is unlimited, blobs are kept forever.
    """
    day = 86_400.0
    there = {
        "t": 7 * day,
        "t.dead-letter": 30 * day,
        "t.g.dead-letter": 10 * day,
        "t.g.redrive": 30 * day,
        "t.g.retry-1": day,
        "other": day,
    }
    assert kept_of("t", there, day).seconds == 68 * day
    assert kept_of("other", there, day).seconds == 2 * day
    assert kept_of("t", {**there, "t.dead-letter": float("inf")}, day).seconds == float("inf")
    assert kept_of("gone", there, day).seconds == float("inf")
    assert [
        is_way_of("t", name)
        for name in ("t", "t2.dead-letter", "t.x", "t.g.retry-x", "t.g.retry-2")
    ] == [
        False,
        False,
        False,
        False,
        True,
    ]
