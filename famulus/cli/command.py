"""What our commands share: they run without Faust's worker around them and end with the exit codes of `errors`."""

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

PARTITION = click.IntRange(0, 2**31 - 1)  # as Kafka counts them
OFFSET = click.IntRange(0, 2**63 - 1)


class Command(AppCommand):
    """A command of ours.

    Define `run`; an OperatingError that it raises becomes one line and its exit code.

    So do click's own errors: Faust would show a traceback for them.
    """

    abstract = True
    app: Famulus

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run and exit: 0, or the code of what went wrong."""
        make_safe()
        self.stdout, self.stderr = sys.stdout, sys.stderr
        try:
            try:
                asyncio.run(self._watched(*self.args, *args, **{**self.kwargs, **kwargs}))
            finally:
                sys.stdout.flush()  # what cannot leave is noticed here, not when the process ends
        except ReaderGoneError:  # whoever reads what we write has enough, as `| head` does
            raise SystemExit(0) from None
        except click.ClickException as error:  # OperatingError is one
            with suppress(ReaderGoneError, StreamError):  # there is no other place to say it
                error.show(sys.stderr)
            raise SystemExit(error.exit_code) from None
        except click.Abort:
            with suppress(ReaderGoneError, StreamError):
                print("nothing was done", file=sys.stderr)  # noqa: T201  # as `commands.out` does
            raise SystemExit(1) from None
        raise SystemExit(0)

    async def _watched(self, *args: Any, **kwargs: Any) -> None:
        watch_leaks(asyncio.get_running_loop())
        await self.run(*args, **kwargs)

    def list_rows(
        self, rows: Sequence[Sequence[object]], headers: Sequence[str], title: str, *, is_json: bool
    ) -> None:
        """Show *rows* as a table, or as a JSON object each, which `faust --json` says for every command."""
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
    """Run those of Faust's own commands that start no worker as ours are run: with their streams and their ends."""
    for command in (agents, completion, model, models, send):
        cast(Any, command).__call__ = Command.__call__
        cast(Any, command)._watched = _in_words


async def _in_words(self: Command, *args: Any, **kwargs: Any) -> None:
    """Run a command of Faust's. What it cannot find or read is wrong use, not a bug."""
    try:
        await Command._watched(self, *args, **kwargs)
    except (AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        raise click.UsageError(f"{type(error).__name__}: {text_of(error)}") from None


def take_settings() -> None:
    """Let every command take `--set NAME=VALUE`, the strongest layer of the settings.

    The settings have read it by then: the app is built from them before click looks at a command's
    options.
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
