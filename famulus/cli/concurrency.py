"""`faust -A app concurrency`: change the number of events in flight while the group runs."""

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.control_client import control_producer, read_told, resolve_scope
from famulus.cli.output import print_note, print_text, put_line
from famulus.control.admin_topic import set_width
from famulus.control.concurrency import WIDTH_MAX, WORKER, ConcurrencyOverrides, name_of, said
from famulus.inspection.deadletters.redrive import whoami


class concurrency(Command):  # Faust names the command after the class
    """Set how many events each partition of a topic may have in flight.

    With --all, set the number for each worker, over all of its partitions. The number applies to
    the whole group until --reset, also to workers that start later. After --reset the settings
    apply again (Worker.PartitionConcurrency and Worker.Concurrency). Without arguments the command
    lists the numbers that are set. No worker needs to run.

    \b
    For example:
    faust -A app concurrency order-events 5 --note "the warehouse is slow"
    faust -A app concurrency --all 200
    faust -A app concurrency order-events --reset
    faust -A app concurrency --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("words", nargs=-1, metavar="[TOPIC] [N]"),
        option("--all", "is_all", is_flag=True, help="Of each worker, over all of its partitions."),
        option("--reset", "is_reset", is_flag=True, help="As the settings say."),
        option(
            "--note", "why", default="", metavar="WHY", help="Kept with it, and in the audit topic."
        ),
        option("--json", "is_json", is_flag=True, help="One JSON array: what is set, then."),
    ]

    async def run(  # one parameter for each option
        self, words: tuple[str, ...], why: str, *, is_all: bool, is_reset: bool, is_json: bool
    ) -> None:
        """Set or reset the concurrency, or list what is set.

        Raises ConfigError when no subscription reads the topic, UnavailableError without a broker.
        """
        if not (words or is_all or is_reset):
            show((await read_told(self.app)).concurrency_overrides, is_json=is_json)
            return
        wanted = (0 if is_all else 1) + (0 if is_reset else 1)
        if len(words) != wanted:
            raise click.UsageError("say TOPIC N, --all N, TOPIC --reset or --all --reset")
        topic = WORKER if is_all else (await resolve_scope(self.app, words[0], None)).topic
        count = None if is_reset else click.IntRange(1, WIDTH_MAX).convert(words[-1], None, None)
        async with control_producer(self.app) as producer:
            await set_width(
                producer, self.app.group, topic or WORKER, concurrency=count, by=whoami(), why=why
            )
        if is_json:
            show((await read_told(self.app)).concurrency_overrides, is_json=True)
        else:
            put_line(f"{name_of(topic)}: {'as the settings say' if count is None else count}")


def show(concurrency_overrides: ConcurrencyOverrides, *, is_json: bool) -> None:
    """Print the concurrency that is set, by topic."""
    if is_json:
        print_text(concurrency_overrides.rows())
        return
    for topic, width in sorted(concurrency_overrides.of.items()):
        put_line(said(topic, width))
    if not concurrency_overrides.of:
        print_note("nothing is set; the settings count")
