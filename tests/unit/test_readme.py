"""Tests that the commands in the README exist, with the options that it gives them."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from faust.cli.base import cli

from app import app  # noqa: F401  # registers the commands
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text("utf-8")
# Lines to type: indented, and outside of fenced code blocks.
TYPED = [
    line.strip()
    for line in "".join(re.split(r"^```", README, flags=re.MULTILINE)[::2]).splitlines()
    if line.startswith("    ")
]


def lines(start: str) -> Iterator[list[str]]:
    """Yield the words of each command that begins with *start*, without its comment."""
    for line in TYPED:
        for command in line.split(" && "):
            if command.startswith(start):
                yield shlex.split(command, comments=True)


@pytest.mark.parametrize("words", list(lines("faust -A app")), ids=" ".join)
def test_a_command_of_faust_exists_with_its_options(words: list[str]) -> None:
    command: click.Command = cli
    rest = words[3:]
    while isinstance(command, click.Group):
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known, words


@pytest.mark.parametrize("words", list(lines("make")), ids=" ".join)
def test_a_target_of_make_exists(words: list[str]) -> None:
    """Words with `=` set variables of make and are not checked."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words[1:] if "=" not in word} <= targets, words
