"""What every view that answers JSON shares; what the console's pages share is in `console.page`."""

from typing import Any, ClassVar, TypeVar, cast

import msgspec
from faust.web import Request, Response, View

from app.bootstrap import Famulus
from app.console.about import JSON, About
from app.console.gathering import as_json
from app.errors import ConfigError, OperatingError, UnavailableError

T = TypeVar("T")


class BadRequestError(Exception):
    """What somebody sent is not what the view takes."""


def asker(request: Request) -> str:
    """Who asks, for what is written down of it."""
    return f"web@{cast(Any, request).remote}"  # Any: aiohttp's request, which Faust's type knows little of


class Page(View):
    """A view of ours: answers JSON, and says in one line what is wrong."""

    about: ClassVar[About] = About((JSON,))

    @property
    def host(self) -> Famulus:
        """The app that this view belongs to."""
        return cast(Famulus, self.app)

    def answer(self, value: object, status: int = 200) -> Response:
        """*value* as JSON."""
        return self.bytes(as_json(value), content_type="application/json", status=status)

    def refuse(self, status: int, why: str) -> Response:
        """An error in one line."""
        return self.answer({"error": why}, status)

    def failed(self, error: Exception) -> Response:
        """An error in one line, with the status that says what is wrong, see `status_of`."""
        return self.refuse(status_of(error), str(error))

    async def asked(self, request: Request, kind: type[T]) -> T:
        """What the body asks for. Raises BadRequestError when it is no such request."""
        try:
            return msgspec.json.decode(await request.read(), type=kind)
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"the body is no such request: {error}") from None


def status_of(error: Exception) -> int:
    """The HTTP status of an error: what is meant is not there, no broker answers, it cannot be done; else bad input."""
    if isinstance(error, ConfigError):
        return 404
    if isinstance(error, UnavailableError):
        return 503
    return 409 if isinstance(error, OperatingError) else 400
