"""Write a changelog back from a complete store.

Afterwards all of the state can be restored from the log again. Nothing is deleted before it is
written again, and each record has the whole value of its key, so a run that was interrupted can
simply be repeated. A log whose write-back did not finish is never accepted as complete.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from msgspec.structs import replace

from famulus.errors import InvariantError
from famulus.state.changelog import (
    ATTEMPTS,
    BATCH_BYTES,
    DEAD,
    PACK,
    PROCESSED,
    ROW,
    UNFINISHED,
    WHOLE,
    Row,
    batches,
    decode_processed,
    encode,
    epoch_headers,
)
from famulus.state.changelog_topic import Sender
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import Store


async def write_back(
    sender: Sender,
    replica: Replica,
    stale: Iterable[bytes] = (),
    progressed: Callable[[int], object] = lambda _: None,
) -> int:
    """Write everything that the store of *replica* holds into its changelog.

    The changelog was claimed with the store's epoch before. The keys *stale*, which the log has and
    the store has not, are deleted in the log. *progressed* is called after each batch with its
    number of records. Afterwards the store holds the changelog up to the last record written.

    Returns the number of records written. Raises what the sender and the store raise, and
    InvariantError when another process writes to the changelog meanwhile.
    """
    store, headers = replica.store, epoch_headers(replica.store.epoch)

    expected = -1

    async def send(rows: list[Row]) -> int:
        nonlocal expected
        first = await (await sender.send_batch(replica.topic, replica.partition, rows, headers))
        if expected not in {-1, first}:
            raise InvariantError(
                f"somebody else wrote to {replica.home} while it was written back; do it again"
            )
        expected = first + len(rows)
        return first

    begin = await send([(WHOLE, UNFINISHED)])
    written = 0
    for rows in batches(chain(((key, None) for key in stale), _rows(store)), BATCH_BYTES):
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
    """Yield all records of a store.

    Packs come in the order of their periods, so that the newest value of a mark comes last.
    """
    for kind in (ROW, PACK, ATTEMPTS, DEAD):
        yield from store.items(kind)
