"""The rights of deploy/acls are enough for a worker: it runs on them on a cluster that allows nothing else."""

import asyncio
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from famulus.config import KafkaConfig
from famulus.dev.broker import Broker
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.reply_headers import RequestTimeoutError
from famulus.serialization.records import ProducerRecord
from models.orders import OrderCreated, OrderItem
from tests.support.on_kafka.commands import faust, one_line
from tests.support.places import PROJECT

# Whoever comes without a password; the broker itself is one of them here.
EVERYBODY = "User:ANONYMOUS"
TOPICS = [
    f"{name}{suffix}"
    for name in ("order-events", "stock-events")
    for suffix in ("", ".dead-letter")
]
PARTITIONS = 4


def printed() -> list[AclBinding]:
    """What `faust -A app acls` prints for the worker, and what the broker needs to be a broker."""
    script = subprocess.run(
        [
            sys.executable,
            "-m",
            "faust",
            "-A",
            "app",
            "acls",
            "--worker",
            EVERYBODY,
            "--operator",
            "User:somebody",
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    rights = [
        binding(ResourceType.BROKER, "kafka-cluster", AclOperation.CLUSTER_ACTION),
        binding(ResourceType.TOPIC, "__consumer_offsets", AclOperation.CREATE),
    ]
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["allow", EVERYBODY]:
            kind, name, *rest = words[2:]
            for operation in rest[1::2]:
                named = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()
                rights.append(
                    binding(ResourceType[kind.strip("-").upper()], name, AclOperation[named])
                )
    return rights


def binding(kind: ResourceType, name: str, operation: AclOperation) -> AclBinding:
    """One right of everybody's, from everywhere."""
    return AclBinding(
        kind, name, ResourcePatternType.LITERAL, EVERYBODY, "*", operation, AclPermissionType.ALLOW
    )


def an_order() -> OrderCreated:
    """A good one."""
    return OrderCreated(
        order_id=uuid4(),
        customer_id=uuid4(),
        total_amount=Decimal("1.50"),
        created_at=datetime.now(UTC),
        items=[OrderItem(product_id="part-1", quantity=3, price=Decimal("0.50"))],
    )


async def send(kafka: KafkaConfig) -> None:
    """An order, and something that is none."""
    async with Producer(kafka) as producer:
        order = an_order()
        await producer.produce("order-events", order.customer_id, order)
        await producer.produce("order-events", order.customer_id, b"not JSON")


def test_a_worker_runs_on_the_printed_rights_and_no_others(tmp_path: Path) -> None:
    """It makes its topics, reads, publishes, keeps state, writes dead letters, commits; a foreign topic is closed."""
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    with Broker(config={"authorizer.class.name": authorizer, "super.users": EVERYBODY}) as broker:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS)
        asyncio.run(create_topics(kafka, dict.fromkeys([*TOPICS, "foreign"], PARTITIONS), 30.0))
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        for made in admin.create_acls(list(dict.fromkeys(printed()))).values():
            made.result(30)
        [node] = broker.nodes
        properties = node.folder / "server.properties"
        properties.write_text(
            properties.read_text().replace(f"super.users={EVERYBODY}", "super.users=User:nobody")
        )
        broker.restart(node)

        settings = {
            "KAFKA__BOOTSTRAPSERVERS": broker.bootstrap_servers,
            "WORKER__DATADIR": str(tmp_path / "data"),
        }
        with WorkerProcess(
            settings, tmp_path / "worker.log", web_port=free_port(), cwd=PROJECT
        ) as worker:
            worker.wait_ready(partitions=2 * PARTITIONS)
            asyncio.run(send(kafka))
            asyncio.run(wait_for_effects(worker))
            asyncio.run(ask_and_reply(kafka))
            assert worker.stop() == 0, worker.last_words()
        listed = (
            AdminClient({"bootstrap.servers": broker.bootstrap_servers})
            .list_topics(timeout=10)
            .topics
        )
        assert "foreign" not in listed
        assert {
            "order-events.famulus.redrive",
            "famulus-stock-events-state",
            "famulus.replies",
        } <= listed.keys()
        closed = {**settings, "KAFKA__TOPICPREFIX": "closed.", "WORKER__WEBPORT": str(free_port())}
        for command in (["worker"], ["topics", "apply"], ["peek", "foreign"]):
            code, output = faust(*command, **closed)
            assert code == 77, output
            assert "`faust -A app acls` prints the rights that are needed" in one_line(output)


async def ask_and_reply(kafka: KafkaConfig) -> None:
    """A request gets as far as waiting, for nobody here answers it; and a reply may be written."""
    async with EventBus(Producer(kafka)) as bus:
        with pytest.raises(RequestTimeoutError):
            await bus.request(an_order(), timeout_s=5, reply_type=OrderItem)
    async with Producer(kafka) as producer:
        await producer.send(ProducerRecord("famulus.replies", b"k", b"{}"))


async def wait_for_effects(worker: WorkerProcess) -> None:
    """Wait until the order has gone its way through both topics and the poison is a dead letter."""
    async with asyncio.timeout(30):
        while True:
            counts = {s["topic"]: s for s in await asyncio.to_thread(worker.get, "/subscriptions/")}
            if counts["order-events"]["dead_lettered"] and counts["stock-events"]["handled"]:
                return
            worker.check()
            await asyncio.sleep(0.1)
