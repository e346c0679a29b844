"""Merging of the layers, and resolution of the references in files.

The last layer that sets a value wins. References are resolved after the merge, so that a missing
reference is no error where another layer overrides the value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from famulus.config.loading.references import FILE, Expanded, expand
from famulus.config.loading.sources import Place, Setting
from famulus.errors import ConfigError

FILE_BYTES_MAX = 64 * 1024  # of a referenced file: a secret or a certificate


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting with its resolved value.

    *names* are the variables and files that the value refers to.
    """

    setting: Setting
    value: object
    names: tuple[str, ...] = ()

    @property
    def is_secret(self) -> bool:
        """Return whether the value was read from a separate file, as secrets are."""
        return any(name.startswith(FILE) for name in self.names)

    @property
    def layer(self) -> str:
        """Return the origin for display: a file or a variable, with its references."""
        return (
            f"{self.setting.origin} ({', '.join(self.names)})"
            if self.names
            else self.setting.origin
        )


def merge(layers: Iterable[Iterable[Setting]]) -> dict[Place, Setting]:
    """Merge *layers*, the strongest last, into one setting for each place.

    A list counts as one value. Raises ConfigError when one layer has a setting twice, in two
    spellings, or when a section of one layer is a value in another.
    """
    merged: dict[Place, Setting] = {}
    for layer in layers:
        said: dict[Place, Setting] = {}
        for setting in layer:
            twice = said.setdefault(setting.place, setting)
            if twice is not setting:
                raise ConfigError(
                    f"settings: {twice} and {setting} are one setting, said twice: remove one"
                )
        merged.update(said)
    for place, setting in merged.items():
        for depth in range(1, len(place)):
            above = merged.get(place[:depth])
            if above is not None and above.value != {}:
                raise ConfigError(
                    f"settings: {above} is a value, and {setting} makes a section of it: remove one"
                )
    return merged


def resolve(merged: Mapping[Place, Setting], variables: Mapping[str, str]) -> dict[Place, Resolved]:
    """Replace the references in the settings of *merged*.

    Raises ConfigError with one line that names every missing variable and file.
    """
    resolved: dict[Place, Resolved] = {}
    problems: list[str] = []
    for place, setting in merged.items():
        parts: list[Expanded] = []
        value = _put_in(setting.value, variables, parts) if setting.may_refer else setting.value
        problems += [f"{problem} for {setting}" for part in parts for problem in part.problems]
        resolved[place] = Resolved(
            setting, value, tuple(dict.fromkeys(n for part in parts for n in part.names))
        )
    if problems:
        raise ConfigError(
            f"settings refer to what is not there: {'; '.join(problems)}. Set it, or say "
            f"${{NAME:-default}}"
        )
    return resolved


# Any: JSON before validation.
def _put_in(value: Any, variables: Mapping[str, str], parts: list[Expanded]) -> Any:
    if isinstance(value, list):
        return [_put_in(each, variables, parts) for each in value]
    if not isinstance(value, str):
        return value
    parts.append(expand(value, variables, _read))
    return parts[-1].text


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"more than {FILE_BYTES_MAX} bytes")
    try:
        return content.decode("utf-8-sig")  # drops the byte order mark of some editors
    except UnicodeDecodeError:
        raise ValueError("no UTF-8 text") from None


def nested(resolved: Mapping[Place, Resolved]) -> dict[str, Any]:  # Any: JSON before validation
    """Return the settings as nested sections, by plain names."""
    tree: dict[str, Any] = {}
    for place, setting in sorted(resolved.items(), key=lambda item: len(item[0])):
        section = tree
        for name in place[:-1]:
            section = section.setdefault(name, {})
        section[place[-1]] = {} if setting.value == {} else setting.value  # a new {}, to be filled
    return tree
