"""`faust -A app topics plan` and `apply`: the topics that the subscriptions need."""

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.needed_topics import make_needed
from famulus.cli.output import print_text
from famulus.kafka.admin import partitions_of


class topics(Command):  # Faust names the command after the class
    """Create the missing topics, with their dead letter topics.

    Existing topics stay unchanged. `plan` shows what `apply` would do. The worker itself creates
    the topics that only it uses: the state changelogs, and the redrive and retry topics.

    \b
    For example:
    faust -A app topics plan
    faust -A app topics apply
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("action", type=click.Choice(["plan", "apply"])),
        option("--json", "is_json", is_flag=True, help="A JSON object for each topic."),
    ]

    async def run(self, action: str, *, is_json: bool) -> None:
        """Run the action, and print each topic with what was done or would be done."""
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
