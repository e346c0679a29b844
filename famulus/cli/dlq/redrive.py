"""`dlq redrive` and `dlq drop`: plan, confirm, and send or drop; or a dry run."""

import asyncio
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import click

from famulus.application import Famulus
from famulus.cli.dlq.edit import edited
from famulus.cli.dlq.listing import Asked, progress, registered
from famulus.cli.dlq.render import json_lines as lines
from famulus.cli.dlq.render import tables
from famulus.cli.dlq.render.page import difference_table
from famulus.cli.output import console, print_note, print_text, put_line
from famulus.deadletter.dead_letter import Cause, DeadLetter, Done
from famulus.deadletter.index import PAST, Entry, Plan
from famulus.deadletter.masking import truncate
from famulus.errors import OperatingError
from famulus.formatting import number, printable
from famulus.inspection.deadletters.causes import grouped
from famulus.inspection.deadletters.description import key_text, otherwise
from famulus.inspection.deadletters.detail import fault_in
from famulus.inspection.deadletters.diff import differences
from famulus.inspection.deadletters.dry_run import End, dry_run
from famulus.inspection.deadletters.plan import RATE, plan_of
from famulus.inspection.deadletters.reader import Reader, reading
from famulus.inspection.deadletters.redelivery_builder import StaysError, sent_back
from famulus.inspection.deadletters.redrive import RedriveJob, Request, whoami
from famulus.kafka.admin import topics_there
from famulus.processing.subscription import Subscription
from famulus.serialization.json_codec import json_of
from famulus.serialization.key_text import key_bytes
from famulus.state.identity import is_other
from famulus.wiring import decoder_of

NOTE_BYTES_MAX = 2_000
SERVICES = (
    "Effects on tables and events are thrown away; what handlers do outside, by their "
    "services, is real."
)
Plans = Mapping[Subscription, Plan]


async def return_letters(app: Famulus, asked: Asked, action: Done) -> None:
    """Redrive or drop the dead letters that match.

    Exits with 1 when a dead letter stays, or would fail again in a dry run.
    """
    async with reading(app) as reader:
        plans = await _plans(app, reader, asked, action)
        chosen = sum(len(plan.chosen) for plan in plans.values())
        value = None
        if asked.edit and chosen:
            value = await _edited(app, reader, plans, asked)
        if asked.is_dry:
            is_fine = await _try(app, reader, plans, asked, value)
        else:
            if chosen and not asked.yes:
                click.confirm(
                    f"{action.capitalize()} {number(chosen, 'letter')}?",
                    abort=True,
                    err=asked.is_json,
                )
            request = Request(
                action,
                RATE if asked.rate is None else asked.rate,
                truncate(asked.note or "", NOTE_BYTES_MAX),
                value,
            )
            is_fine = await _do(app, reader, plans, asked, request)
    if not is_fine or any(plan.refused or plan.held for plan in plans.values()):
        raise SystemExit(1)


async def _plans(app: Famulus, reader: Reader, asked: Asked, action: Done) -> Plans:
    """Plan the action for each subscription, and print the plans."""
    plans: dict[Subscription, Plan] = {}
    left = asked.limit or None
    for subscription in asked.subscriptions:
        register = await registered(app, reader, subscription, asked, is_all=asked.is_all)
        plan = plan_of(subscription, register, action, limit=left, is_forced=asked.force)
        if left is not None:
            left -= len(plan.chosen)
        plans[subscription] = plan
        if plan.chosen and not (asked.is_json or asked.is_dry):
            _print_plan(
                app, subscription, plan, messages=register.messages, asked=asked, action=action
            )
        _note(subscription, plan)
        if action == "redrive":
            await _note_anew(app, subscription, plan)
    if not any(plan.chosen for plan in plans.values()):
        print_note(f"no letters to {action}: `dlq list` shows what there is")
    return plans


def _print_plan(
    app: Famulus,
    subscription: Subscription,
    plan: Plan,
    *,
    messages: dict[Cause, tuple[int, str]],
    asked: Asked,
    action: Done,
) -> None:
    out = console()
    count = len(plan.chosen)
    rate = RATE if asked.rate is None else asked.rate
    where = f"to be redriven to group {app.group}" if action == "redrive" else "to be dropped"
    pace = f", {rate:,} a second" if 0 < rate < count else ""
    out.put(tables.title(subscription.topic_name, f"{number(count, 'letter')} {where}{pace}"))
    out.put(tables.causes(grouped(plan.chosen, messages), out.width))


def _note(subscription: Subscription, plan: Plan) -> None:
    """Print where the plan differs from the request."""
    for line in otherwise(plan):
        print_note(f"{subscription.topic_name}: {line}")


async def _note_anew(app: Famulus, subscription: Subscription, plan: Plan) -> None:
    """Note the dead letters of a deleted topic that was created again by the same name."""
    if not any(entry.source_id for entry in plan.chosen):
        return
    topic = subscription.topic_name
    there = (
        await topics_there(app.settings.kafka, [topic], app.settings.worker.startup_timeout_s)
    ).of.get(topic)
    if there is None:
        return
    former = [entry for entry in plan.chosen if is_other(entry.source_id, there.id)]
    if former:
        print_note(
            f"{topic}: {number(len(former), 'letter')} (the first: {former[0].id.origin}) of a "
            "topic of that name that "
            "was deleted since: the events are handled as they are, their offsets are none of "
            "the present topic"
        )


