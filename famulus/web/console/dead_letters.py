"""Dead letters of the whole group: by cause, one by one, and each in full.

    GET /console/dead-letters         the causes of each subscription
    GET /console/dead-letters/list    ?topic=, and &cause=, or &by=key|id|origin&q=; with &all=1
                                      those that were redriven or dropped, too
    GET /console/dead-letters/letter  ?topic=&origin=, and beside it the last good event of its type

The pages show what `faust -A app dlq list` and `show` print. The topics are read again for each
page, by one request at a time.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from faust.web import Request, Response

from famulus.application import Famulus
from famulus.deadletter.dead_letter import Audit, DeadLetter, Origin, parse_dead_letter
from famulus.deadletter.index import Criteria, DeadLetterIndex, Entry, text_of
from famulus.errors import ConfigError, OperatingError
from famulus.formatting import number, printable, short, time_text, value_text
from famulus.inspection.changelog_reader import subscription_of
from famulus.inspection.deadletters.causes import CauseGroup, grouped
from famulus.inspection.deadletters.description import (
    difference_rows,
    done_to,
    facts_of,
    key_text,
    why,
)
from famulus.inspection.deadletters.detail import LetterDetail, seen
from famulus.inspection.deadletters.reader import Reader, register_of
from famulus.processing.subscription import Subscription
from famulus.serialization.json_codec import json_of
from famulus.web.console.html_page import READ_RECORDS_MAX, HtmlPage, reading_logs
from famulus.web.json_view import status_of
from famulus.web.route_docs import HTML, RouteDocs, texts

PAGE_LETTERS = 50
KEYS_SHOWN = 3
KEY_SHOWN = 16  # characters of each
BY = {"key": "key", "id": "event id", "origin": "topic/partition/offset"}
FIELDS = ("topic", "cause", "by", "q", "all", "page")
NOT_THERE = "There is no such letter."


@dataclass(frozen=True)
class Asked:
    """A request for dead letters of *subscription*; *page* counts from 1.

    *fields* are the fields of its address.
    """

    subscription: Subscription
    criteria: Criteria
    is_all: bool
    page: int
    fields: dict[str, str]

    def query(self, page: int) -> str:
        """Return the query string of another page."""
        return urlencode(
            {**{name: value for name, value in self.fields.items() if value}, "page": page}
        )


class LettersPage(HtmlPage):
    """A page about dead letters."""

    path = "/console/dead-letters"

    async def answer(self, request: Request) -> Response:
        """Return the page. Raises ValueError for a wrong request, and OperatingError."""
        raise NotImplementedError

    async def get(self, request: Request) -> Response:
        """Show it, or what is wrong."""
        try:
            return await self.answer(request)
        except ValueError as error:
            return self.refuse(request, 400, str(error))
        except OperatingError as error:
            return self.refuse(request, status_of(error), str(error))

    async def register(
        # Frozen.
        self,
        reader: Reader,
        subscription: Subscription,
        criteria: Criteria = Criteria(),
        *,
        is_all: bool = False,
        audits: list[Audit] | None = None,
    ) -> DeadLetterIndex:
        """Index the dead letters of a subscription; append what was done to them to *audits*.

        Raises as `register_of` does.
        """
        noted = (lambda _: None) if audits is None else audits.append
        return await register_of(
            self.host,
            reader,
            subscription,
            criteria,
            is_all=is_all,
            noted=noted,
            records_max=READ_RECORDS_MAX,
        )


class CausesPage(LettersPage):
    """The causes."""

    async def answer(self, request: Request) -> Response:
        """Show the causes of each subscription, or the error of reading its dead letters."""
        found: list[tuple[str, list[dict[str, Any]], str]] = []  # Any: what the template shows
        async with reading_logs(self.host) as reader:
            for subscription in self.host.subscriptions.values():
                causes, error = [], ""
                try:
                    register = await self.register(reader, subscription)
                    causes = [
                        _cause(group) for group in grouped(register.entries(), register.messages)
                    ]
                except OperatingError as wrong:
                    error = str(wrong)
                found.append((subscription.topic_name, causes, error))
        return self.show(request, "deadletters.html", subscriptions=found, **_search(self.host, {}))


class ListPage(LettersPage):
    """List of single dead letters."""

    about = RouteDocs((HTML,), query=texts(*FIELDS))

    async def answer(self, request: Request) -> Response:
        """Show a page of the dead letters that match."""
        asked = asked_of(self.host, {name: request.query.get(name, "").strip() for name in FIELDS})
        async with reading_logs(self.host) as reader:
            register = await self.register(
                reader, asked.subscription, asked.criteria, is_all=asked.is_all
            )
            meant = [entry for entry in register.entries() if entry.is_meant]
            first = (asked.page - 1) * PAGE_LETTERS
            page = meant[first : first + PAGE_LETTERS]
            topic = self.host.dead_letter_topic(asked.subscription)
            records = await reader.letters(topic, page)
        rows = [
            _row(entry, parse_dead_letter(records[entry.place]) if entry.place in records else None)
            for entry in page
        ]
        last = first + len(page)
        return self.show(
            request,
            "letters.html",
            rows=rows,
            count=len(meant),
            first=first + 1,
            last=last,
            before=asked.query(asked.page - 1) if asked.page > 1 else "",
            following=asked.query(asked.page + 1) if last < len(meant) else "",
            topic=asked.subscription.topic_name,
            **_search(self.host, asked.fields),
        )


class LetterPage(LettersPage):
    """One dead letter."""

    about = RouteDocs((HTML,), query=texts("topic", "origin"))

    async def answer(self, request: Request) -> Response:
        """All that is known of it."""
        subscription = subscription_of(self.host, request.query.get("topic", ""))
        origin = Origin.of(request.query.get("origin", ""))
        async with reading_logs(self.host) as reader:
            sight = await self._sight(
                reader, subscription, origin._replace(topic=subscription.topic_name)
            )
        settled = sight.entry.settled
        rows, left = difference_rows(sight.differences, sight.fault.partition(": ")[0])
        return self.show(
            request,
            "letter.html",
            origin=str(origin),
            topic=subscription.topic_name,
            partition=origin.partition,
            offset=origin.offset,
            is_open=sight.entry.is_open,
            state="open" if settled is None else f"{settled.what} {time_text(settled.at_ms)} UTC",
            facts=facts_of(sight),
            value=printable(sight.gone) if sight.gone else value_text(sight.value),
            size=number(sight.letter.value_bytes, "byte"),
            fault=sight.fault,
            is_gone=bool(sight.gone),
            headers=[(name, text_of(of)) for name, of in sight.headers],
            done=done_to(sight),
            good=str(sight.good) if sight.good is not None else "",
            rows=rows,
            left=left,
            is_json=json_of(sight.value) is not None,
        )

    async def _sight(
        self, reader: Reader, subscription: Subscription, origin: Origin
    ) -> LetterDetail:
        """Return the open dead letter of an event, else the newest.

        Raises ConfigError if there is none.
        """
        audits: list[Audit] = []
        register = await self.register(
            reader, subscription, Criteria(origin=origin), is_all=True, audits=audits
        )
        every = register.entries()
        meant = [entry for entry in every if entry.is_meant]
        chosen = [entry for entry in meant if entry.is_open] or meant
        if not chosen:
            raise ConfigError(NOT_THERE)
        record = (await reader.letters(self.host.dead_letter_topic(subscription), chosen[-1:])).get(
            chosen[-1].place
        )
        if record is None:
            raise ConfigError(NOT_THERE)
        done = [
            audit
            for audit in audits
            if audit.id.origin == origin and audit.group == self.host.group
        ]
        dead = {entry.id.origin for entry in every}
        return await seen(
            self.host, reader, subscription, entry=chosen[-1], record=record, audits=done, dead=dead
        )


def asked_of(app: Famulus, fields: dict[str, str]) -> Asked:
    """Parse the fields of an address.

    Raises ValueError for fields that make no sense, ConfigError for a topic without a subscription.
    """
    subscription = subscription_of(app, fields["topic"])
    by, text, page = fields["by"] or "key", fields["q"], fields["page"] or "1"
    if by not in BY or not (page.isascii() and page.isdecimal() and int(page[:9]) > 0):
        raise ValueError(f"Search by {', '.join(BY)}; a page is a number from 1 on.")
    criteria = Criteria(
        cause=fields["cause"] or None,
        key=text if text and by == "key" else None,
        event_id=text if text and by == "id" else None,
        origin=Origin.of(text)._replace(topic=subscription.topic_name)
        if text and by == "origin"
        else None,
    )
    return Asked(subscription, criteria, bool(fields["all"]), int(page[:9]), {**fields, "page": ""})


def _search(app: Famulus, fields: dict[str, str]) -> dict[str, Any]:  # Any: what the template shows
    """Return the values of the search form."""
    topics = [s.topic_name for s in app.subscriptions.values()]
    return {"topics": topics, "by": BY, "asked": {**dict.fromkeys(FIELDS, ""), **fields}}


def _cause(group: CauseGroup) -> dict[str, Any]:  # Any: as above
    first, last = time_text(group.first_ms), time_text(group.last_ms)
    some = [short(key_text(key), KEY_SHOWN) for key in group.keys[:KEYS_SHOWN]]
    return {
        "id": group.cause.id,
        "count": group.count,
        "why": why(group.cause),
        "place": group.cause.place,
        "message": group.message,
        "keys": some,
        "more_keys": max(len(group.keys) - KEYS_SHOWN, 0),
        "first": first,
        "last": last if last != first else "",
    }


def _row(entry: Entry, letter: DeadLetter | None) -> dict[str, Any]:  # Any: as above
    return {
        "origin": str(entry.id.origin),
        "cause": entry.cause.id,
        "why": why(entry.cause),
        "failed": time_text(entry.at_ms),
        "key": short(key_text(entry.key), 60),
        "message": letter.message if letter is not None else "",
        "state": ""
        if entry.settled is None
        else f"{entry.settled.what} {time_text(entry.settled.at_ms)} UTC",
        "hops": entry.id.hops,
    }
