"""`faust -A app config show|schema`: each setting with its origin, and the JSON Schema."""

import json
import os

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.output import print_json, put_line
from famulus.config import settings_files
from famulus.web.settings_list import Shown, schema, shown


class config(Command):  # Faust names the command after the class
    """Show every setting with its unit and origin, or print the JSON Schema of appsettings.json.

    Secrets are shown as ***. The schema is for editors.

    Example: faust -A app config show --json

    Example: faust -A app config schema > appsettings.schema.json, and in appsettings.json the line
    "$schema": "./appsettings.schema.json"
    """  # click shows the first paragraph

    options = [  # Faust reads a list here
        argument("action", type=click.Choice(["show", "schema"])),
        option("--json", "is_json", is_flag=True, help="Show a JSON object a line."),
    ]

    async def run(self, action: str, *, is_json: bool) -> None:
        """Print the settings or the schema."""
        if action == "schema":
            put_line(json.dumps(schema(), indent=2))
            return
        rows = shown(self.app.settings)
        if is_json or self.json:
            for row in rows:
                print_json(json.dumps(row._asdict()).encode())
            return
        _print(rows)
        environment = os.environ.get("ENVIRONMENT") or "not set"
        files = [f"{file}{'' if file.exists() else ' (not there)'}" for file in settings_files()]
        put_line(
            f"Layers, the last one wins: defaults, {', '.join(files)}, environment, command line"
        )
        put_line(
            f"ENVIRONMENT is {environment}; --set NAME=VALUE after a command is the command line"
        )


def _print(rows: list[Shown]) -> None:
    cells = [(row.name, _text(row.value), row.unit, row.layer) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        put_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
