"""Tests of the console's pages: foreign text stays text, and a page loads nothing from outside."""

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from faust.types import TP
from jinja2 import UndefinedError

from famulus.control.pauses import AuditInfo, PauseScope
from famulus.formatting import duration, printable
from famulus.inspection.deadletters.description import Row
from famulus.inspection.explain.answers import Answer, Facts
from famulus.observability.history import Chart
from famulus.web.console.dead_letters import FIELDS as ASKED
from famulus.web.console.explain import FIELDS, Told, next_step
from famulus.web.console.rendering import (
    PAGES,
    POLICY,
    TEXT_MAX,
    brief,
    fragment,
    number,
    render,
    shortened,
    static,
)
from famulus.web.settings_list import Shown
from famulus.web.worker_status import PartitionNow, by_topic

HOSTILE = "<script>alert(1)</script>\"'&\u202ekey\x00/..?after=#"
WHY = AuditInfo("ann", "noon")
FRAME: dict[str, Any] = {"is_live": False, "group": "a-group", "csrf": "", "may_act": True}
QUIET = PartitionNow(
    place=TP("things", 3),
    in_flight=0,
    in_hand=0,
    waiting=0,
    resting=0,
    oldest_s=0.0,
    is_window_full=False,
    settled=None,
    committed=None,
    commit_gap=0,
    lag=None,
    halted="",
    blocked="",
    paused="",
)
OVERVIEW: dict[str, Any] = {
    "path": "/console",
    "is_ready": True,
    "why": "",
    "flooded": [],
    "overdue": [],
    "waiting": [],
    "paused": [],
    "told": [],
    "partitions": [QUIET],
    "returning": [],
    "settled": 1234,
    "lag": 0,
    "unknown": 1,
    "in_flight": 0,
    "resting": 0,
    "outcomes": {"handled": 1234, "duplicate": 0, "dead_lettered": 0, "ignored": 0},
    "version": "dev",
    "charts": [Chart("rate", "records/s", 12.5, 20.0, "0.0,57.0 300.0,3.0")],
}

CAUSE = {
    "id": "3f2a91bc",
    "count": 3,
    "why": HOSTILE,
    "place": HOSTILE,
    "message": HOSTILE,
    "keys": [HOSTILE],
    "more_keys": 2,
    "first": "2026-01-31 12:00:00",
    "last": "",
}
ROW = {
    "origin": HOSTILE,
    "cause": "3f2a91bc",
    "why": HOSTILE,
    "failed": "2026-01-31 12:00:00",
    "key": HOSTILE,
    "message": HOSTILE,
    "state": HOSTILE,
    "hops": 2,
}
HOT = {
    "topic": HOSTILE,
    "partition": 0,
    "events": 1234,
    "skew": 1.75,
    "keys": [
        {"key": HOSTILE, "count": 617, "bytes": 50_000, "handler_s": 1.25, "share": 0.5},
    ],
}
LETTER: dict[str, Any] = {
    "origin": HOSTILE,
    "topic": HOSTILE,
    "partition": 0,
    "offset": 1,
    "is_open": True,
    "state": "open",
    "facts": {"cause": f"3f2a91bc\n{HOSTILE}"},
    "value": HOSTILE,
    "size": "3 bytes",
    "fault": HOSTILE,
    "is_gone": False,
    "headers": [(HOSTILE, HOSTILE)],
    "done": [HOSTILE],
    "good": HOSTILE,
    "is_json": True,
    "left": 3,
    "rows": [Row(HOSTILE, "added", HOSTILE, HOSTILE, is_faint=False)],
}


class Seen(HTMLParser):
    """The tags of a page, their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each *tag*."""
        return [attributes for name, attributes in self.tags if name == tag]


def rows(**values: Any) -> str:
    """Render the page of a table's rows."""
    given = {
        "path": "/console/tables",
        "name": "count",
        "key": "",
        "is_later": False,
        "rows": [],
        "following": None,
        "partitions": [0],
        "error": "",
    }
    return render("rows.html", **FRAME | given | values)


def letters(template: str, **values: Any) -> str:
    """Render a page about dead letters."""
    search = {"topics": [HOSTILE], "by": {"key": "key"}, "asked": dict.fromkeys(ASKED, HOSTILE)}
    return render(template, **FRAME | {"path": "/console/dead-letters"} | search | values)


def explain(**values: Any) -> str:
    """Render the page that explains the state of an event."""
    given = {
        "path": "/console/explain",
        "asked": dict.fromkeys(FIELDS, ""),
        "topics": [],
        "found": [],
        "error": "",
    }
    return render("explain.html", **FRAME | given | values)


