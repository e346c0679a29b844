"""Tables on a real Kafka: the types of keys and values, windows and their end, and who sees what when."""

import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from famulus.dev.worker import WorkerProcess
from famulus.state.changelog import row_key
from famulus.state.windows import start_of
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import SLEEPING, House, wait_for

TYPES_MODEL = """
from datetime import datetime
from decimal import Decimal
from famulus import Event, Part


class Place(Part):
    name: str
    since: datetime
    rent: Decimal


class Thing(Event, namespace="things.Thing", topic="things", key="key"):
    key: str
    number: int = 0
    note: str = ""
"""
TYPES = """
places = things.Table("places", key=UUID, value=Place)
sums = things.Table("sums", key=datetime, value=Decimal, default=Decimal, help="Sums by day.")
times = things.Table("times", key=Decimal, value=datetime)
owners = things.Table("owners", key=Place, value=UUID)
lists = things.Table("lists", key=int, value=list[str], default=list)


@handles(Thing)
async def note(thing: Thing) -> None:
    day = datetime.fromisoformat("2026-01-01T00:00:00+00:00") + timedelta(days=thing.number)
    place = Place(name=thing.key, since=day, rent=Decimal("1.50"))
    places[UUID(int=thing.number)] = place
    sums[day] += Decimal("0.10")
    times[Decimal(thing.number) / 2] = day
    owners[place] = UUID(int=thing.number)
    lists[thing.number] = [*lists[thing.number], thing.key]
"""


def test_keys_and_values_of_many_types_answer_over_http(house: House) -> None:
    """Records, Decimal, datetime and UUID, page by page and one by one; `faust -A app tables` lists the tables."""
    house.build(TYPES, models=TYPES_MODEL)
    worker = house.start()
    house.send(*(house.thing("a/b ä", number) for number in range(4)))
    house.wait_settled(4, worker)

    place = {"name": "a/b ä", "since": "2026-01-03T00:00:00Z", "rent": "1.50"}
    for table, key, value in [
        ("places", str(UUID(int=2)), place),
        ("sums", "2026-01-03T00:00:00Z", "0.10"),
        ("times", "1.5", "2026-01-04T00:00:00Z"),
        ("lists", "2", ["a/b ä"]),
    ]:
        assert worker.get(f"/tables/{table}/{quote(key)}/")["value"] == value, table
        rows = pages(worker, table)
        assert len(rows) == 4
        assert rows[key] == value
    assert str(UUID(int=2)) in pages(worker, "owners").values()
    code, output = faust("tables", cwd=house.checkout)
    assert code == 0, output
    assert all(
        name in output
        for name in ("places", "sums", "times", "owners", "lists", "Sums by day.", "things")
    )


def pages(worker: WorkerProcess, table: str) -> dict[str, object]:
    """All rows of a table, one on a page."""
    rows: dict[str, object] = {}
    after = ""
    while True:
        page = worker.get(f"/tables/{table}/?limit=1{after}")
        rows.update({str(key): value for key, value in page["rows"]})
        if page["next"] is None:
            return rows
        after = f"&after={quote(str(page['next']))}"


WINDOWS = """
minutes = things.Table("minutes", key=str, value=int, default=int).tumbling(
    timedelta(minutes=1), expires=timedelta(minutes=2))
sliding = things.Table("sliding", key=str, value=int, default=int).hopping(
    timedelta(minutes=2), timedelta(minutes=1), expires=timedelta(minutes=1))


@handles(Thing)
async def note(thing: Thing) -> None:
    minutes[thing.key] += 1
    sliding[thing.key] += 1
"""
MINUTE = 60_000


