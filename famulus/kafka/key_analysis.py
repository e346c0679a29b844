"""Effects of a record key: its spread over the partitions, and the order that it keeps.

A key is for events that must be handled in order. Few keys, or one that most events have, leave
partitions, and so workers, idle. A key that never repeats keeps no order and groups nothing.

Pure: records are passed in one by one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from famulus.kafka.partitioner import Choose
from famulus.serialization.key_text import key_bytes

Verdict = Literal["good", "bad", "pointless", "unclear"]
FEW = 50  # events: too few to judge
HOT_SHARE = 0.2  # share of the events that one key may have
SKEW = 1.5  # highest good ratio of the fullest partition to the mean
KEYS_PER_PARTITION = 5  # fewer keys fill partitions unevenly by chance
RETURNS = 1.1  # events per key; with fewer, nearly every key occurs once
KEYS_MAX = 100_000  # different keys that are counted per candidate
CANDIDATES_MAX = 50


@dataclass(frozen=True, slots=True)
class Report:
    """Judgement of one candidate key over the *events* that have it.

    *missing* is the number of events without it, which would be spread over all partitions.
    *largest* is the share of events with the most frequent key (0 to 1). *skew* is the ratio of the
    fullest partition to the mean.
    """

    key: str
    verdict: Verdict
    why: str
    events: int
    missing: int
    keys: int
    largest: float
    skew: float
    partitions: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values for JSON. No key is quoted: keys are private."""
        return {**asdict(self), "partitions": list(self.partitions)}


class Tally:
    """Counter of events by one candidate key, called *name*."""

    def __init__(self, name: str, partitions: int, choose: Choose) -> None:
        self.name = name
        self.events = 0
        self.missing = 0
        self._choose = choose
        self._counts: Counter[bytes] = Counter()
        self._by_partition = [0] * partitions

    def note(self, key: bytes | None) -> None:
        """Count an event by its key, in the partition that the partitioner chooses for it."""
        chosen = self._choose(key, len(self._by_partition)) if key is not None else None
        if key is None or chosen is None:
            self.missing += 1
            return
        self.note_in(key, chosen)

    def note_in(self, key: bytes, partition: int) -> None:
        """Count an event by its key, in the partition where it is."""
        self.events += 1
        self._by_partition[partition] += 1
        if key in self._counts or len(self._counts) < KEYS_MAX:
            self._counts[key] += 1

    def report(self) -> Report:
        """Return the report about the events counted so far."""
        largest = max(self._counts.values(), default=0) / self.events if self.events else 0.0
        mean = self.events / len(self._by_partition)
        skew = max(self._by_partition) / mean if mean else 0.0
        verdict, why = self._judged(len(self._counts), largest, skew)
        return Report(
            self.name,
            verdict,
            why,
            self.events,
            self.missing,
            len(self._counts),
            round(largest, 4),
            round(skew, 2),
            tuple(self._by_partition),
        )

    def _judged(self, keys: int, largest: float, skew: float) -> tuple[Verdict, str]:
        events, partitions = self.events, len(self._by_partition)
        # The skew of the hot key's partition, if the other events spread evenly.
        is_hot = largest > HOT_SHARE and largest * (partitions - 1) > SKEW - 1
        few = (
            f"few keys for {partitions} partitions"
            if keys < KEYS_PER_PARTITION * partitions
            else "uneven"
        )
        found: list[tuple[bool, Verdict, str]] = [
            (
                self.missing > events,
                "pointless",
                "most events have no such key: they are spread, and keep no order",
            ),
            (events < FEW, "unclear", f"only {events} events"),
            (
                keys == 1,
                "bad",
                "one key: all events are in one partition, one worker does everything",
            ),
            (
                is_hot,
                "bad",
                f"a hot key: {largest:.0%} of the events are handled one after the other",
            ),
            (
                events < RETURNS * keys,
                "pointless",
                "nearly every key comes once in this sample: no order, no locality",
            ),
            (skew > SKEW, "bad", f"{few}: the fullest has {skew:.1f} times the mean"),
        ]
        return next(
            ((verdict, why) for is_so, verdict, why in found if is_so),
            ("good", "keys that come again, evenly spread"),
        )


class KeyStudy:
    """A sample of a topic: its present key, and *fields* of its events as keys.

    All plain fields are tried unless some are named.
    """

    def __init__(self, partitions: int, choose: Choose, fields: Iterable[str] = ()) -> None:
        self._partitions = partitions
        self._choose = choose
        self._only = tuple(fields)
        self._seen = 0
        self._present = Tally("(present key)", partitions, choose)
        self._fields = {name: self._tally(name) for name in self._only}

    def note(self, key: bytes | None, partition: int, event: object) -> None:
        """Count a record of the topic.

        *event* is its value as JSON; a value that is no object has no fields.
        """
        if key is None:
            self._present.missing += 1
        else:
            self._present.note_in(key, partition)
        values = event if isinstance(event, Mapping) else {}
        for name in self._only or values:
            if (
                name not in self._fields
                and len(self._fields) < CANDIDATES_MAX
                and key_of(values.get(name)) is not None
            ):
                self._fields[name] = self._tally(name)
        for name, tally in self._fields.items():
            tally.note(key_of(values.get(name)))
        self._seen += 1

    def _tally(self, name: str) -> Tally:
        tally = Tally(name, self._partitions, self._choose)
        tally.missing = self._seen  # earlier events have no such field
        return tally

    def reports(self) -> list[Report]:
        """Return the report of the present key, then those of the fields.

        Fields are sorted by verdict, the best first, then by skew, the most even first.
        """
        order = ("good", "unclear", "bad", "pointless")
        fields = [tally.report() for tally in self._fields.values()]
        return [
            self._present.report(),
            *sorted(fields, key=lambda of: (order.index(of.verdict), of.skew)),
        ]


def key_of(value: object) -> bytes | None:
    """Return the key that a field's value would be: its text.

    None for values that are no key: null, booleans, fractions, objects.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return key_bytes(value) if isinstance(value, int) and not isinstance(value, bool) else None
