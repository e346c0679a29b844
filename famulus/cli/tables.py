"""`faust -A app tables`: the tables of the subscriptions, and those of plain Faust beside them."""

from faust.cli import option

from famulus.cli.command import Command

NO_HELP = 'say what it is for: Table(..., help="...")'


class tables(Command):  # the class's name is the command's
    """List the tables, and the topic in whose state each is kept. It needs no broker.

    For example: faust -A app tables --json
    """

    # As Faust wants it.
    options = [option("--json", "is_json", is_flag=True, help="A JSON object a line.")]

    async def run(self, *, is_json: bool) -> None:
        """List them."""
        rows = [
            (t.name, t.help, s.name)
            for s in self.app.subscriptions.values()
            for t in s.tables.values()
        ]
        plain = [(t.name, t.help or NO_HELP, "") for t in self.app.tables.values()]
        self.list_rows(rows + plain, ["name", "help", "subscription"], "Tables", is_json=is_json)
