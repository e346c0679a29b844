"""Quix Streams as its documentation has it: a streaming dataframe over dicts."""

import os

from quixstreams import Application

from bench.meter import Meter

meter = Meter()
app = Application(
    broker_address=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
    consumer_group=os.environ["BENCH_GROUP"],
    auto_offset_reset="earliest",
    state_dir=os.environ["BENCH_DIR"],
    loglevel="ERROR",
)
app.dataframe(app.topic(os.environ["BENCH_TOPIC"], value_deserializer="json")).update(
    lambda order: meter.hit(order["created_at"])
)
app.run()
