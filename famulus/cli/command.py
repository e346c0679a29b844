"""Base of the commands: no Faust worker around them, and the exit codes of `errors`."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, cast

import click
from faust.cli import AppCommand
from faust.cli.agents import agents
from faust.cli.base import cli
from faust.cli.completion import completion
from faust.cli.model import model
from faust.cli.models import models
from faust.cli.send import send

from famulus.application import Famulus
from famulus.cli.output import print_text
from famulus.errors import StreamError
from famulus.formatting import text_of
from famulus.observability.unhandled_errors import watch_leaks
from famulus.standard_streams import ReaderGoneError, make_safe

PARTITION = click.IntRange(0, 2**31 - 1)  # the range of Kafka's int32
OFFSET = click.IntRange(0, 2**63 - 1)


class Command(AppCommand):
    """Base class of the commands of Famulus.

    Define `run`. An OperatingError that it raises is printed as one line and sets the exit code.
    Errors of click are handled alike, because Faust would print a traceback for them.
    """

    abstract = True
    app: Famulus

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command, then exit with 0 or with the exit code of its error.

        An output pipe that its reader has closed is no error.
        """
        make_safe()
        self.stdout, self.stderr = sys.stdout, sys.stderr
        try:
            try:
                asyncio.run(self._watched(*self.args, *args, **{**self.kwargs, **kwargs}))
            finally:
                sys.stdout.flush()  # a failed write is raised here, not at the end of the process
        except ReaderGoneError:  # the reader has closed the pipe, as `| head` does
            raise SystemExit(0) from None
        except click.ClickException as error:  # OperatingError is a subclass
            with suppress(ReaderGoneError, StreamError):  # the error cannot be reported elsewhere
                error.show(sys.stderr)
            raise SystemExit(error.exit_code) from None
        except click.Abort:
            with suppress(ReaderGoneError, StreamError):
                print("nothing was done", file=sys.stderr)  # noqa: T201  # as in `cli.output`
            raise SystemExit(1) from None
        raise SystemExit(0)

    async def _watched(self, *args: Any, **kwargs: Any) -> None:
        watch_leaks(asyncio.get_running_loop())
        await self.run(*args, **kwargs)

    def list_rows(
        self, rows: Sequence[Sequence[object]], headers: Sequence[str], title: str, *, is_json: bool
    ) -> None:
        """Print *rows* as a table, or as one JSON object each.

        JSON is printed if *is_json* is set, or for `faust --json`, which applies to every command.
        """
        if is_json or self.json:
            for row in rows:
                print_text(dict(zip(headers, row, strict=True)))
        else:
            cells = [
                [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
                for row in rows
            ]
            self.say(self.tabulate(cells, headers=headers, title=title))


def adopt() -> None:
    """Run Faust's own commands that start no worker with our streams and exit codes."""
    for command in (agents, completion, model, models, send):
        cast(Any, command).__call__ = Command.__call__
        cast(Any, command)._watched = _in_words


async def _in_words(self: Command, *args: Any, **kwargs: Any) -> None:
    """Run a command of Faust, and report failed lookups and unreadable values as wrong usage."""
    try:
        await Command._watched(self, *args, **kwargs)
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise click.UsageError(f"{type(error).__name__}: {text_of(error)}") from None


def take_settings() -> None:
    """Add the option `--set NAME=VALUE`, the strongest settings layer, to every command.

    The value is not passed to the command. The app is built from the settings before click looks at
    the options of a command, so the settings have read the option by then.
    """
    for command in cli.commands.values():
        command.params.append(
            click.Option(
                ["--set", "_set"],
                multiple=True,
                metavar="NAME=VALUE",
                expose_value=False,
                help="A setting, such as Kafka.ProducerConfig.LingerMs=20. Wins over files and "
                "environment.",
            )
        )
