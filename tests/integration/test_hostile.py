"""Hostile senders: a batch that unpacks to gigabytes holds up its own partition, and nothing else."""

import asyncio
import re
from pathlib import Path

from aiokafka import AIOKafkaProducer

from famulus.dev.worker import WorkerProcess
from tests.support.on_kafka.house import House, wait_for

LIMIT_MIB = 64
MEMORY_MIB = 700  # at most, of a worker that was sent bombs of ten times that


def bomb(house: House, codec: str, partition: int) -> None:
    """One record of zeros, in a batch that the broker takes, since it looks at its packed size alone."""

    async def run() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=house.kafka.bootstrap_servers,
            compression_type=codec,
            max_request_size=2**30,
        ) as producer:
            await producer.send_and_wait(
                house.topic, bytes(200 * 2**20), key=b"bomb", partition=partition
            )

    asyncio.run(run())


def memory_mib(worker: WorkerProcess) -> float:
    """The most that the process ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_a_bomb_holds_up_its_partition_in_words_and_nothing_else(house: House) -> None:
    """What stands before it is handled, other partitions go on, the process stays small and says what to do."""
    house.build(partitions=3)
    house.send(house.thing("before-0", partition=0), house.thing("before-1", partition=1))
    bomb(house, "zstd", 0)
    bomb(house, "gzip", 1)
    house.send(house.thing("behind", partition=0))
    worker = house.start()
    line = house.wait_log(worker, f"{house.topic}-0: the records from offset 1 to 1 cannot be read")
    assert (
        f"unpacks to more than {LIMIT_MIB * 2**20} bytes (Kafka.ConsumerConfig.MaxUnpackedBytes)"
        in line
    )
    assert f"`faust -A app seek {house.topic} --partition 0 --to-offset 2`" in line
    house.wait_log(worker, f"{house.topic}-1: the records from offset 1 to 1 cannot be read")
    house.send(*(house.thing("elsewhere", number, partition=2) for number in range(3)))
    wait_for(lambda: worker.rows("count").get("elsewhere") == 3)
    assert worker.rows("count") == {"before-0": 1, "before-1": 1, "elsewhere": 3}
    status, answer = worker.answer("/readyz")
    assert status == 503
    assert "cannot be read" in str(answer["why"])
    assert memory_mib(worker) < MEMORY_MIB
    assert worker.stop() == 0
    assert house.committed() == {0: 1, 1: 1, 2: 3}
    house.commit({0: 2})  # what the line says
    again = house.start("two", ready=1, STATE__ONCOMMITAHEAD="follow")
    wait_for(lambda: again.rows("count").get("behind") == 1)
    house.wait_log(again, f"{house.topic}-1: the records from offset 1 to 1 cannot be read")
