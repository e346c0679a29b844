"""`faust -A app broker`: a Kafka broker in the background, for development."""

from pathlib import Path

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.cli.output import print_text


class broker(Command):  # Faust names the command after the class
    """Start, stop or show a local Kafka broker in the background.

    Neither Docker nor Java needs to be installed.

    \b
    For example:
    faust -A app broker start
    faust -A app broker start --port 0
    faust -A app broker status --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("action", type=click.Choice(["start", "stop", "status"])),
        option(
            "--port",
            type=click.IntRange(0, 65535),
            default=9092,
            show_default=True,
            help="0 picks a free one.",
        ),
        option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where its topics are kept.",
        ),
        option("--json", "is_json", is_flag=True, help="status: one JSON object."),
    ]

    async def run(self, action: str, port: int, data_dir: Path | None, *, is_json: bool) -> None:
        """Run the action and print the state of the broker.

        `status` exits with 1 when no broker runs.
        """
        # Development's packages are not installed in production.
        from famulus.dev import background

        if action == "start":
            already = background.running()
            there = background.start_background(port, data_dir)
            self.say(
                f"Kafka {'runs already' if already else 'runs'} at {there.bootstrap_servers}, "
                f"data in {there.data_dir}"
            )
        elif action == "stop":
            gone = background.stop_background()
            self.say(
                f"Kafka at {gone.bootstrap_servers} stopped"
                if gone
                else "no Kafka runs in the background"
            )
        elif is_json:
            now = background.running()
            print_text(
                None
                if now is None
                else {
                    "bootstrap_servers": now.bootstrap_servers,
                    "pid": now.pid,
                    "data_dir": str(now.data_dir),
                }
            )
            if now is None:
                raise SystemExit(1)
        elif (now := background.running()) is not None:
            self.say(
                f"Kafka runs at {now.bootstrap_servers} (pid {now.pid}), data in {now.data_dir}"
            )
        else:
            self.say("no Kafka runs in the background; start one with `faust -A app broker start`")
            raise SystemExit(1)
