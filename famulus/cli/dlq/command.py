"""`faust -A app dlq`: list, show, dry-run, redrive and drop dead letters."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.dlq.listing import Asked, list_letters, show_letter
from famulus.cli.dlq.redrive import return_letters
from famulus.cli.output import is_answering
from famulus.deadletter.dead_letter import Origin
from famulus.deadletter.index import Criteria, time_of
from famulus.errors import ConfigError
from famulus.inspection.changelog_reader import subscriptions_of
from famulus.processing.subscription import Subscription

ONLY_FOR = {  # which options belong to which actions
    "each": ("list", "redrive"),
    "group": ("list", "show"),
    "is_all": ("list", "show", "redrive", "drop"),
    "everything": ("redrive", "drop"),
    "yes": ("redrive", "drop"),
    "note": ("redrive", "drop"),
    "rate": ("redrive", "drop"),
    "limit": ("list", "redrive", "drop"),
    "is_dry": ("redrive",),
    "edit": ("redrive",),
    "force": ("redrive",),
}
FLAGS = {"is_all": "--all", "is_dry": "--dry-run"}


class dlq(Command):  # Faust names the command after the class
    """List dead letters, send them back to their group, or drop them.

    `list` groups them by cause. `show` prints all of one dead letter, and the difference between
    its event and the last good event of its type. `redrive` sends dead letters back to the group in
    which they failed; workers handle each as the original event, at its place in the order of its
    key, and once. `drop` removes them from the list, and events that wait behind them may go on.
    Each redrive and drop is recorded in an audit topic beside the dead letter topic.

    `redrive --dry-run` shows what the handlers of this code would do, and discards their effects.
    Only their effects on outside services, such as a database or a mail server, are real.

    \b
    For example:
    faust -A app dlq list
    faust -A app dlq list --each --since 2h --key 4711
    faust -A app dlq show order-events/3/1042
    faust -A app dlq redrive --cause 3f2a91bc --dry-run
    faust -A app dlq redrive --cause 3f2a91bc --rate 100
    faust -A app dlq redrive order-events/3/1042 --edit --note "price was a text"
    faust -A app dlq drop --topic order-events --everything --note "test data"
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("action", type=click.Choice(["list", "show", "redrive", "drop"])),
        argument("where", metavar="[ORIGIN]", required=False),
        option("--topic", help="The source topic of one subscription; all unless set."),
        option("--cause", metavar="ID", help="Letters of this cause, as `list` names it."),
        option("--key", metavar="TEXT", help="Letters with this key."),
        option("--id", "event_id", metavar="EVENTID", help="The letter of this event."),
        option(
            "--origin", metavar="ORIGIN", help="The letter of the event at TOPIC/PARTITION/OFFSET."
        ),
        option(
            "--since",
            metavar="WHEN",
            help="That failed since then: an ISO time, or an age such as 30m, 2h, 3d.",
        ),
        option("--until", metavar="WHEN", help="That failed before."),
        option("--group", help="list, show: letters of this consumer group."),
        option("--all", "is_all", is_flag=True, help="Also those that were redriven or dropped."),
        option(
            "--each",
            is_flag=True,
            help="list: letter by letter. redrive --dry-run: what each would do.",
        ),
        option(
            "--limit",
            type=click.IntRange(min=0),
            help="So many letters; list --each: 100 unless set, 0: all.",
        ),
        option("--everything", is_flag=True, help="redrive, drop: all letters that there are."),
        option(
            "--dry-run",
            "is_dry",
            is_flag=True,
            help="redrive: say what would happen; 1 if some would fail again.",
        ),
        option(
            "--edit", is_flag=True, help="redrive: one letter, with its value changed in $EDITOR."
        ),
        option(
            "--rate",
            type=click.IntRange(min=0),
            help="Letters per second, 500 unless set; 0: no limit.",
        ),
        option("--force", is_flag=True, help="redrive: also what was redriven ten times."),
        option("--note", help="redrive, drop: why, for those who ask later."),
        option("--yes", is_flag=True, help="redrive, drop: do not ask."),
        option("--json", "is_json", is_flag=True, help="One JSON object a line."),
    ]

    # Any: values of click.
    async def run(self, action: str, where: str | None, topic: str | None, **given: Any) -> None:
        """Check the options, then run the action.

        Raises UsageError for options that do not fit the action.
        """
        for name, only in ONLY_FOR.items():
            if given[name] not in (None, False) and action not in only:
                raise click.UsageError(
                    f"{FLAGS.get(name, '--' + name)}: only for {' and '.join(only)}"
                )
        criteria = _criteria(where, given, time.time_ns() // 1_000_000)
        is_json = given.pop("is_json") or self.json
        subscriptions, criteria = _of_origin(subscriptions_of(self.app, topic), criteria)
        asked = Asked(subscriptions, criteria, is_json, **{name: given[name] for name in ONLY_FOR})
        if action in ("redrive", "drop"):
            if criteria.is_empty and not asked.everything:
                raise click.UsageError(
                    f"{action} needs an ORIGIN or a filter (--cause, --key, --id, --since, "
                    "--until), or --everything"
                )
            if not (asked.yes or asked.is_dry or is_answering()):
                raise click.UsageError("nobody is there to say yes: add --yes")
        if action == "list":
            await list_letters(self.app, asked)
        elif action == "show":
            await show_letter(self.app, asked)
        else:
            await return_letters(self.app, asked, "drop" if action == "drop" else "redrive")


def _criteria(where: str | None, given: dict[str, Any], now_ms: int) -> Criteria:
    if where is not None and given["origin"] not in (None, where):
        raise click.UsageError("one origin at a time")
    return Criteria(
        given["cause"],
        given["key"],
        given["event_id"],
        _parsed(Origin.of, where or given["origin"], "ORIGIN"),
        _parsed(lambda text: time_of(text, now_ms), given["since"], "--since"),
        _parsed(lambda text: time_of(text, now_ms), given["until"], "--until"),
    )


def _parsed(parse: Any, text: str | None, hint: str) -> Any:  # Any: the result of *parse*
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None


def _of_origin(
    subscriptions: Sequence[Subscription], criteria: Criteria
) -> tuple[Sequence[Subscription], Criteria]:
    """Return the subscription of the origin in *criteria*, and the criteria for it.

    Without an origin both arguments are returned unchanged. The origin may name its topic as models
    do; the criteria returned have the topic's name on the cluster. Raises ConfigError when no
    subscription reads the topic.
    """
    origin = criteria.origin
    if origin is None:
        return subscriptions, criteria
    for subscription in subscriptions:
        if origin.topic in (subscription.name, subscription.topic_name):
            return [subscription], replace(
                criteria, origin=origin._replace(topic=subscription.topic_name)
            )
    known = ", ".join(subscription.name for subscription in subscriptions) or "none"
    raise ConfigError(f"no subscription reads topic {origin.topic!r}; there are: {known}")
