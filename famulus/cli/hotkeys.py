"""`faust -A app hotkeys`: the most frequent keys in the partitions of a running worker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import click
from faust.cli import argument, option
from rich.table import Table

from famulus.cli.command import Command
from famulus.cli.output import console, print_text
from famulus.config import WorkerConfig
from famulus.errors import AccessError, ConfigError, UnavailableError
from famulus.formatting import printable
from famulus.webserver.auth import READ_FILE
from famulus.webserver.tokens import checked, read_token

ASK_S = 10.0
Partition = dict[str, Any]  # Any: JSON of `GET /hotkeys/`


class hotkeys(Command):  # Faust names the command after the class
    """Show the hottest keys of a running worker, by count, bytes and time in handlers.

    The numbers are estimates for the last five to ten minutes. skew is the number of events of the
    topic's fullest partition, divided by the mean of the partitions that the worker has. The
    command asks the worker of these settings, or the one at --url, with the token for reading. Keys
    are shown as digests unless the worker has Worker.ShowKeys.

    \b
    For example:
    faust -A app hotkeys
    faust -A app hotkeys order-events --url http://127.0.0.1:6067 --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("topic", required=False),
        option("--url", help="The web server of another worker."),
        option(
            "--json", "is_json", is_flag=True, help="One JSON object, as the worker answers it."
        ),
    ]

    async def run(self, topic: str | None, url: str | None, *, is_json: bool) -> None:
        """Print the hot keys of the worker, or of one *topic*.

        Raises ConfigError when the worker has no partition of *topic*, else as `asked` and
        `token_of` do.
        """
        worker = self.app.settings.worker
        found = await asked(url or f"http://{worker.web_bind}:{worker.web_port}", token_of(worker))
        if topic is not None:
            name = self.app.settings.kafka.topic(topic)
            found = [of for of in found if of["topic"] == name]
            if not found:
                raise ConfigError(f"the worker has no partition of {name}")
        if is_json:
            print_text({"topics": found})
        else:
            console().put(table_of(found))


async def asked(url: str, token: str) -> list[Partition]:
    """Return the hot keys by partition, as the worker at *url* answers.

    Raises UnavailableError when no worker answers, AccessError when it refuses *token*.
    """
    headers = {"Authorization": f"Bearer {token}"}
    try:
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/hotkeys/") as answer,
        ):
            if answer.status in {401, 403}:
                raise AccessError(
                    f"the worker at {url} does not take this token: it is another worker's, or "
                    "has changed"
                )
            answer.raise_for_status()
            return list((await answer.json())["topics"])
    except aiohttp.InvalidURL:
        raise click.UsageError(
            f"--url {url}: it is no address, such as http://127.0.0.1:6066"
        ) from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError) as error:
        why = str(error) or type(error).__name__
        raise UnavailableError(
            f"no worker answers at {url} ({why}): start one, or name another by --url"
        ) from None


def token_of(worker: WorkerConfig) -> str:
    """Return the token for reading: from the settings, else the one that a worker made.

    Raises ConfigError when there is none.
    """
    if given := worker.read_token.get_secret_value():
        return checked("Worker.ReadToken", given)
    path = (
        Path(worker.read_token_file)
        if worker.read_token_file
        else Path(worker.data_dir) / READ_FILE
    )
    return read_token("Worker.ReadToken", path)


def table_of(found: Sequence[Partition]) -> Table:
    """Build a table with one row for each key.

    A partition without hot keys has one row.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("partition", "events", "skew", "key", "share", "count", "bytes", "handlers"):
        table.add_column(
            name, justify="left" if name in {"partition", "key"} else "right", overflow="fold"
        )
    for of in found:
        head = (
            printable(f"{of['topic']}/{of['partition']}"),
            f"{of['events']:,}",
            f"{of['skew']:.2f}",
        )
        if not of["keys"]:
            table.add_row(*head, "-")
        for number, key in enumerate(of["keys"]):
            table.add_row(
                *(head if number == 0 else ("", "", "")),
                printable(key["key"]),
                f"{key['share']:.1%}",
                f"{key['count']:,}",
                f"{key['bytes']:,}",
                f"{key['handler_s']:.3f} s",
            )
    return table
