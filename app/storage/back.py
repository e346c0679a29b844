"""Writing a changelog back from a whole store, so that all of the state can be made from the log again.

Nothing is deleted before it is written anew, and each record says all of its key: whoever is interrupted does it again.
A log that says that this did not end is taken for the truth by nobody.
"""

from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from app.errors import InvariantError
from app.storage.changelog import (
    ATTEMPTS,
    DEAD,
    PACK,
    PROCESSED,
    RECORD_OVERHEAD,
    ROW,
    UNFINISHED,
    WHOLE,
    decode_processed,
    encode,
    epoch_headers,
)
from app.storage.log import Sender
from app.storage.replica import Replica
from app.storage.store import Store

BATCH_BYTES = 900_000  # of one record batch: brokers take 1 MiB
Row = tuple[bytes, bytes | None]


async def write_back(
    sender: Sender, replica: Replica, stale: Iterable[bytes] = (), progressed: Callable[[int], object] = lambda _: None
) -> int:
    """Write all that the store of *replica* has into its changelog, which was claimed with the store's epoch.

    The keys *stale*, which the log has and the store has not, are deleted there. Returns how many records were written;
    *progressed* is told of each batch. The store holds the changelog up to the last one afterwards. Raises what the
    sender and the store raise, and InvariantError when somebody else writes meanwhile.
    """
    store, headers = replica.store, epoch_headers(replica.store.epoch)

    expected = -1

    async def send(rows: list[Row]) -> int:
        nonlocal expected
        first = await (await sender.send_batch(replica.topic, replica.partition, rows, headers))
        if expected not in {-1, first}:
            raise InvariantError(f"somebody else wrote to {replica.home} while it was written back; do it again")
        expected = first + len(rows)
        return first

    begin = await send([(WHOLE, UNFINISHED)])
    written = 0
    for rows in _batches([(key, None) for key in stale], _rows(store)):
        await send(rows)
        written += len(rows)
        progressed(len(rows))
    end = {WHOLE: b"%d" % begin}
    if (processed := store.get(PROCESSED)) is not None:
        end[PROCESSED] = encode(replace(decode_processed(processed), home=replica.home))
    await send(list(end.items()))
    batch = store.batch()
    for key, value in end.items():
        batch.put(key, value)
    store.home = replica.home
    store.write(batch, expected - 1, store.epoch)
    return written + len(end)


def _rows(store: Store) -> Iterator[Row]:
    """What a store has to say; packs in the order of their periods, so that the newest of a mark comes last."""
    for kind in (ROW, PACK, ATTEMPTS, DEAD):
        yield from store.items(kind)


def _batches(*of: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for rows in of:
        for key, value in rows:
            more = len(key) + len(value or b"") + RECORD_OVERHEAD
            if batch and size + more > BATCH_BYTES:
                yield batch
                batch, size = [], 0
            batch.append((key, value))
            size += more
    if batch:
        yield batch
