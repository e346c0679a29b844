"""What is counted, per subscription. One observer: the pipeline counts an outcome once, when it is settled."""

from dataclasses import asdict, dataclass

from app.wire.envelope import Outcome


@dataclass(slots=True)
class Counts:
    """Records since this worker started: by how they ended, plus attempts that failed and were tried again."""

    handled: int = 0
    duplicate: int = 0
    dead_lettered: int = 0
    ignored: int = 0
    retried: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one settled record."""
        if outcome == "handled":  # nearly all
            self.handled += 1
        else:
            setattr(self, outcome, getattr(self, outcome) + 1)

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)
