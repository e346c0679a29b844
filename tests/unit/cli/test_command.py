"""Tests of all commands: help texts with an example, and JSON output."""

import pytest
from faust.cli.base import cli

from app import app  # noqa: F401  # importing it registers the commands
from famulus.cli.command import Command

WITHOUT_JSON = {"acls", "dev", "workers"}  # they print a script, or the logs of workers
OURS = sorted(
    name
    for name, command in cli.commands.items()
    if (command.callback.__module__ or "").startswith("famulus.") and not command.hidden
)


def test_they_are_all_here() -> None:
    """The list of this file must not miss a command."""
    assert len(OURS) >= len({of.__name__ for of in Command.__subclasses__()} - {"Acting"})


@pytest.mark.parametrize("name", OURS)
def test_a_command_has_an_example_and_json(name: str) -> None:
    """The example can be copied."""
    command = cli.commands[name]
    text = command.help or ""
    assert "xample" in text
    assert f"faust -A app {name}" in text
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options or name in WITHOUT_JSON
