"""The sample: orders and line items of the TPC-H benchmark, as records to send, and their sums by another road.

`tpchgen-cli` writes the files. `orders` reads them side by side, one order at a time, so that
memory stays flat at any scale; `expected_sums` reads each file alone, in whole cents and pieces,
and shares nothing with it but the names.
"""

import csv
import itertools
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from faust import Record

from famulus.errors import ConfigError
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord, headers_of

POISON = (
    b'{"order_id": "1"',
    b"\xff\xfe\x00",
    b'{"order_id": 5, "items": null}',
    None,
    b"[]",
    b'"an order"',
)
ORDERS_PER_SCALE = 1_500_000  # TPC-H: orders at scale factor 1


def generate(scale: float, folder: Path) -> None:
    """Write `orders.csv` and `lineitem.csv` for a TPC-H scale factor (0.01 is 15,000 orders) into *folder*.

    Raises ConfigError when the generator is missing or fails.
    """
    beside = Path(sys.executable).with_name("tpchgen-cli")
    tool = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if tool is None:
        raise ConfigError(
            "tpchgen-cli is not installed: `make install`, or `pip install tpchgen-cli`"
        )
    command = [
        tool,
        "csv",
        "--scale-factor",
        str(scale),
        "--tables",
        "orders,lineitem",
        "--output-dir",
        str(folder),
    ]
    # Our own tool, no shell.
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ConfigError(
            f"tpchgen-cli could not make the sample: {made.stderr.strip().splitlines()[-1:]}"
        )


def check(folder: Path) -> None:
    """Raise ConfigError when the sample's files in *folder* cannot be read."""
    for name in ("orders.csv", "lineitem.csv"):
        next(_rows(folder / name), None)


def orders(folder: Path) -> Iterator[dict[str, Any]]:  # Any: values as an event takes them
    """The fields of one `orders.OrderCreated` after the other.

    Raises ConfigError when a file cannot be read.
    """
    lines = itertools.groupby(_rows(folder / "lineitem.csv"), key=lambda row: row["l_orderkey"])
    for order in _rows(folder / "orders.csv"):
        key, items = next(lines, (None, iter(())))
        if key != order["o_orderkey"]:
            raise ConfigError(
                f"sample: order {order['o_orderkey']} and line item of {key} do not match in "
                f"{folder}"
            )
        yield {
            "order_id": _uuid("order", order["o_orderkey"]),
            "customer_id": _uuid("customer", order["o_custkey"]),
            "total_amount": Decimal(order["o_totalprice"]),
            "created_at": f"{order['o_orderdate']}T00:00:00Z",
            "items": [
                {
                    "product_id": f"part-{item['l_partkey']}",
                    "quantity": int(item["l_quantity"]),
                    "price": Decimal(item["l_extendedprice"]) / int(item["l_quantity"]),
                }
                for item in items
            ],
        }


def records(
    folder: Path, event_type: type[Record], topic: str, *, duplicates: int, poison: int
) -> Iterator[ProducerRecord]:
    """The orders as records for *topic*, in the sample's order; the first *duplicates* of them come once more later.

    *poison* records without headers come in between, which no handler can read. Raises ConfigError
    as `orders` does.
    """
    codec = codec_of(event_type)
    again: list[ProducerRecord] = []
    spoilt = itertools.islice(itertools.cycle(POISON), poison)
    for number, fields in enumerate(orders(folder)):
        envelope = headers_of(
            event_id=str(fields["order_id"]),
            event_type=str(event_type._options.namespace),
            source="sample",
            time=datetime.now(UTC).isoformat(),
        )
        record = ProducerRecord(
            topic, str(fields["customer_id"]).encode(), codec.encode(event_type(**fields)), envelope
        )
        yield record
        if number < duplicates:
            again.append(record)
        if number % 2 and again:  # while the first may still be in flight, as well as long after
            yield again.pop()
        if number % 100 == 0:
            yield from (
                ProducerRecord(topic, record.key, value) for value in itertools.islice(spoilt, 1)
            )
    yield from again
    yield from (ProducerRecord(topic, b"poison", value) for value in spoilt)


def expected_sums(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """What the tables must hold: cents per customer, pieces per product.

    Raises ConfigError as `orders` does.
    """
    cents: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for row in _rows(folder / "orders.csv"):
        whole, _, fraction = row["o_totalprice"].partition(".")
        cents[str(_uuid("customer", row["o_custkey"]))] += int(whole) * 100 + int(
            fraction.ljust(2, "0")
        )
    for row in _rows(folder / "lineitem.csv"):
        pieces[f"part-{row['l_partkey']}"] += int(row["l_quantity"])
    return dict(cents), dict(pieces)


def _rows(file: Path) -> Iterator[dict[str, str]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines, strict=True)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"sample: {file} cannot be read: {reason}") from None


def _uuid(kind: str, key: str) -> UUID:
    return uuid5(NAMESPACE_OID, f"tpch-{kind}-{key}")
