"""What the two systems of `systems.py` run: their source texts, written into a folder by a test."""

WORK = '''
"""What both systems do for an event: what its name says, noted when it begins and when it has ended."""
import asyncio
import os
from pathlib import Path

HERE = Path(__file__).parent
ledger = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def work(name, publish):
    os.write(ledger, f"begin {os.getpid()} {name}\\n".encode())
    if name.startswith("sleeps") and not (HERE / "awake").exists():
        await asyncio.sleep(3600)
    if name.startswith("fails"):
        raise RuntimeError(name)
    if name.startswith("publishes"):
        await publish(name, os.urandom(2_000).hex())
    os.write(ledger, f"end {os.getpid()} {name}\\n".encode())
'''
MODEL = '''
from famulus import Event


class Happened(Event, namespace="things.Happened", topic="things", key="name"):
    """Something happened."""

    name: str


class Followed(Event, namespace="results.Followed", topic="results", key="name"):
    """What followed from it."""

    name: str
    padding: str
'''
AGENT = """
from app import Deliveries, EventBus, Retry, app, handles
from models.things import Followed, Happened
from work import work

things = app.subscription("things", dedupe=False)  # what comes again is done again, so that it shows


@app.agent(things)
async def thing_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(Happened, retry=Retry(wait_initial_s=0.1))
async def handle(event: Happened, bus: EventBus) -> None:
    await work(event.name, lambda name, padding: bus.publish(Followed(name=name, padding=padding)))
"""
STOCK = """
import os

import faust

from work import work

prefix, env = os.environ["KAFKA__TOPICPREFIX"], os.environ


class Happened(faust.Record):
    name: str


class Followed(faust.Record):
    name: str
    padding: str


app = faust.App(
    env["KAFKA__CONSUMERCONFIG__GROUPID"], broker="kafka://" + env["KAFKA__BOOTSTRAPSERVERS"],
    datadir=env["WORKER__DATADIR"], consumer_auto_offset_reset="earliest", topic_disable_leader=True,
    broker_commit_interval=float(env["WORKER__COMMITINTERVALS"]),
    broker_session_timeout=int(env["KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS"]) / 1000,
    broker_heartbeat_interval=int(env["KAFKA__CONSUMERCONFIG__HEARTBEATINTERVALMS"]) / 1000,
)
things = app.topic(prefix + "things", value_type=Happened)
results = app.topic(prefix + "results", value_type=Followed)


@app.agent(things, concurrency=int(env["WORKER__CONCURRENCY"]))
async def handle(stream):
    async for event in stream:
        await work(event.name, lambda name, padding: results.send(key=name, value=Followed(name, padding)))
"""
