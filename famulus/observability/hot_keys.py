"""Hot keys of a partition: those with the most events, bytes and handler time.

Counting every key would cost as much time as processing a cheap event, and memory for each key.
Instead one chunk of records in `EVERY` is sampled, weighted accordingly, and counted in sketches of
fixed size, see `frequent_items`. The first events of a window are all
counted, so small numbers are exact. Pure: time is an argument.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from faust.types import TP

from famulus.formatting import printable
from famulus.observability.frequent_items import FrequentItems
from famulus.serialization.records import ConsumerRecord

WINDOW_MS = 300_000  # results cover the present window and the previous one
EXACT = 1_000  # events at the start of a window that are all counted
# After those one chunk in so many is sampled; a prime, so that it matches no rhythm of a sender.
EVERY = 31
TOP = 10  # keys by each measure
KEY_BYTES = 128  # longer keys are kept as a digest
LONG = "\u0100"  # prefix of such a digest; no key's text has this character


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key, or its digest, with estimates for its events.

    *share* is its share of the partition's events, from 0 to 1.
    """

    key: str
    count: int
    bytes: int
    handler_s: float
    share: float


@dataclass(frozen=True, slots=True)
class HotPartition:
    """Hot keys of a partition, the most frequent first.

    *events* is the number of its events in the last five to ten minutes. *skew* is that of the
    topic: the events of the busiest partition divided by the mean of this worker's partitions.
    """

    topic: str
    partition: int
    events: int
    skew: float
    keys: tuple[HotKey, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the hot keys as plain values for JSON."""
        return {**asdict(self), "keys": [asdict(key) for key in self.keys]}


class Window:
    """Sketches of one window: by number, bytes and microseconds. Their size is bounded."""

    def __init__(self, began_ms: int) -> None:
        self.began_ms = began_ms
        self.events = 0
        self.counts, self.bytes, self.micros = (FrequentItems() for _ in range(3))

    def take(self, records: Sequence[ConsumerRecord], weight: int) -> None:
        """Count *records*, each *weight* times."""
        counts: Counter[bytes] = Counter()
        sizes: defaultdict[bytes, int] = defaultdict(int)
        for record in records:
            if (key := record.key) is not None:
                counts[key] += 1
                sizes[key] += len(key) + len(record.value or b"")
        for key, count in counts.items():
            text = _text(key)
            self.counts.update(text, count * weight)
            self.bytes.update(text, sizes[key] * weight)

    def merge(self, other: "Window") -> None:
        """Add the counts of another window."""
        self.events += other.events
        self.counts.merge(other.counts)
        self.bytes.merge(other.bytes)
        self.micros.merge(other.micros)


class KeyWatch:
    """Counts of the keys of one partition."""

    def __init__(self) -> None:
        self._now: Window | None = None
        self._before: Window | None = None
        self._left = 0  # chunks to skip before the next sample

    def note(self, records: Sequence[ConsumerRecord], now_ms: int) -> None:
        """Count a chunk of records that are about to be processed."""
        now = self._now
        if now is None or now_ms - now.began_ms >= WINDOW_MS:
            now = self._turn(now_ms)
        now.events += len(records)
        if now.events <= EXACT:
            now.take(records, 1)
        elif self._left:
            self._left -= 1
        else:
            self._left = EVERY - 1
            now.take(records, EVERY)

    def timed(self, key: bytes | None, seconds: float, weight: int) -> None:
        """Add the processing time of a record with *key*, in seconds.

        The record stands for *weight* records, itself included.
        """
        if key is not None and self._now is not None:
            self._now.micros.update(_text(key), round(seconds * 1_000_000) * weight)

    def recent(self, now_ms: int) -> Window:
        """Return the present and the previous window, merged."""
        found = Window(now_ms)
        for window in (self._now, self._before):
            if window is not None and now_ms - window.began_ms < 2 * WINDOW_MS:
                found.merge(window)
        return found

    def _turn(self, now_ms: int) -> Window:
        self._before, self._now = self._now, Window(now_ms)
        return self._now


def hot_keys(watches: Mapping[TP, KeyWatch], now_ms: int, *, is_shown: bool) -> list[HotPartition]:
    """Return the hot keys of each partition, sorted by topic and partition.

    Keys are private: their digests are returned unless *is_shown*.
    """
    windows = {tp: watch.recent(now_ms) for tp, watch in sorted(watches.items())}
    of_topic: defaultdict[str, list[int]] = defaultdict(list)
    for tp, window in windows.items():
        of_topic[tp.topic].append(window.events)
    return [
        HotPartition(
            tp.topic,
            tp.partition,
            window.events,
            _skew(of_topic[tp.topic]),
            tuple(_top(window, is_shown=is_shown)),
        )
        for tp, window in windows.items()
    ]


def digest_of(key: bytes) -> str:
    """Return the digest that replaces a key where keys are not shown."""
    return blake2b(key, digest_size=8).hexdigest()


def _top(window: Window, *, is_shown: bool) -> Iterable[HotKey]:
    """Yield the top keys by each measure, those with the most events first."""
    texts: set[str] = set()
    for sketch in (window.counts, window.bytes, window.micros):
        found = sorted(sketch.frequent(), key=lambda row: (-row[1], row[0]))
        texts.update(text for text, _ in found[:TOP])
    counts = {text: window.counts.estimate(text) for text in texts}
    for text in sorted(texts, key=lambda text: (-counts[text], text)):
        yield HotKey(
            key=_shown(text) if is_shown else _digest(text),
            count=counts[text],
            bytes=window.bytes.estimate(text),
            handler_s=round(window.micros.estimate(text) / 1_000_000, 6),
            share=round(min(counts[text] / window.events, 1.0), 4) if window.events else 0.0,
        )


def _skew(events: Sequence[int]) -> float:
    total = sum(events)
    return round(max(events) * len(events) / total, 2) if total else 0.0


def _text(key: bytes) -> str:
    """Return the key as kept in a sketch: one character per byte, or a digest."""
    return key.decode("latin-1") if len(key) <= KEY_BYTES else LONG + digest_of(key)


def _digest(text: str) -> str:
    return text[1:] if text.startswith(LONG) else digest_of(text.encode("latin-1"))


def _shown(text: str) -> str:
    return (
        _digest(text)
        if text.startswith(LONG)
        else printable(text.encode("latin-1").decode("utf-8", "replace"))
    )
