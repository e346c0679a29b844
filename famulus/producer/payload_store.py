"""Store of payloads that are too large for Kafka: a local folder or a bucket.

A blob is durable before its record is sent. Requests run in threads, so that none blocks the event
loop. The store's own asynchronous calls are not used: they sometimes abort the process when it
exits just after they have ended, because their runtime still holds on to the interpreter (see
PyO3/pyo3-async-runtimes #40).
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
LISTED = 1_000  # blobs listed by one request


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob in the store. *size* is in bytes."""

    topic: str
    reference: str
    size: int
    written: datetime


class PayloadStore:
    """Checks payloads in and redeems them.

    Without the setting `ClaimCheck.Store` there is no store, and no payload is checked in.
    """

    def __init__(self, config: ClaimCheckConfig) -> None:
        self.config = config
        self.away = ""  # the reason as text while the store is unavailable, else ""
        scheme, separator, rest = config.store.partition("://")
        is_local = bool(config.store) and (not separator or scheme == "file")
        self._root = Path(rest if separator else config.store).absolute() if is_local else None
        self._store: Any = None  # Any: one of many classes
        self._threads: ThreadPoolExecutor | None = None

    @property
    def is_there(self) -> bool:
        """Return whether a store is configured."""
        return bool(self.config.store)

    # Publishing.

    def wants(self, record: ProducerRecord) -> bool:
        """Return whether *record* is to leave as a claim check, without its value."""
        threshold = self.config.threshold_bytes
        return bool(threshold) and record.value is not None and len(record.value) > threshold

    async def check_in(self, record: ProducerRecord) -> ProducerRecord:
        """Store the value of *record* if it is large; return the record to send.

        The stored value is durable then. Raises ClaimTooLargeError, and ClaimStoreError when the
        store is unavailable.
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
        # Overwrites an earlier blob, too: its age counts, so it would be swept before this record
        # expires.
        obstore.put(self._opened(), claim.reference, value)
        if self._root is not None:
            blob = self._root / claim.reference
            _close_to_others(blob)  # until here its folder has kept other users out
            for path in (blob, blob.parent, self._root):
                _sync(path)
        return claim

    # Consuming.

    async def redeem(self, record: ConsumerRecord) -> RecordCopy:
        """Return *record*, a claim check, with its payload.

        Raises ClaimError when the payload is missing or wrong, ClaimStoreError when the store is
        unavailable.
        """
        claim = self.claim_of(record)
        return redeemed(record, await self.payload(claim))

    def claim_of(self, record: ConsumerRecord) -> PayloadClaim:
        """Return the claim in the headers of *record*.

        Raises ClaimError when the claim is not valid or no store is configured.
        """
        if not self.is_there:
            raise ClaimError(
                "there is no store: set ClaimCheck.Store to that of whoever published it"
            )
        return claim_of(record, self.config.max_bytes)

    async def payload(self, claim: PayloadClaim) -> bytes:
        """Return the payload of *claim*.

        Raises as `redeem` does.
        """
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
        """Raise ClaimError when a local blob is not a plain file in a plain folder.

        A symbolic link could lead out of the store's root.
        """
        if self._root is None:
            return
        folder, blob = self._root / claim.topic, self._root / claim.reference
        for path, is_plain in ((folder, stat.S_ISDIR), (blob, stat.S_ISREG)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                return  # reading the blob reports this
            if not is_plain(mode):
                raise ClaimError("the blob, or its folder, is a symbolic link or no plain file")

    def _check_there(self, topic: str) -> None:
        """Check that the store itself is there, after a blob was not found.

        Raises ClaimStoreError when the root folder is missing, or what the store's client raises.
        """
        if self._root is not None and not self._root.is_dir():
            raise ClaimStoreError(f"the folder {self._root} is not there")
        for _ in obstore.list(self._opened(), topic, chunk_size=1):
            break

    # The sweep.

    async def blobs(self) -> list[Blob]:
        """Return every blob that Famulus has written.

        Raises ClaimStoreError.
        """
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
        """Remove *blobs* and return those that were removed.

        A blob that was written again since it was listed is kept.
        """
        return await self._run(lambda: [blob for blob in blobs if self._remove(blob)])

    def _remove(self, blob: Blob) -> bool:
        # A known race: in the milliseconds between the check and the removal, an event may be
        # published again, byte for byte, that was last published before the retention began.
        # obstore has no conditional delete.
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
                    # Whether an endpoint uses HTTP or HTTPS is up to its URL.
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
            away = self.away  # the outcome is unknown, so the state stays
            raise
        finally:
            if away and not self.away:
                log.error(away, cure="events that need it wait, and use up no attempts")
            elif self.away and not away:
                log.warning("the store of large payloads is back")
            self.away = away


@contextmanager
def _translated() -> Iterator[None]:
    """Raise ClaimStoreError in the place of what the store's client raises."""
    try:
        yield
    except (BaseError, OSError) as error:
        lines = str(error).splitlines() or [""]
        text = re.sub(r"\?\S*", "?...", lines[0])  # a URL's query may hold a signature
        raise ClaimStoreError(f"{type(error).__name__}: {text}") from error


def _close_to_others(path: Path) -> None:
    """Remove the rights of other users from *path*, if this process's user owns it.

    Owner and group keep their rights.
    """
    found = path.stat()
    if found.st_mode & stat.S_IRWXO and found.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXO)


def _sync(path: Path) -> None:
    """Flush *path*, a file or a folder, to disk; the store's client does not do so."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
