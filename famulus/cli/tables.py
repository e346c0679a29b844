"""`faust -A app tables`: the tables of the subscriptions, and those of plain Faust."""

from faust.cli import option

from famulus.cli.command import Command

NO_HELP = 'say what it is for: Table(..., help="...")'


class tables(Command):  # Faust names the command after the class
    """List the tables, and the topic in whose state each is kept.

    No broker is needed.

    For example: faust -A app tables --json
    """

    # Faust reads a list here.
    options = [option("--json", "is_json", is_flag=True, help="A JSON object a line.")]

    async def run(self, *, is_json: bool) -> None:
        """Print the tables."""
        rows = [
            (t.name, t.help, s.name)
            for s in self.app.subscriptions.values()
            for t in s.tables.values()
        ]
        plain = [(t.name, t.help or NO_HELP, "") for t in self.app.tables.values()]
        self.list_rows(rows + plain, ["name", "help", "subscription"], "Tables", is_json=is_json)
