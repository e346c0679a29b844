"""Concurrency overrides of operators, and their records in the admin topic.

The key of a record is `concurrency:TOPIC` for each partition of a topic, or `concurrency:*` for
each worker. Its value has the number of events that may run concurrently, who set it, when and why.
A tombstone restores the value of the settings. Pure: callers read and send.
"""

import msgspec

PREFIX = "concurrency:"  # no topic has a colon in its name
WORKER = "*"
WIDTH_MAX = 10_000


class ConcurrencyOverride(msgspec.Struct, frozen=True):
    """The number of concurrent events, who set it, when (ISO 8601, UTC), and why."""

    concurrency: int
    by: str
    at: str
    note: str = ""


class ConcurrencyOverrides:
    """Current overrides, as of the last record of the admin topic."""

    def __init__(self) -> None:
        self.of: dict[str, ConcurrencyOverride] = {}  # by topic, as named on the cluster

    def take(self, key: str, value: bytes | None) -> str:
        """Apply a record of the admin topic and return a description of it.

        Raises ValueError when it is not a valid record of this kind.
        """
        topic = key.removeprefix(PREFIX)
        if not topic or "/" in topic:
            raise ValueError(f"{key!r} is neither {PREFIX}{WORKER} nor {PREFIX}TOPIC")
        if value is None:
            self.of.pop(topic, None)
            return f"the concurrency of {name_of(topic)} is that of the settings"
        width = msgspec.json.decode(value, type=ConcurrencyOverride)
        if not 1 <= width.concurrency <= WIDTH_MAX:
            raise ValueError(f"a concurrency of {width.concurrency}: it is from 1 to {WIDTH_MAX}")
        self.of[topic] = width
        return said(topic, width)

    def get(self, topic: str, usual: int) -> int:
        """Return the override of *topic*, or *usual* without one.

        For a topic it is the concurrent events per partition, for `*` per worker.
        """
        width = self.of.get(topic)
        return usual if width is None else width.concurrency

    def rows(self) -> list[dict[str, object]]:
        """Return the overrides as JSON values; the topic null is that of each worker."""
        return [
            {"topic": None if topic == WORKER else topic, **msgspec.structs.asdict(width)}
            for topic, width in sorted(self.of.items())
        ]


def name_of(topic: str) -> str:
    """Return a description of the place to which an override of *topic* applies."""
    return "each worker" if topic == WORKER else f"each partition of {topic}"


def said(topic: str, width: ConcurrencyOverride) -> str:
    """Return a description of an override."""
    why = f": {width.note}" if width.note else ""
    return (
        f"the concurrency of {name_of(topic)} is {width.concurrency} since {width.at} by "
        f"{width.by}{why}"
    )