def test_rows_of_closed_windows_disappear(house: House) -> None:
    """From the view, the store and the changelog, when events move the stream's time on; a late one's rows as well."""
    house.build(WINDOWS)
    worker = house.start()
    sent = 0
    base = (time.time_ns() // 1_000_000 - 24 * 60 * MINUTE) // MINUTE * MINUTE

    def row(minute: int, key: str) -> str:
        return f"{datetime.fromtimestamp((base + minute * MINUTE) / 1000, UTC).isoformat()}/{key}"

    def send(*at: tuple[str, float]) -> None:
        nonlocal sent
        for key, minute in at:
            house.send(house.thing(key, sent, at_ms=base + round(minute * MINUTE)))
            sent += 1
        house.wait_settled(sent, worker)

    send(("a", 0), ("a", 0.5), ("b", 0.9), ("a", 1))
    assert worker.rows("minutes") == {row(0, "a"): 2, row(0, "b"): 1, row(1, "a"): 1}
    assert worker.rows("sliding") == {
        row(-1, "a"): 2,
        row(-1, "b"): 1,
        row(0, "a"): 3,
        row(0, "b"): 1,
        row(1, "a"): 1,
    }
    assert worker.get(f"/tables/minutes/{quote(row(0, 'a'), safe='')}/")["value"] == 2
    send(("c", 10))
    assert worker.rows("minutes") == {row(10, "c"): 1}
    assert worker.rows("sliding") == {row(9, "c"): 1, row(10, "c"): 1}
    assert worker.answer(f"/tables/minutes/{quote(row(0, 'a'), safe='')}/")[0] == 404
    send(("late", 0), ("c", 10))
    assert worker.rows("minutes") == {row(10, "c"): 2}
    assert worker.rows("sliding") == {row(9, "c"): 2, row(10, "c"): 2}
    assert worker.stop() == 0
    stored = house.stored(row_key("minutes")) | house.stored(row_key("sliding"))
    logged = house.live(row_key("minutes")) | house.live(row_key("sliding"))
    assert stored == logged
    assert {start_of(key.split(b"\0", 1)[1]) for key in logged} == {
        base + 9 * MINUTE,
        base + 10 * MINUTE,
    }
    gone = [
        record
        for record in house.logged()
        if record.key.startswith(row_key("minutes")) and record.value is None
    ]
    assert {record.key.split(b"\0", 1)[1][8:] for record in gone} == {b"a", b"b", b"late"}


LOOKING = (
    SLEEPING.replace(
        "    while", '    count[thing.key] += 10\n    count["shared"] = thing.number\n    while'
    )
    + """

looks = []


def look():
    return {"rows": dict(count.items()), "a": count.get("a"), "is_there": "a" in count, "default": count["a"]}


@app.timer(0.1)
async def timer():
    looks.append(look())


@app.page("/look/")
async def page(view, request):
    try:
        count["a"] = 99
    except TypeError as error:
        return view.json({"page": look(), "timer": looks[-1:], "written": str(error)})
"""
)


def test_what_is_read_outside_a_handler_is_settled(house: House) -> None:
    """A page and a timer see nothing of an event in hand, and cannot write."""
    house.build(LOOKING)
    worker = house.start()
    house.send(house.thing("a", 1, "wait"))
    wait_for(lambda: worker.get("/look/")["timer"] != [])
    time.sleep(0.5)  # the handler has written by then, or this test shows less than it could
    nothing: dict[str, object] = {"rows": {}, "a": None, "is_there": False, "default": 0}
    seen = worker.get("/look/")
    assert (seen["page"], seen["timer"]) == (nothing, [nothing])
    assert seen["written"] == "table 'count' can only be changed inside a handler"
    (house.checkout / "go").touch()
    house.wait_settled(1, worker)
    settled = {"rows": {"a": 11, "shared": 1}, "a": 11, "is_there": True, "default": 11}
    assert worker.get("/look/")["page"] == settled
    wait_for(lambda: worker.get("/look/")["timer"] == [settled])


STATS = """
from faust import Record


class Stats(Record):
    n: int{last}


stats = things.Table("stats", key=str, value=Stats, default=lambda: Stats(n=0, **MORE))


@handles(Thing)
async def note(thing: Thing) -> None:
    stats[thing.key] = Stats(n=stats[thing.key].n + 1, **MORE)


MORE = {more}
"""


def test_a_row_that_older_code_wrote_stops_its_partition_in_words(
    house: House, tmp_path: Path
) -> None:
    """Pages, exports and the other partition go on without it; when its class has a default, its events are handled."""
    house.build(STATS.format(last="", more={}), partitions=2)
    settings = settings_of(house.kafka, tmp_path / "command")
    worker = house.start()
    house.send(
        house.thing("old", partition=0),
        house.thing("other", partition=0),
        house.thing("else", partition=1),
    )
    house.wait_settled(3, worker)
    assert worker.stop() == 0

    house.change(STATS.format(last="\n    last: str", more={"last": "x"}))
    worker = house.start()
    house.send(house.thing("old", 1, partition=0), house.thing("new", 1, partition=1))
    wait_for(lambda: worker.answer("/readyz")[0] == 503)
    why = worker.answer("/readyz")[1]["why"]
    assert "table 'stats': the row whose key has the digest" in why
    assert "$: Object missing required field `last`" in why
    wait_for(lambda: "new" in worker.rows("stats"))
    page = worker.get("/tables/stats/")
    assert page["rows"] == [["new", {"n": 1, "last": "x"}]]
    missing = "$: Object missing required field `last`"
    assert page["unreadable"] == [{"key": key, "why": missing} for key in ("else", "old", "other")]
    assert [
        worker.get(f"/tables/stats/?limit=1&after={key}")["next"] for key in ("else", "old")
    ] == ["new", None]
    status, answer = worker.answer("/tables/stats/old/")
    assert (status, answer["key"], missing in answer["error"]) == (409, "old", True)
    assert house.outcomes(worker)["dead_lettered"] == 0
    code, output = faust("state", "export", cwd=house.checkout, **settings)
    assert (code, "3 of them cannot be read (stats: 3)" in output) == (1, True), output
    assert output.count(missing) == 3
    assert worker.stop() == 0
    code, output = faust("state", "verify", cwd=house.checkout, **settings)
    assert (code, output.count("rows that cannot be read: stats: ")) == (1, 2), output

    house.change(STATS.format(last='\n    last: str = ""', more={"last": "x"}))
    worker = house.start()
    house.wait_settled(5, worker)
    rows = {"else": (1, ""), "new": (1, "x"), "old": (2, "x"), "other": (1, "")}
    assert worker.rows("stats") == {key: {"n": n, "last": last} for key, (n, last) in rows.items()}
    assert house.outcomes(worker)["dead_lettered"] == 0
    assert faust("state", "export", cwd=house.checkout, **settings)[0] == 0
