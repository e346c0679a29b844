"""`faust -A app explain`: the state of an event, the reason, and the action to take."""

from dataclasses import asdict

import click
from faust.cli import argument, option
from rich.text import Text

from famulus.cli.command import OFFSET, PARTITION, Command
from famulus.cli.output import console, print_text
from famulus.control.admin_topic import read_admin_topic
from famulus.formatting import printable
from famulus.inspection.changelog_reader import subscription_of
from famulus.inspection.deadletters.reader import reading
from famulus.inspection.explain.answers import Answer, Facts
from famulus.inspection.explain.facts import ReadLimits
from famulus.inspection.explain.search import Question, explained


class explain(Command):  # Faust names the command after the class
    """Show the state of an event, the reason, and the action that resolves it.

    States are, for example, waiting, paused, in back-off, dead letter and handled. The command
    reads the logs only, so no worker needs to answer. The events that a worker has in flight at
    this second are at its /livez. Name an event by its offset, or search the newest events for its
    key or its id.

    \b
    For example:
    faust -A app explain order-events 3 1042
    faust -A app explain order-events --key 4711
    faust -A app explain order-events --id famulus#8f6e0c9a-5b1c-4b8b-9d8e-0a3c7f9d1b2e --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("topic"),
        argument("partition", type=PARTITION, required=False),
        argument("offset", type=OFFSET, required=False),
        option("--key", metavar="TEXT", help="The newest events with this key."),
        option(
            "--id",
            "event_id",
            metavar="EVENTID",
            help="The events with this id; its source may be left out.",
        ),
        option("--json", "is_json", is_flag=True, help="One JSON object a line."),
    ]

    async def run(  # one parameter for each option
        self,
        topic: str,
        partition: int | None,
        offset: int | None,
        key: str | None,
        event_id: str | None,
        *,
        is_json: bool,
    ) -> None:
        """Print the state of each event that matches.

        Raises OperatingError when no event matches.
        """
        if sum((offset is not None, key is not None, event_id is not None)) != 1:
            raise click.UsageError(
                "name an event: TOPIC PARTITION OFFSET, or TOPIC with --key or --id"
            )
        place = None if partition is None or offset is None else (partition, offset)
        question = Question(subscription_of(self.app, topic), place, key, event_id)
        await self.app.find_retired()
        state = await read_admin_topic(
            self.app.settings.kafka, self.app.settings.worker.startup_timeout_s
        )
        async with reading(self.app) as reader:
            async for facts, answer in explained(
                self.app, reader, question, state.pauses, ReadLimits()
            ):
                show(facts, answer, is_json=is_json)


def show(facts: Facts, answer: Answer, *, is_json: bool) -> None:
    """Print *answer* as JSON or as text.

    The text is escaped, because error messages in it come from others.
    """
    if is_json:
        place = {"topic": facts.topic, "partition": facts.partition, "offset": facts.offset}
        print_text({**place, "type": facts.type_name, **asdict(answer)})
        return
    colour = "green" if answer.is_good else "red" if answer.is_bad else "yellow"
    out = console()
    out.print(
        Text.assemble(f"{facts.place} ", (answer.state, colour), f": {printable(answer.why)}"),
        soft_wrap=True,
    )
    if answer.action:
        out.print(Text(f"  {printable(answer.action)}", "dim"), soft_wrap=True)
