"""What is counted, per subscription. One observer: the pipeline counts an outcome once, when it is settled."""

from typing import get_args

from app.wire.envelope import Outcome


class Counts(dict[str, int]):
    """Records since this worker started: by how they ended, plus attempts that failed and were `retried`."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((*get_args(Outcome), "retried"), 0))
