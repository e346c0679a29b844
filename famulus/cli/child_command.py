"""Command line of a child process, made from the command line of this process."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address

import click


def faust_command(context: click.Context, *words: str) -> list[str]:
    """Build the command line that runs `faust` with *words* in a child process.

    The child gets the global options and the `--set` options of this process. `--workdir` is left
    out, because this process has already changed to that folder.
    """
    given = sys.argv[1:]
    root = context.find_root().command
    _, rest, _ = root.make_parser(click.Context(root)).parse_args(list(given))
    before = given[: len(given) - len(rest)]
    return [sys.executable, "-m", "faust", *_without_workdir(before), *words, *settings_of(rest)]


def settings_of(words: Sequence[str]) -> Iterator[str]:
    """Yield the `--set NAME=VALUE` options among a command's *words*."""
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
    """Return the host for URLs of a server that listens on *bind*.

    The unspecified address becomes the loopback address. IPv6 addresses are put in brackets.
    """
    with suppress(ValueError):
        address = ip_address(bind)
        if address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "[::1]"
        return bind if address.version == 4 else f"[{bind}]"
    return bind
