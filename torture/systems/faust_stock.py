"""The same work for stock Faust, as its documentation has it: a table of the ids seen, and two of results.

Its handler neither fails nor waits, so what drifts here drifts by the kills alone. The two pages
are what the run asks its workers for.
"""

import os
from typing import Any

import faust
from faust.web import Request, Response, View

from torture.systems.famulus_models import NEWS_EVERY

PARTITIONS = int(os.environ["TORTURE_PARTITIONS"])
TOPIC = os.environ["TORTURE_TOPIC"]


class Payment(faust.Record):
    """A customer paid."""

    payment_id: str
    customer: str
    amount: int
    number: int


app = faust.App(
    os.environ["TORTURE_GROUP"],
    broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP_SERVERS']}",
    store="rocksdb://",
    datadir=os.environ["TORTURE_STATE"],
    topic_disable_leader=True,
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    table_standby_replicas=0,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=0.5,
    broker_commit_interval=0.2,
    web_bind="127.0.0.1",
)
topic = app.topic(TOPIC, key_type=bytes, value_type=Payment)
news = app.topic(os.environ["TORTURE_NEWS"], value_serializer="json")
seen = app.Table("seen", partitions=PARTITIONS)
tables = {name: app.Table(name, default=int, partitions=PARTITIONS) for name in ("counts", "sums")}
ledger = os.open(os.environ["TORTURE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.agent(topic)
async def count(stream: "faust.StreamT[Payment]") -> None:
    """Count and add up what was not seen before."""
    async for payment in stream:
        os.write(ledger, f"{payment.customer} {payment.number}\n".encode())
        if payment.payment_id in seen:
            continue
        tables["counts"][payment.customer] += 1
        tables["sums"][payment.customer] += payment.amount
        if payment.number % NEWS_EVERY == 0:
            await news.send(value={"payment_id": payment.payment_id})
        seen[payment.payment_id] = 1


@app.page("/tables/{name}/")
class Rows(View):
    """All rows of a table that this worker has."""

    async def get(self, request: Request, name: str) -> Response:
        """Show them, in one page."""
        del request
        return self.json({"rows": list(tables[name].items()), "next": None})


@app.page("/subscriptions/")
class Subscriptions(View):
    """The partitions of this worker."""

    async def get(self, request: Request) -> Response:
        """Show them."""
        del request
        consumer: Any = app.consumer
        owned = (
            [str(tp.partition) for tp in consumer.assignment() if tp.topic == TOPIC]
            if app.rebalancing is False
            else []
        )
        return self.json([{"next_offsets": dict.fromkeys(owned, 0)}])
