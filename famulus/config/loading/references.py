"""References in settings files, to what a file should not hold. Pure.

`${VAR}` is a variable; `${VAR:-default}` has a default for where it is unset or empty;
`${VAR:?message}` must be neither, else *message* says why; `${file:PATH}` is what a file holds,
without the line break at its end; `$${` is a plain `${`. There is one pass: what was put in is
never looked at again, so a password may hold anything.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FILE = "file:"
_reference = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_variable = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expanded:
    """A text whose references were replaced.

    *names*: what was referred to; *problems*: what is not there, and why.
    """

    text: str
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def expand(text: str, variables: Mapping[str, str], read: Callable[[str], str]) -> Expanded:
    """Replace the references in *text* by *variables* and by what *read* gives for a path.

    *read* may raise OSError or ValueError. A reference that is none, or to what is not there, is a
    problem and becomes nothing, so that all problems are found at once.
    """
    names: list[str] = []
    problems: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        said = found[1]
        if found[0] == "$${":
            return "${"
        try:
            name, value = _looked_up(said or "", variables, read)
        except ValueError as error:
            problems.append(str(error))
            return ""
        names.append(name)
        return value

    return Expanded(_reference.sub(replaced, text), tuple(names), tuple(problems))


def _looked_up(
    said: str, variables: Mapping[str, str], read: Callable[[str], str]
) -> tuple[str, str]:
    """Name and value of what stands between the braces. Raises ValueError with the problem."""
    if said.startswith(FILE):
        return said, _content(said.removeprefix(FILE), read)
    parts = _variable.fullmatch(said)
    if parts is None:  # what was said is not repeated: it may be a part of a password
        raise ValueError("a ${ that begins no reference, write $${ for a plain one")
    name, operator, rest = parts.groups()
    value = variables.get(name)
    if operator == ":-":
        return name, value or rest
    if operator == ":?" and not value:
        raise ValueError(f"{name} ({' '.join(rest.split()) or 'unset or empty'})")
    if value is None:
        raise ValueError(name)
    return name, value


def _content(path: str, read: Callable[[str], str]) -> str:
    try:
        return re.sub(r"\r?\n\Z", "", read(path))
    except OSError as error:
        raise ValueError(f"file {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"file {path} ({error})") from None
