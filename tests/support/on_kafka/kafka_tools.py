"""Kafka's own command line tools, of the broker's version, to compare ours with."""

import os
import subprocess

from famulus.dev.jars import KAFKA, gathered, jars, java

ENDPOINT = f"org.apache.kafka:kafka-tools:{KAFKA}"
LIMIT_S = 60
# Committed, the log's end, lag; None where the tool says `-`.
Offsets = tuple[int | None, int | None, int | None]


def described(servers: str, *groups: str) -> dict[tuple[str, str, int], Offsets]:
    """What `kafka-consumer-groups --describe` says of *groups*, by group, topic and partition."""
    jar_paths = os.pathsep.join(
        f"{folder}{os.sep}*" for folder in (jars(), gathered("kafka-tools", ENDPOINT))
    )
    command = [
        str(java()),
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xmx256m",
        "-cp",
        jar_paths,
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "--bootstrap-server",
        servers,
        "--describe",
        *(argument for group in groups for argument in ("--group", group)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    found: dict[tuple[str, str, int], Offsets] = {}
    names: list[str] = []
    for line in done.stdout.splitlines():
        cells = line.split()
        if cells[:2] == ["GROUP", "TOPIC"]:
            names = cells
        elif names and len(cells) >= len(names):
            row = dict(zip(names, cells, strict=False))  # a member's id may have blanks, at the end
            place = row["GROUP"], row["TOPIC"], int(row["PARTITION"])
            found[place] = (
                _offset(row["CURRENT-OFFSET"]),
                _offset(row["LOG-END-OFFSET"]),
                _offset(row["LAG"]),
            )
    assert found, done.stdout + done.stderr
    return found


def _offset(cell: str) -> int | None:
    return None if cell == "-" else int(cell)
