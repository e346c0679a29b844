"""`faust -A app pause`, `resume` and `paused`: pause partitions on every worker at run time."""

from collections.abc import Sequence
from typing import ClassVar

import click
from faust.cli import argument, option

from famulus.application import Famulus
from famulus.cli.command import PARTITION, Command
from famulus.cli.control_client import control_producer, read_told, resolve_scope
from famulus.cli.output import print_note, print_text, put_line
from famulus.control.admin_topic import change
from famulus.control.pauses import Action, PauseScope, said
from famulus.inspection.deadletters.redrive import whoami

MEANT = (
    argument("topic", required=False),
    option("--partition", type=PARTITION, help="Only this one."),
    option("--all", "is_all", is_flag=True, help="Every topic, instead of one."),
    option(
        "--note", "why", default="", metavar="WHY", help="Kept with it, and in the audit topic."
    ),
    option(
        "--json",
        "is_json",
        is_flag=True,
        help="One JSON object: what was changed, and what is paused then.",
    ),
)


class Acting(Command):
    """Base of the commands `pause` and `resume`, which differ in *action*."""

    abstract = True
    action: ClassVar[Action]
    options = list(MEANT)  # Faust reads a list here

    async def run(  # one parameter for each option
        self, topic: str | None, partition: int | None, why: str, *, is_all: bool, is_json: bool
    ) -> None:
        """Pause or resume, and print the change.

        Raises ConfigError when there is no such topic or partition, UnavailableError without a
        broker. Raises OperatingError when a wider pause covers what is to be resumed, so that it
        would stay paused.
        """
        if (topic is None) != is_all:
            raise click.UsageError("name a TOPIC, or say --all")
        await do(self.app, self.action, topic, partition, why, is_json=is_json)


class pause(Acting):  # Faust names the command after the class
    """Pause a topic, one partition or everything, on all workers of the group, until `resume`.

    Events in flight are finished and committed. Workers keep their partitions. A worker that starts
    later observes the pause as well. No worker needs to run.

    \b
    For example:
    faust -A app pause order-events --note "the warehouse is moving"
    faust -A app pause order-events --partition 3
    """  # \b keeps click from rewrapping the paragraph

    action = "pause"


class resume(Acting):  # as above
    """Resume a paused topic with all its partitions, one partition, or everything.

    \b
    For example:
    faust -A app resume order-events
    faust -A app resume --all --note "moved"
    """  # as above

    action = "resume"


class paused(Command):  # as above
    """List what is paused: since when, by which operator, and why.

    Pending seeks and the concurrency that is set are listed as notes on stderr. No worker needs to
    run.

    For example: faust -A app paused --json
    """

    options = [  # Faust reads a list here
        option("--json", "is_json", is_flag=True, help="One JSON array, of the pauses alone.")
    ]

    async def run(self, *, is_json: bool) -> None:
        """Print the pauses.

        Raises UnavailableError without a broker.
        """
        state = await read_told(self.app)
        if is_json:
            print_text(state.pauses.rows())
            return
        for target, why in sorted(state.pauses.of.items(), key=lambda row: str(row[0])):
            put_line(said(target, why))
        if not state.pauses.of:
            print_note("nothing is paused")
        for words in state.words():
            print_note(words)


async def do(  # one parameter for each option
    app: Famulus,
    action: Action,
    topic: str | None,
    partition: int | None,
    why: str,
    *,
    is_json: bool,
) -> None:
    """Pause or resume the topic or partition, and print what was changed."""
    target = await resolve_scope(app, topic, partition)
    async with control_producer(app) as producer:
        pauses = (await read_told(app)).pauses
        targets, _ = await change(
            producer, app.group, pauses, action=action, target=target, by=whoami(), why=why
        )
    if is_json:
        print_text(
            {
                "action": action,
                "changed": [str(changed) for changed in targets],
                "paused": (await read_told(app)).pauses.rows(),
            }
        )
    else:
        put_line(_done(action, target, targets))


def _done(action: Action, target: PauseScope, targets: Sequence[PauseScope]) -> str:
    if not targets:
        return f"nothing of {target} was paused"
    names = ", ".join(map(str, targets))
    return f"paused: {names}; what is in hand ends" if action == "pause" else f"resumed: {names}"
