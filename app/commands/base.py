"""What our commands share: they run without Faust's worker around them and end with the exit codes of `errors`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from faust.cli import AppCommand
from faust.cli.base import cli

from app.bootstrap import Famulus
from app.commands.out import say


class Command(AppCommand):
    """A command of ours. Define `run`; an OperatingError that it raises becomes one line and its exit code.

    So do click's own errors: Faust would show a traceback for them.
    """

    abstract = True
    app: Famulus

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run and exit: 0, or the code of what went wrong."""
        try:
            asyncio.run(self.run(*self.args, *args, **{**self.kwargs, **kwargs}))
        except click.ClickException as error:  # OperatingError is one
            error.show()
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:  # whoever reads what we write has enough, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except click.Abort:
            click.echo("nothing was done", err=True)
            raise SystemExit(1) from None
        raise SystemExit(0)

    def list_rows(self, rows: Sequence[Sequence[object]], headers: Sequence[str], title: str, *, is_json: bool) -> None:
        """Show *rows* as a table, or as a JSON object each, which `faust --json` says for every command."""
        if is_json or self.json:
            for row in rows:
                say(dict(zip(headers, row, strict=True)))
        else:
            cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
            self.say(self.tabulate(cells, headers=headers, title=title))


def take_settings() -> None:
    """Let every command take `--set NAME=VALUE`, the strongest layer of the settings.

    The settings have read it by then: the app is built from them before click looks at a command's options.
    """
    for command in cli.commands.values():
        command.params.append(
            click.Option(
                ["--set", "_set"], multiple=True, metavar="NAME=VALUE", expose_value=False,
                help="A setting, such as Kafka.ProducerConfig.LingerMs=20. Wins over files and environment.",
            )
        )  # fmt: skip