def hostile_pages() -> list[str]:
    """Render every page with hostile text at all places of foreign text.

    The text is that of events, settings or the cluster.
    """
    bad = {"halted": HOSTILE, "blocked": ""}
    fields = {name: getattr(QUIET, name) for name in PartitionNow.__slots__}
    halted, blocked = PartitionNow(**fields | bad), PartitionNow(**fields | {"blocked": HOSTILE})
    paused = PartitionNow(**fields | {"paused": HOSTILE})
    overdue = {
        "topic": "t",
        "partition": 0,
        "offset": 1,
        "seconds": 400.0,
        "handler": HOSTILE,
        "key_digest": HOSTILE,
    }
    stuck = {
        "why": HOSTILE,
        "flooded": [HOSTILE],
        "waiting": [HOSTILE],
        "paused": [HOSTILE],
        "told": [HOSTILE],
        "overdue": [overdue],
        "partitions": [halted, blocked],
        "version": HOSTILE,
    }
    counts = {"handled": 1, "ignored": 0}
    return [
        render("overview.html", **FRAME | OVERVIEW | stuck),
        render(
            "subscriptions.html",
            **FRAME,
            path="/console/subscriptions",
            subscriptions=[("things", counts, [halted, blocked, paused, QUIET])],
            pauses=[(HOSTILE, "topic=t")],
        ),
        render(
            "said.html",
            **FRAME,
            path="/console/dead-letters",
            title=HOSTILE,
            lines=[HOSTILE],
            is_bad=True,
        ),
        render(
            "confirm.html",
            **FRAME,
            path="/console/dead-letters",
            title=HOSTILE,
            lines=[HOSTILE],
            does="Do",
            asked={"topic": HOSTILE},
        ),
        rows(name=HOSTILE, key=HOSTILE, rows=[(HOSTILE, HOSTILE)], following=HOSTILE),
        rows(error=ValueError(HOSTILE)),
        letters(
            "deadletters.html", subscriptions=[("things", [CAUSE], ""), ("others", [], HOSTILE)]
        ),
        letters(
            "letters.html",
            rows=[ROW],
            count=1,
            first=1,
            last=1,
            before="page=1",
            following="page=3",
            topic=HOSTILE,
        ),
        letters("letter.html", **LETTER),
        letters("letter.html", **LETTER | {"rows": [], "is_json": False}),
        explain(
            found=[
                Told(
                    Facts(HOSTILE, 0, 1, 0, 9, type_name=HOSTILE),
                    Answer("parked", HOSTILE, HOSTILE),
                    "/",
                    "Go",
                )
            ]
        ),
        explain(asked=dict.fromkeys(FIELDS, HOSTILE), topics=[HOSTILE], error=HOSTILE),
        render(
            "settings.html",
            **FRAME,
            path="/console/settings",
            settings=[Shown("A.B", HOSTILE, "", HOSTILE)],
        ),
        render(
            "workers.html",
            **FRAME,
            path="/console/workers",
            workers=[(HOSTILE, [("things", [1])])],
            error="",
        ),
        render("workers.html", **FRAME, path="/console/workers", workers=[], error=HOSTILE),
        render("hotkeys.html", **FRAME, path="/console/hot-keys", partitions=[HOT], is_shown=True),
    ]


def test_what_events_bring_along_stays_text() -> None:
    """The text becomes no tag and no attribute on any page."""
    for page in hostile_pages():
        seen = Seen(page)
        assert not seen.all("script")
        assert "<script>alert(1)</script>" in unescape(page)
        names = {name for _, attributes in seen.tags for name in attributes}
        assert not {name for name in names if name.startswith("on") or name == "style"}


def test_a_paused_partition_does_not_get_on() -> None:
    """Both pages that show partitions give the author and the reason of the pause."""
    fields = {name: getattr(QUIET, name) for name in PartitionNow.__slots__}
    why = "things is paused since noon by ann: moving"
    paused = PartitionNow(**fields | {"paused": why})
    page = render(
        "subscriptions.html",
        **FRAME,
        path="/console/subscriptions",
        subscriptions=[("things", {}, [paused])],
        pauses=[],
    )
    assert (why in Seen(page).text, "gets on" in Seen(page).text) == (True, False)
    assert why in Seen(render("overview.html", **FRAME | OVERVIEW | {"paused": [why]})).text


def test_what_cannot_be_seen_is_shown() -> None:
    """A key with a change of text direction, or with a NUL, cannot look like another key."""
    seen = Seen(rows(rows=[(HOSTILE, HOSTILE)]))
    assert "\u202e" not in seen.text
    assert "\x00" not in seen.text
    assert r"\u202ekey\x00" in seen.text


def test_a_link_has_the_whole_key() -> None:
    """Characters with a meaning in a URL are encoded."""
    links = [str(a["href"]) for a in Seen(rows(rows=[(HOSTILE, "1")], following=HOSTILE)).all("a")]
    asked = [parse_qs(urlsplit(link).query) for link in links if link.startswith("?")]
    assert asked == [{"key": [HOSTILE]}, {"after": [HOSTILE]}]


def test_a_page_asks_for_nothing_outside_of_the_worker() -> None:
    """Inline scripts and styles would be blocked by the content security policy."""
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    live = FRAME | OVERVIEW | {"is_live": True, "csrf": "a token"}
    seen = Seen(render("overview.html", **live))
    assert [script["src"] for script in seen.all("script")] == ["/console/console.js"]
    assert not seen.all("style")
    for _, attributes in seen.tags:
        for name in ("src", "href", "action"):
            assert str(attributes.get(name, "/")).startswith("/")
    for name in ("style.css", "console.js"):
        assert not re.search(rb"https?:|url\(|@import|innerHTML|eval", static(name))
        assert static(name).isascii()


