"""Base of the views that answer with JSON; `console.html_page` is that of the pages."""

from typing import Any, ClassVar, TypeVar, cast

import msgspec
from faust.web import Request, Response, View

from famulus.application import Famulus
from famulus.errors import BadRequestError, ConfigError, OperatingError, UnavailableError
from famulus.web.route_docs import JSON, RouteDocs
from famulus.web.worker_status import as_json

T = TypeVar("T")
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1  # of partitions; of offsets and times


def actor_of(request: Request) -> str:
    """Return the name of the sender for audits."""
    # Any: aiohttp's request, which Faust's type knows little of.
    return f"web@{cast(Any, request).remote}"


class JsonView(View):
    """A view that answers with JSON, and with one line for an error."""

    about: ClassVar[RouteDocs] = RouteDocs((JSON,))

    @property
    def host(self) -> Famulus:
        """The app that this view belongs to."""
        return cast(Famulus, self.app)

    def answer(self, value: object, status: int = 200) -> Response:
        """*value* as JSON."""
        return self.bytes(as_json(value), content_type="application/json", status=status)

    def refuse(self, status: int, why: str) -> Response:
        """Return an error in one line."""
        return self.answer({"error": why}, status)

    def failed(self, error: Exception) -> Response:
        """Return an error in one line, with its status, see `status_of`."""
        return self.refuse(status_of(error), str(error))

    async def asked(self, request: Request, kind: type[T]) -> T:
        """Decode the body of a request. Raises BadRequestError when it has another shape."""
        try:
            return msgspec.json.decode(await request.read(), type=kind)
        except UnicodeDecodeError:
            raise BadRequestError("the body is no such request: it is not UTF-8") from None
        except RecursionError:
            raise BadRequestError("the body is no such request: it is too deep") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadRequestError(f"the body is no such request: {error}") from None


def whole(text: str, what: str, low: int, high: int) -> int:
    """Parse the whole number that a request has as *what*.

    Raises BadRequestError unless it is from *low* to *high*.
    """
    is_number = text.isascii() and text.isdecimal() and len(text.lstrip("0")) <= len(str(high))
    if not is_number or not low <= int(text) <= high:
        raise BadRequestError(f"{what} is a number from {low} to {high}")
    return int(text)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error.

    404 is for something missing, 503 for no broker, 409 for an impossible request, 400 for bad
    input.
    """
    if isinstance(error, ConfigError):
        return 404
    if isinstance(error, UnavailableError):
        return 503
    return 409 if isinstance(error, OperatingError) else 400
