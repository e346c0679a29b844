"""`faust -A app topics plan` and `apply`: the topics that the subscriptions need."""

import click
from faust.cli import argument

from app.commands.base import Command
from app.observe.health import create_topics, dead_letter_configs, partitions_of


class topics(Command):  # noqa: N801  # the class's name is the command's
    """Create the topics that are missing, with their dead letter topics. Topics that exist stay as they are.

    `plan` says what `apply` would do. The worker itself makes what only it uses: the state's changelogs, and the topics
    through which records come back.

    \b
    For example:
    faust -A app topics plan
    faust -A app topics apply
    """  # noqa: D301  # click wants that control character, to leave the lines as they are

    options = [argument("action", type=click.Choice(["plan", "apply"]))]  # noqa: RUF012  # as Faust wants it

    async def run(self, action: str) -> None:
        """Do it, and say what was done, or would be."""
        settings = self.app.settings
        timeout_s = settings.worker.startup_timeout_s
        needed = self.app.topics_needed()
        there = await partitions_of(settings.kafka, needed, timeout_s)
        if action == "apply":
            letters = {self.app.dead_letter_topic(s) for s in self.app.subscriptions.values()}
            configs = dead_letter_configs(settings.kafka, settings.dead_letter.retention_h)
            await create_topics(settings.kafka, {n: c for n, c in needed.items() if n not in letters}, timeout_s)
            await create_topics(settings.kafka, {n: c for n, c in needed.items() if n in letters}, timeout_s, configs)
        for name, partitions in needed.items():
            if name in there:
                self.say(f"{name}: exists, with {there[name]} partitions")
            else:
                self.say(f"{name}: {'created' if action == 'apply' else 'to be created'}, with {partitions} partitions")
