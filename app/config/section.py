"""What every group of settings is: names and choices in any spelling, and nothing that is silently ignored."""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from app.spelling import nearest, plain


class UnknownError(ValueError):
    """A name that is no setting's. *name* is as it was said."""

    def __init__(self, name: str, hint: str) -> None:
        super().__init__(f"unknown setting {name!r}{hint}")
        self.name = name


class Spelled(BaseModel):
    """Accepts every spelling of a name and refuses unknown ones with the nearest match."""

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        fields = {plain(name): name for name in cls.model_fields}
        known = {}
        for name, value in values.items():
            if plain(name) not in fields:
                near = nearest(plain(name), fields)
                hint = f", did you mean {fields[near]!r}?" if near else f"; known are {', '.join(fields.values())}"
                raise UnknownError(name, hint)
            field = fields[plain(name)]
            known[field] = _spelled(value, cls.model_fields[field].annotation)
        return known


class Section(Spelled):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _spelled(value: object, annotation: object) -> object:
    """The choice that *value* is another spelling of, such as `Lz4` or `DEAD_LETTER`; anything else as it is."""
    choices = {plain(choice): choice for choice in _choices(annotation)} if isinstance(value, str) else {}
    return choices.get(plain(str(value)), value)


def _choices(annotation: object) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (
            choice for choice in get_args(annotation) if isinstance(choice, str) and choice[:1].isalpha()
        )  # no "-1"
        return
    for part in get_args(annotation):
        yield from _choices(part)
