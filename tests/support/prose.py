"""List docstrings and comments that break the prose rules of docs/contributing/style.md.

Run `python -m tests.support.prose PATH...` to check a part of the tree by hand.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A sentence that opens with one of these is a clause: its subject stands in front of the text.
CLAUSE = re.compile(
    r"(?:What(?:ever)?|Who(?:ever)?|Whose|Whom|Whether|Which(?:ever)?|How|Why|That|So|Nor|It|They"
    r"|And|But|Or|None of|Nobody|Else|Lest)\b|Those\b(?! of)|The same (?:for|as|with|without)\b"
)
PRIVATE_WORDS = re.compile(
    r"\b(?:whoever|whomever|anew|in hand|at hand|lest|for ever|is away|are away|was away|gets on|get on with"
    r"|of ours|of its own accord|rests|resting|crew|letters?|is told|are told|was told|were told"
    r"|is said|are said|was said|been said|it is meant|are meant|nobody|hereafter|thereof|wherever|whatever)\b",
    re.IGNORECASE,
)
# The terms of others that hold a private word, names of arguments and code among them.
TERMS = re.compile(
    r"\*\w+\*|`[^`]*`|/\S+|dead[- \n]+letters?|dead_letters?|letters? of the alphabet"
    r"|(?:capital|small|upper|lower)[- ]?(?:case)? letters?",
    re.IGNORECASE,
)
WIDTH = 100
FIRST_LINE_WORDS = 18


class Fault(NamedTuple):
    """A place of a file and the rule that it breaks."""

    line: int
    name: str
    rule: str


def faults_of(source: str) -> Iterator[Fault]:
    """Yield each docstring of *source* that breaks a rule, in the order of the file."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node, clean=True)
        if text is None:
            continue
        name = getattr(node, "name", "module")
        expression = node.body[0]
        first, last = expression.lineno, expression.end_lineno or expression.lineno
        yield from (Fault(first, name, rule) for rule in broken_rules(text, name))
        for number in range(first, last + 1):
            if len(lines[number - 1]) > WIDTH:
                yield Fault(number, name, f"is longer than {WIDTH} columns")


def broken_rules(text: str, name: str) -> Iterator[str]:
    """Yield the rules that the docstring *text* breaks; test functions need no verb first."""
    summary, _, rest = text.partition("\n")
    if len(summary.split()) > FIRST_LINE_WORDS and not name.startswith("test_"):
        yield f"has a first line of more than {FIRST_LINE_WORDS} words"
    if not summary.endswith((".", "!", "?", ":")):
        yield "has a first sentence that does not end on its first line"
    if rest and not rest.startswith("\n"):
        yield "has no empty line after its first line"
    for sentence in sentences_of(text):
        if CLAUSE.match(sentence):
            yield f"has a sentence that opens with a clause: {sentence[:40]!r}"
    if found := PRIVATE_WORDS.search(TERMS.sub("", text)):
        yield f"has the private word {found[0]!r}"


def sentences_of(text: str) -> list[str]:
    """Split *text* where a sentence ends and the next begins with a capital."""
    return [
        part.strip() for part in re.split(r"(?<=[.;:!?])\s+(?=[A-Z`*])", " ".join(text.split()))
    ]


def files_of(paths: list[Path]) -> Iterator[Path]:
    """Yield the Python files of *paths*, folders with all that is in them."""
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main() -> int:
    """Print the faults of the paths on the command line; return 1 if there are any."""
    count = 0
    for path in files_of([Path(argument) for argument in sys.argv[1:]]):
        for fault in faults_of(path.read_text(encoding="utf-8")):
            print(f"{path}:{fault.line}: {fault.name} {fault.rule}")
            count += 1
    print(f"{count} faults")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