def test_a_fragment_is_the_main_part_of_its_page() -> None:
    """An open page gets the same HTML as a page that is loaded again."""
    given = FRAME | OVERVIEW | {"why": HOSTILE}
    main = fragment("overview.html", **given)
    assert main.strip() in render("overview.html", **given)
    assert "<script" not in main
    assert [svg["role"] for svg in Seen(main).all("svg")] == ["img"]


def test_the_menu_says_where_one_is_and_a_session_can_end() -> None:
    """A client with a token in a header has no session to end."""
    seen = Seen(render("overview.html", **FRAME | OVERVIEW))
    assert [a["href"] for a in seen.all("a") if "aria-current" in a] == ["/console"]
    assert {str(a["href"]) for a in seen.all("a")} >= PAGES.keys()
    assert not seen.all("form")
    seen = Seen(render("overview.html", **FRAME | OVERVIEW | {"csrf": "a token"}))
    assert seen.all("form") == [{"method": "post", "action": "/logout"}]
    assert seen.all("input") == [{"type": "hidden", "name": "csrf", "value": "a token"}]


def test_who_may_look_sees_nothing_that_acts() -> None:
    """Buttons need admin access; commands for an operator are shown to all."""
    answer = Told(
        Facts("things", 0, 1, 0, 9),
        Answer("dead letter", "no", "faust -A app dlq redrive"),
        "/console/redrive",
        "Go",
    )
    for may_act in (True, False):
        pages = [
            explain(found=[answer], may_act=may_act),
            render(
                "subscriptions.html",
                **FRAME | {"may_act": may_act},
                path="/console/subscriptions",
                subscriptions=[("things", {}, [QUIET])],
                pauses=[("things is paused", "topic=things")],
            ),
        ]
        links = {str(a["href"]).partition("?")[0] for page in pages for a in Seen(page).all("a")}
        assert (
            links & {"/console/redrive", "/console/pause", "/console/resume"} != set()
        ) is may_act
    assert "faust -A app dlq redrive" in pages[0]


@pytest.mark.parametrize(
    ("facts", "state", "link"),
    [
        ({}, "dead letter", "/console/redrive?topic=t&origin=t%2F0%2F7"),
        ({}, "parked", "/console/redrive?topic=t&origin=t%2F0%2F7"),
        ({"dead_before": 3}, "parked", "/console/redrive?topic=t&origin=t%2F0%2F3"),
        ({"before": [5, 6]}, "behind", "/console/explain?topic=t&partition=0&offset=5"),
        ({"pause": (PauseScope("t", 0), WHY)}, "paused", "/console/resume?topic=t&partition=0"),
        ({"pause": (PauseScope(), WHY)}, "paused", "/console/resume?topic=%2A"),
        ({}, "next", ""),
    ],
)
def test_an_answer_leads_to_what_gets_the_event_on(
    facts: dict[str, Any], state: Any, link: str
) -> None:
    """The link leads to the dead letter that blocks the event, or to the widest pause."""
    assert next_step(Facts("t", 0, 7, 0, 9, **facts), Answer(state, ""))[0] == link


def test_hot_keys_are_shown_with_their_measures() -> None:
    """Share, events, bytes and time are shown; without a partition there is no table."""
    page = render(
        "hotkeys.html", **FRAME, path="/console/hot-keys", partitions=[HOT], is_shown=False
    )
    text = " ".join(Seen(page).text.split())
    assert "1,234 events; the fullest partition of the topic has 1.75 times the mean" in text
    assert all(says in text for says in ("50.0 %", "617", "50,000", "1.2 s"))
    assert "Keys are digests unless Worker.ShowKeys is set." in text
    page = render("hotkeys.html", **FRAME, path="/console/hot-keys", partitions=[], is_shown=True)
    assert "No partition of this worker had an event." in Seen(page).text


def test_what_is_missing_breaks_the_page() -> None:
    """A value that is missing in a template is an error, not an empty place."""
    with pytest.raises(UndefinedError):
        render("overview.html", **FRAME | OVERVIEW | {"partitions": [{}]})
    with pytest.raises(UndefinedError):
        render("tables.html", path="/console/tables")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(1234567), "1,234,567"),
        (number(None), "-"),
        (duration(1.25), "1.2 s"),
        (duration(90), "1.5 min"),
        (duration(7200), "2.0 h"),
        (brief(0.25), "0.2"),
        (brief(3.0), "3"),
        (brief(12345.6), "12,346"),
        (printable("a\nb"), r"a\nb"),
        (printable("ü"), "ü"),
        (shortened("x"), "x"),
        (shortened("x" * 3_000), "x" * TEXT_MAX + "... (3,000 characters)"),
    ],
)
def test_numbers_and_texts_read_well(shown: str, expected: str) -> None:
    assert shown == expected


def test_partitions_of_a_member_are_in_order() -> None:
    """Partition numbers are not sorted as text."""
    assert by_topic([TP("b", 10), TP("b", 9), TP("a", 1)]) == [("a", [1]), ("b", [9, 10])]