async def _edited(app: Famulus, reader: Reader, plans: Plans, asked: Asked) -> bytes:
    """Return the value of the only dead letter, as the user changed it.

    Raises UsageError unless exactly one dead letter is chosen, OperatingError when it cannot be
    edited.
    """
    chosen = [
        (subscription, entry) for subscription, plan in plans.items() for entry in plan.chosen
    ]
    if len(chosen) != 1:
        raise click.UsageError(f"--edit takes one letter, and these are {len(chosen)}")
    [(subscription, entry)] = chosen
    record = (await reader.letters(app.dead_letter_topic(subscription), [entry])).get(entry.place)
    try:
        letter, returned = await sent_back(reader, record, "redrive", None)
    except StaysError as error:
        raise OperatingError(f"{entry.id.origin} cannot be edited: {error}") from None
    decoder = decoder_of(app.settings, subscription, app.dispatcher)
    value = edited(returned.value, lambda value: fault_in(decoder, replace(returned, value=value)))
    if not asked.is_json:
        out = console()
        out.put(tables.title(str(entry.id.origin), "what was changed"))
        now, before = (json_of(decoder.shown(each)) for each in (value, returned.value))
        out.put(difference_table(differences(now, before), "now", "before"))
    _note_key(decoder.decode(cast(Any, replace(returned, value=value))), letter)
    return value


def _note_key(event: Any, letter: DeadLetter) -> None:  # Any: a model has no common type
    """Note that the edited event has another key than its record, which keeps its key."""
    key = key_bytes(getattr(event, event.__key__))
    if key != letter.key:
        before, now = key_text(letter.key), key_text(key)
        what = f"its {event.__key__} is {now} now, and its record's key stays {before}"
        print_note(f"{what}: it is handled in the order, and sees the rows, of the latter")


async def _do(app: Famulus, reader: Reader, plans: Plans, asked: Asked, request: Request) -> bool:
    """Redrive or drop the dead letters, and return whether none of them stays."""
    is_fine = True
    for subscription, plan in plans.items():
        if not plan.chosen:
            continue
        sending = RedriveJob(app, reader, subscription, request, whoami())
        what = f"{request.action} {subscription.topic_name}"
        with progress(what, len(plan.chosen), is_quiet=asked.is_json) as (bar, progressed):

            def tell(entry: Entry, stays: str) -> None:
                progressed(1, None)  # called only within this iteration
                if asked.is_json:
                    print_text(lines.sent_json(entry, request.action, stays))
                elif stays:
                    bar.console.print(printable(f"{entry.id.origin} stays: {stays}"))  # as above

            with _stoppable(sending.stop):
                await sending.run(plan, tell)
        is_fine = is_fine and not sending.stays
        if not asked.is_json:
            stay = f", {number(sending.stays, 'letter')} stayed" if sending.stays else ""
            put_line(
                f"{subscription.topic_name}: {number(sending.sent, 'letter')} "
                f"{PAST[request.action]}{stay}"
            )
    return is_fine


@contextmanager
def _stoppable(stop: asyncio.Event) -> Iterator[None]:
    """Set *stop* on the first Ctrl-C or SIGTERM, and cancel the task on the second."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    for number_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number_, on_signal)
    try:
        yield
    finally:
        for number_ in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number_)


# A dry run.


async def _try(
    app: Famulus, reader: Reader, plans: Plans, asked: Asked, value: bytes | None
) -> bool:
    """Dry-run the dead letters, and return whether each would be handled.

    A duplicate counts as handled, and so does an event of an unknown type that its subscription
    ignores.
    """
    out = console()
    is_fine = True
    print_note(SERVICES)
    for subscription, plan in plans.items():
        if not plan.chosen:
            continue
        ends: dict[tuple[str, ...], End] = {}
        is_each = asked.each or len(plan.chosen) == 1
        is_quiet = asked.is_json or is_each
        with progress(f"trying {subscription.topic_name}", len(plan.chosen), is_quiet=is_quiet) as (
            _,
            progressed,
        ):
            async for trial in dry_run(app, reader, subscription, plan, value):
                progressed(1, None)
                is_fine = is_fine and trial.verdict in ("handled", "duplicate", "ignored")
                key = (trial.entry.cause.id, trial.verdict, trial.handler, trial.error)
                end = ends.setdefault(key, End(trial))
                end.count += 1
                end.rows += len(trial.rows)
                end.events += len(trial.events)
                if asked.is_json:
                    print_text(lines.trial_json(trial))
                elif is_each:
                    out.put(tables.trial(trial))
        if not asked.is_json:
            count = number(len(plan.chosen), "letter")
            out.put(tables.title(subscription.topic_name, f"what this code would do with {count}"))
            out.put(tables.ends(ends.values()))
    return is_fine
