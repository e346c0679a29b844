"""Base classes of the groups of settings: any spelling is accepted, unknown names are refused."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from famulus.spelling import nearest, plain


class UnknownError(ValueError):
    """Unknown names of settings.

    *hints* has the names as they were given, each with a hint at the right one. *name* is the first
    of them, *is_one* says whether there is only one.
    """

    def __init__(self, hints: Mapping[str, str]) -> None:
        super().__init__(
            "; ".join(f"unknown setting {name!r}{hint}" for name, hint in hints.items())
        )
        self.name = next(iter(hints))
        self.is_one = len(hints) == 1


class Spelled(BaseModel):
    """Model that accepts every spelling of a name and refuses unknown names.

    The error names the nearest match. *elsewhere* gives, by plain name, the reason why a setting
    that other Kafka clients have does not exist here.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        fields = {plain(name): name for name in cls.model_fields}
        unknown = [str(name) for name in values if plain(str(name)) not in fields]
        if unknown:
            said = {
                name: f": {cls.elsewhere[plain(name)]}"
                for name in unknown
                if plain(name) in cls.elsewhere
            }
            near = {name: nearest(plain(name), fields) for name in unknown if name not in said}
            rest = [name for name, found in near.items() if not found]
            hints = {
                name: f", did you mean {fields[found]!r}?" if found else ""
                for name, found in near.items()
            } | said
            raise UnknownError(
                hints | ({rest[-1]: f"; known are {', '.join(fields.values())}"} if rest else {})
            )
        known = {fields[plain(str(name))]: value for name, value in values.items()}
        return {
            field: _spelled(value, cls.model_fields[field].annotation)
            for field, value in known.items()
        }


class Section(Spelled):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _spelled(value: object, annotation: object) -> object:
    """Return the choice that *value* is a spelling of, such as `Lz4`, else *value* itself."""
    choices = (
        {plain(choice): choice for choice in _choices(annotation)} if isinstance(value, str) else {}
    )
    return choices.get(plain(str(value)), value)


def _choices(annotation: object) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (
            choice
            for choice in get_args(annotation)
            if isinstance(choice, str) and choice[:1].isalpha()
        )  # "-1" has no other spelling
        return
    for part in get_args(annotation):
        yield from _choices(part)
