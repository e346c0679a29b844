"""The store of payloads that are too large for Kafka: a local folder, or a bucket, through one interface.

A blob is durable before its record is sent. Requests run in threads of their own: none blocks the
event loop, and the store's own asynchronous calls abort the process now and then when they have
just ended and it exits (its runtime still holds on to the interpreter, see PyO3/pyo3-async-runtimes
#40).
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from famulus.config import ClaimCheckConfig
from famulus.errors import ClaimError, ClaimStoreError, ClaimTooLargeError, ConfigError
from famulus.formatting import starred
from famulus.serialization.claim_check import (
    PayloadClaim,
    Receipt,
    checked_in,
    claim_for,
    claim_of,
    is_reference,
    redeemed,
)
from famulus.serialization.records import ConsumerRecord, ProducerRecord, RecordCopy

log = structlog.get_logger()
T = TypeVar("T")
THREADS = 4
PIECE_BYTES = 2**20
RETRIES = 2  # of one request, by the store's client
LISTED = 1_000  # blobs at once


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob in the store."""

    topic: str
    reference: str
    size: int
    written: datetime


class PayloadStore:
    """Where payloads are checked in and redeemed.

    Without `ClaimCheck.Store` there is none, and nothing goes there.
    """

    def __init__(self, config: ClaimCheckConfig) -> None:
        self.config = config
        self.away = ""  # why, in words, while it is
        scheme, separator, rest = config.store.partition("://")
        is_local = bool(config.store) and (not separator or scheme == "file")
        self._root = Path(rest if separator else config.store).absolute() if is_local else None
        self._store: Any = None  # Any: one of many classes
        self._threads: ThreadPoolExecutor | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is a store by the settings."""
        return bool(self.config.store)

    # The way out.

    def wants(self, record: ProducerRecord) -> bool:
        """Whether *record* is to leave without its value."""
        threshold = self.config.threshold_bytes
        return bool(threshold) and record.value is not None and len(record.value) > threshold

    async def check_in(self, record: ProducerRecord) -> ProducerRecord:
        """Put the value of *record* into the store, if it is large, and return what is to leave: it is durable then.

        Raises ClaimTooLargeError, and ClaimStoreError when the store is away.
        """
        value = record.value
        if value is None or not self.wants(record):
            return record
        if len(value) > self.config.max_bytes:
            raise ClaimTooLargeError(
                f"an event of {len(value)} bytes, ClaimCheck.MaxBytes is {self.config.max_bytes}"
            )
        return checked_in(record, await self._run(lambda: self._put(record.topic, value)))

    def _put(self, topic: str, value: bytes) -> PayloadClaim:
        claim = claim_for(topic, value)
        if self._root is not None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = self._root / topic
            if folder.is_symlink():
                raise ClaimStoreError(f"{folder} is a symbolic link")
            folder.mkdir(mode=0o770, exist_ok=True)
            _close_to_others(folder)
        # Over an earlier one as well, which would be swept before this record is.
        obstore.put(self._opened(), claim.reference, value)
        if self._root is not None:
            blob = self._root / claim.reference
            _close_to_others(blob)  # as others cannot enter its folder, it was so before
            for path in (blob, blob.parent, self._root):
                _sync(path)
        return claim

    # The way in.

    async def redeem(self, record: ConsumerRecord) -> RecordCopy:
        """*record*, a claim check, with its payload.

        Raises ClaimError when that cannot be had, ClaimStoreError when the store is away.
        """
        claim = self.claim_of(record)
        return redeemed(record, await self.payload(claim))

    def claim_of(self, record: ConsumerRecord) -> PayloadClaim:
        """What *record* stands for, by its headers. Raises ClaimError."""
        if not self.is_there:
            raise ClaimError(
                "there is no store: set ClaimCheck.Store to that of whoever published it"
            )
        return claim_of(record, self.config.max_bytes)

    async def payload(self, claim: PayloadClaim) -> bytes:
        """What was claimed. Raises as `redeem` does."""
        return await self._run(lambda: self._get(claim))

    def _get(self, claim: PayloadClaim) -> bytes:
        self._check_inside(claim)
        try:
            found = obstore.get(self._opened(), claim.reference)
        except (FileNotFoundError, NotFoundError):
            self._check_there(claim.topic)
            raise ClaimError("there is no such blob in the store: was it swept?") from None
        if found.meta["size"] != claim.size:
            raise ClaimError(
                f"the blob has {found.meta['size']} bytes, the record says {claim.size}"
            )
        receipt = Receipt(claim)
        for piece in found.stream(min_chunk_size=PIECE_BYTES):
            receipt.add(memoryview(piece))
        return receipt.payload()

    def _check_inside(self, claim: PayloadClaim) -> None:
        """Raise ClaimError when a local blob is no plain file in a plain folder: a link could lead out of the root."""
        if self._root is None:
            return
        folder, blob = self._root / claim.topic, self._root / claim.reference
        for path, is_plain in ((folder, stat.S_ISDIR), (blob, stat.S_ISREG)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                return  # which is found out again
            if not is_plain(mode):
                raise ClaimError("the blob, or its folder, is a symbolic link or no plain file")

    def _check_there(self, topic: str) -> None:
        """A blob is missing: is all of the store? Raises what says that it is."""
        if self._root is not None and not self._root.is_dir():
            raise ClaimStoreError(f"the folder {self._root} is not there")
        for _ in obstore.list(self._opened(), topic, chunk_size=1):
            break

    # The sweep.

    async def blobs(self) -> list[Blob]:
        """Every blob of ours. Raises ClaimStoreError."""
        return await self._run(lambda: list(self._blobs()))

    def _blobs(self) -> Iterator[Blob]:
        if self._root is not None and not self._root.is_dir():
            raise ClaimStoreError(f"the folder {self._root} is not there")
        for found in obstore.list(self._opened(), chunk_size=LISTED):
            for meta in found:
                if is_reference(meta["path"]):
                    topic = meta["path"].partition("/")[0]
                    yield Blob(topic, meta["path"], meta["size"], meta["last_modified"])

    async def remove(self, blobs: Sequence[Blob]) -> list[Blob]:
        """Remove those of *blobs* that nobody has written again since they were listed; return them."""
        return await self._run(lambda: [blob for blob in blobs if self._remove(blob)])

    def _remove(self, blob: Blob) -> bool:
        # A known gap: between the look and the removal, milliseconds, somebody may publish an event
        # again, byte for byte, that was last published before the retention began. obstore cannot
        # remove on a condition.
        try:
            if obstore.head(self._opened(), blob.reference)["last_modified"] != blob.written:
                return False
            obstore.delete(self._opened(), blob.reference)
        except (FileNotFoundError, NotFoundError):
            return False
        return True

    # The store itself.

    def _opened(self) -> Any:
        if self._store is None:
            if self._root is not None:
                self._store = LocalStore(self._root)
            else:
                limit = timedelta(seconds=self.config.timeout_s)
                self._store = from_url(
                    self.config.store,
                    # An endpoint says which by its URL.
                    client_options={"timeout": limit, "allow_http": True},
                    retry_config={"max_retries": RETRIES, "retry_timeout": limit},
                )
        return self._store

    async def _run(self, call: Callable[[], T]) -> T:
        if not self.is_there:
            raise ConfigError("there is no store of large payloads: set ClaimCheck.Store")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "claims")
        away = ""
        try:
            with _translated():
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except ClaimStoreError as error:
            away = starred(f"the store of large payloads, {self.config.store}, is away: {error}")
            raise
        except asyncio.CancelledError:
            away = self.away  # nobody knows
            raise
        finally:
            if away and not self.away:
                log.error(away, cure="events that need it wait, and use up no attempts")
            elif self.away and not away:
                log.warning("the store of large payloads is back")
            self.away = away


@contextmanager
def _translated() -> Iterator[None]:
    """What the store's client raises, as one error: nobody is to blame but the store."""
    try:
        yield
    except (BaseError, OSError) as error:
        lines = str(error).splitlines() or [""]
        text = re.sub(r"\?\S*", "?...", lines[0])  # what a URL ends with may be a signature
        raise ClaimStoreError(f"{type(error).__name__}: {text}") from error


def _close_to_others(path: Path) -> None:
    """Take from *path*, if it is ours, the rights of users who are neither its owner nor in its group."""
    found = path.stat()
    if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXO)


def _sync(path: Path) -> None:
    """Have the disk hold *path*, a file or a folder: the store's client leaves that to the system."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
