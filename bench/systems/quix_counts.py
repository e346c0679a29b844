"""Quix Streams with state: each order once per customer, and a count.

Its state is kept per key, with a changelog.
"""

import os
from typing import Any

from quixstreams import Application, State

from bench.meter import Meter

meter = Meter()
app = Application(
    broker_address=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
    consumer_group=os.environ["BENCH_GROUP"],
    auto_offset_reset="earliest",
    state_dir=os.environ["BENCH_DIR"],
    loglevel="ERROR",
    processing_guarantee="at-least-once",
    commit_interval=1.0,
    use_changelog_topics=True,
)


def count(order: dict[str, Any], state: State) -> None:
    """Count the customer's orders."""
    mark = f"seen:{order['order_id']}"
    if state.get(mark) is not None:
        return
    state.set(mark, 1)
    state.set("count", state.get("count", 0) + 1)
    meter.hit(order["created_at"])


app.dataframe(app.topic(os.environ["BENCH_TOPIC"], value_deserializer="json")).update(
    count, stateful=True
)
app.run()
