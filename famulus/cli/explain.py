"""`faust -A app explain`: where an event is, why, and what gets it on."""

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


class explain(Command):  # the class's name is the command's
    """Say where an event is and why: waiting, paused, in back-off, a dead letter, handled; and what gets it on.

    It reads the logs alone, so no worker needs to answer; what a worker has in hand this second,
    its /livez knows. An event is named by its place, or looked for among the newest ones by its key
    or its id.

    \b
    For example:
    faust -A app explain order-events 3 1042
    faust -A app explain order-events --key 4711
    faust -A app explain order-events --id famulus#8f6e0c9a-5b1c-4b8b-9d8e-0a3c7f9d1b2e --json
    """  # click wants that control character, to leave the lines as they are

    options = [  # as Faust wants it
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

    async def run(  # each is an option
        self,
        topic: str,
        partition: int | None,
        offset: int | None,
        key: str | None,
        event_id: str | None,
        *,
        is_json: bool,
    ) -> None:
        """Do it. Raises OperatingError when no event is like that."""
        if sum((offset is not None, key is not None, event_id is not None)) != 1:
            raise click.UsageError(
                "name an event: TOPIC PARTITION OFFSET, or TOPIC with --key or --id"
            )
        place = None if partition is None or offset is None else (partition, offset)
        question = Question(subscription_of(self.app, topic), place, key, event_id)
        await self.app.find_retired()
        control_state = await read_admin_topic(
            self.app.settings.kafka, self.app.settings.worker.startup_timeout_s
        )
        async with reading(self.app) as reader:
            async for facts, answer in explained(
                self.app, reader, question, control_state.pauses, ReadLimits()
            ):
                show(facts, answer, is_json=is_json)


def show(facts: Facts, answer: Answer, *, is_json: bool) -> None:
    """For programs, or for people: an error's text is somebody else's."""
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
