"""`faust -A app tables`: the tables of the subscriptions, and those of plain Faust beside them."""

from app.commands.base import Command

NO_HELP = 'say what it is for: Table(..., help="...")'


class tables(Command):  # noqa: N801  # the class's name is the command's
    """List the tables, and the topic in whose state each is kept."""

    async def run(self) -> None:
        """List them."""
        rows = [(t.name, t.help, s.name) for s in self.app.subscriptions.values() for t in s.tables.values()]
        plain = [(t.name, t.help or NO_HELP, "") for t in self.app.tables.values()]
        self.say(self.tabulate(rows + plain, title="Tables", headers=["name", "help", "subscription"]))
