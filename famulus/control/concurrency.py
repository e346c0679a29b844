"""How many events an operator lets be in hand at once, and how the group's admin topic says it.

A record's key is `concurrency:TOPIC` for each partition of a topic, or `concurrency:*` for each
worker. Its value says how many, who set it, when and why; none (a tombstone) means: as the settings
say. Pure: whoever asks reads and sends.
"""

import msgspec

PREFIX = "concurrency:"  # no topic has a colon in its name
WORKER = "*"
WIDTH_MAX = 10_000


class ConcurrencyOverride(msgspec.Struct, frozen=True):
    """How many, who set it, when (ISO 8601, UTC), and why."""

    concurrency: int
    by: str
    at: str
    note: str = ""


class ConcurrencyOverrides:
    """What is set at run time, after every record of the admin topic that was taken."""

    def __init__(self) -> None:
        self.of: dict[str, ConcurrencyOverride] = {}  # by topic, as named on the cluster

    def take(self, key: str, value: bytes | None) -> str:
        """Note a record of the admin topic; what it says, in words.

        Raises ValueError when it is none of ours.
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
        """How many events of each partition of *topic* may be in hand, of each worker for `*`; *usual* unless set."""
        width = self.of.get(topic)
        return usual if width is None else width.concurrency

    def rows(self) -> list[dict[str, object]]:
        """What is set, for programs; the topic null is that of each worker."""
        return [
            {"topic": None if topic == WORKER else topic, **msgspec.structs.asdict(width)}
            for topic, width in sorted(self.of.items())
        ]


def name_of(topic: str) -> str:
    """Of what it is, in words."""
    return "each worker" if topic == WORKER else f"each partition of {topic}"


def said(topic: str, width: ConcurrencyOverride) -> str:
    """A concurrency in words."""
    why = f": {width.note}" if width.note else ""
    return (
        f"the concurrency of {name_of(topic)} is {width.concurrency} since {width.at} by "
        f"{width.by}{why}"
    )
