"""Kafka's Java client, by the console tools that stand on it: of the version of the broker, whose jars they share."""

import os
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from jgo.maven import MavenContext

from famulus.config import KafkaConfig
from famulus.dev.jars import KAFKA, jars, java
from famulus.dev.node import JAVA_OPTIONS

LIMIT_S = 60
# As text in which any byte can be told.
PRINTED = "org.apache.kafka.common.serialization.BytesDeserializer"
NULL = "<none>"  # what stands for none, and in no test for anything else
FIELDS = "\t"
HEADERS, HEADER = "\x01", "\x02"
Header = tuple[str, bytes | None]


class Read(NamedTuple):
    """A record as the Java consumer has it."""

    partition: int
    headers: list[Header]
    key: bytes | None
    value: bytes | None


class Written(NamedTuple):
    """A record for the Java producer, which is told them as text. Without tabs and line ends."""

    key: str
    value: str
    headers: tuple[tuple[str, str], ...] = ()


def produce(
    kafka: KafkaConfig, topic: str, records: Iterable[Written], *, codec: str = "none"
) -> None:
    """Have Java's producer send *records*, with its own defaults but for the compression."""
    lines = (
        FIELDS.join(
            (
                HEADERS.join(f"{name}{HEADER}{value}" for name, value in record.headers) or NULL,
                *record[:2],
            )
        )
        for record in records
    )
    properties = {
        "parse.key": "true",
        "parse.headers": "true",
        "headers.delimiter": FIELDS,
        "headers.separator": HEADERS,
        "headers.key.separator": HEADER,
        "key.separator": FIELDS,
        "null.marker": NULL,
    }
    _run(
        "ConsoleProducer",
        kafka,
        topic,
        properties,
        ["--compression-codec", codec],
        given="".join(f"{x}\n" for x in lines),
    )


def consume(kafka: KafkaConfig, topic: str, count: int) -> list[Read]:
    """The first *count* records that Java's consumer reads of *topic*."""
    properties = {
        "print.partition": "true",
        "print.headers": "true",
        "print.key": "true",
        "key.separator": FIELDS,
        "headers.separator": HEADERS,
        "null.literal": NULL,
        "key.deserializer": PRINTED,
        "value.deserializer": PRINTED,
        "headers.deserializer": PRINTED,
    }
    limits = ["--from-beginning", "--max-messages", str(count), "--timeout-ms", str(LIMIT_S * 500)]
    output = _run("consumer.ConsoleConsumer", kafka, topic, properties, limits)
    found = [_read(line) for line in output.split("\n") if line.startswith("Partition:")]
    assert len(found) == count, output
    return found


def _read(line: str) -> Read:
    partition, headers, key, value = line.split(FIELDS)
    pairs = (
        [] if headers == "NO_HEADERS" else [pair.partition(":") for pair in headers.split(HEADERS)]
    )
    return Read(
        int(partition.removeprefix("Partition:")),
        [(name, _bytes(text)) for name, _, text in pairs],
        _bytes(key),
        _bytes(value),
    )


def _bytes(text: str) -> bytes | None:
    """What the tool printed: printable ASCII as it is, else as backslash, x and two digits."""
    written = re.sub(r"\\x([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), text).encode(
        "latin-1"
    )
    return None if written == NULL.encode() else written


@cache
def _class_path() -> str:
    tools = (
        MavenContext()
        .project("org.apache.kafka", "kafka-tools")
        .at_version(KAFKA)
        .artifact()
        .resolve()
    )
    return os.pathsep.join((str(tools), f"{jars()}{os.sep}*"))


def _run(
    tool: str,
    kafka: KafkaConfig,
    topic: str,
    properties: dict[str, str],
    options: list[str],
    *,
    given: str = "",
) -> str:
    """What a console tool says when it is given a text."""
    command = [
        str(java()),
        *JAVA_OPTIONS,
        "-Dstdout.encoding=UTF-8",
        "-cp",
        _class_path(),
        f"org.apache.kafka.tools.{tool}",
        "--bootstrap-server",
        kafka.bootstrap_servers,
        "--topic",
        topic,
        *options,
        *(part for name, value in properties.items() for part in ("--property", f"{name}={value}")),
    ]
    ran = subprocess.run(
        command, input=given, capture_output=True, encoding="utf-8", timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
