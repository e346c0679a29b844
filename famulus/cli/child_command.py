"""The command line of a child: that of this process, with another command in the place of its own."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address

import click


def faust_command(context: click.Context, *words: str) -> list[str]:
    """Make the command that runs `faust` with *words*, and with the global options and the `--set` of this process.

    The folder that `--workdir` names is left out: this process is there already.
    """
    given = sys.argv[1:]
    root = context.find_root().command
    _, rest, _ = root.make_parser(click.Context(root)).parse_args(list(given))
    before = given[: len(given) - len(rest)]
    return [sys.executable, "-m", "faust", *_without_workdir(before), *words, *settings_of(rest)]


def settings_of(words: Sequence[str]) -> Iterator[str]:
    """Pick the `--set NAME=VALUE` out of a command's *words*."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if word == "--set":
            yield from (word, next(rest, ""))
        elif word.startswith("--set="):
            yield word


def _without_workdir(words: Sequence[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word in {"-W", "--workdir"}:
            next(rest, None)
        elif not word.startswith(("-W", "--workdir=")):
            yield word


def web_host(bind: str) -> str:
    """Say by which name this machine reaches what listens on *bind*, as addresses of pages have it."""
    with suppress(ValueError):
        address = ip_address(bind)
        if address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "[::1]"
        return bind if address.version == 4 else f"[{bind}]"
    return bind
