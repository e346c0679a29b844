"""`faust -A app topics plan` and `apply`: the topics that the subscriptions need."""

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.needed_topics import make_needed
from famulus.cli.output import print_text
from famulus.kafka.admin import partitions_of


class topics(Command):  # the class's name is the command's
    """Create the topics that are missing, with their dead letter topics.

    Topics that exist stay as they are.

    `plan` says what `apply` would do. The worker itself makes what only it uses: the state's
    changelogs, and the topics through which records come back.

    \b
    For example:
    faust -A app topics plan
    faust -A app topics apply
    """  # click wants that control character, to leave the lines as they are

    options = [  # as Faust wants it
        argument("action", type=click.Choice(["plan", "apply"])),
        option("--json", "is_json", is_flag=True, help="A JSON object for each topic."),
    ]

    async def run(self, action: str, *, is_json: bool) -> None:
        """Do it, and say what was done, or would be."""
        settings = self.app.settings
        needed = self.app.topics_needed()
        if action == "apply":
            there = await make_needed(self.app)
        else:
            there = await partitions_of(settings.kafka, needed, settings.worker.startup_timeout_s)
        for name, partitions in needed.items():
            if is_json:
                done = "exists" if name in there else "created" if action == "apply" else "missing"
                print_text(
                    {"topic": name, "partitions": there.get(name, partitions), "status": done}
                )
            elif name in there:
                self.say(f"{name}: exists, with {there[name]} partitions")
            else:
                self.say(
                    f"{name}: {'created' if action == 'apply' else 'to be created'}, with "
                    f"{partitions} partitions"
                )
