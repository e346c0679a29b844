"""`faust -A app topics apply`: create the topics that the subscriptions need."""

import click
from faust.cli import argument

from app.commands.base import Command
from app.observe.health import create_topics


class topics(Command):  # noqa: N801  # the class's name is the command's
    """Create the topics that are missing, with their dead letter topics. Topics that exist stay as they are.

    Example: faust -A app topics apply
    """

    options = [argument("action", type=click.Choice(["apply"]))]  # noqa: RUF012  # as Faust wants it

    async def run(self, action: str) -> None:
        """Do it, and say what was done."""
        assert action == "apply"
        needed = self.app.topics_needed()
        created = await create_topics(self.app.settings.kafka, needed, self.app.settings.worker.startup_timeout_s)
        for name in needed:
            self.say(f"{name}: {'created' if name in created else 'exists'}")
