"""What the scripts of stock Faust share: the typed Records, and an app with tables in RocksDB."""

import os

import faust

from bench.meter import Meter


class Line(faust.Record):
    """A line of an order."""

    product_id: str
    quantity: int
    price: float


class Order(faust.Record):
    """An order."""

    order_id: str
    customer_id: str
    total_amount: float
    created_at: str
    items: list[Line]


meter = Meter()
app = faust.App(
    os.environ["BENCH_GROUP"],
    broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP_SERVERS']}",
    web_enabled=False,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    datadir=os.environ["BENCH_DIR"],
    store="rocksdb://",
    topic_partitions=int(os.environ["BENCH_PARTITIONS"]),
    topic_replication_factor=1,
    table_standby_replicas=0,
    broker_commit_interval=1.0,
)
topic = app.topic(os.environ["BENCH_TOPIC"], value_type=Order)
