"""`GET /openapi.json`: every route of this worker as OpenAPI 3.1.

The description is made of the registered routes, a team's own included, so that none is missing or
stale. Texts come from the docstrings of the views, rights from `webserver.auth`, inputs and outputs
from `RouteDocs`.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from inspect import cleandoc, getdoc
from typing import Any, cast

import msgspec
from faust.web import Request, Response, View

from famulus.application import Famulus
from famulus.web.json_view import JsonView
from famulus.web.route_docs import JSON, OBJECT, RouteDocs, Schema
from famulus.webserver.auth import BODY_BYTES, need_of
from famulus.webserver.tokens import Access

Part = dict[str, Any]  # Any: JSON
REFERENCE = "#/components/schemas/{name}"
ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_parameter = re.compile(r"\{(\w+)\}")


def described(app: Famulus) -> Part:
    """Return the description of all routes that *app*'s web server has registered so far."""
    schemas: Part = {"Error": dict(ERROR)}
    paths: Part = {}
    for path, view in sorted(app.web.views.items()):
        paths[path] = {method: _operation(path, method, view, schemas) for method in _methods(view)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Famulus worker of {app.group}",
            "version": app.settings.worker.version,
            "description": (
                f"A GET is answered to HEAD as well. Bodies have {BODY_BYTES} bytes at most."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _methods(view: View) -> Iterator[str]:
    """Yield the methods of *view*, in lower case, without HEAD, which every view has."""
    return iter(sorted(method.lower() for method in view.get_methods() - {"HEAD"}))


def _operation(path: str, method: str, view: View, schemas: Part) -> Part:
    """One method of one path."""
    about = about_of(view)
    need = need_of(method.upper(), path)
    names = _parameter.findall(path)
    found: Part = {
        "operationId": f"{method} {path}",
        "summary": _text(type(view)).partition("\n\n")[0].replace("\n", " "),
        "description": _text(getattr(type(view), method)) + ACCESS[need],
        "parameters": [
            *(
                {
                    "name": n,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                }
                for n in names
            ),
            *(
                {"name": name, "in": "query", "schema": dict(of)}
                for name, of in about.query.items()
            ),
        ],
        "responses": _responses(about),
    }
    if need is Access.NONE:
        found["security"] = []
    if method != "get":
        found["requestBody"] = _body(view, about, schemas)
    return found


ACCESS = {
    Access.NONE: " Open to all.",
    Access.READ: " Needs the token for reading.",
    Access.ADMIN: " Needs the token for acting.",
}


def about_of(view: View) -> RouteDocs:
    """Return the `RouteDocs` of *view*; empty ones for a view of Faust or of a team."""
    return cast(RouteDocs, getattr(view, "about", RouteDocs()))


def _text(documented: object) -> str:
    return cleandoc(getdoc(documented) or "")


def _body(view: View, about: RouteDocs, schemas: Part) -> Part:
    """Return the request body: a form, JSON of the class `Asked` beside the view, or anything."""
    if about.form:
        form = {"type": "object", "properties": {name: dict(of) for name, of in about.form.items()}}
        return {"content": {"application/x-www-form-urlencoded": {"schema": form}}}
    asked = getattr(sys.modules[type(view).__module__], "Asked", None)
    if asked is None:
        return {"content": {JSON: {"schema": dict(OBJECT)}}}
    (schema,), found = msgspec.json.schema_components([asked], ref_template=REFERENCE)
    name = f"{type(view).__name__}{asked.__name__}"  # each module has its own class of that name
    schemas.update({other: of for other, of in found.items() if other != asked.__name__})
    schemas[name] = found.get(asked.__name__, schema)
    return {"required": True, "content": {JSON: {"schema": {"$ref": REFERENCE.format(name=name)}}}}


def _responses(about: RouteDocs) -> Part:
    own: Mapping[str, Part] = {
        kind: ({"schema": dict(about.shape)} if kind == JSON else {}) for kind in about.gives
    }
    pages: Part = {kind: {} for kind in about.gives if kind != JSON}
    error = {"schema": {"$ref": REFERENCE.format(name="Error")}}
    return {
        "2XX": {"description": "What was asked for.", "content": dict(own)},
        "3XX": {"description": "It is elsewhere: where to log in, or what is shown after it."},
        "4XX": {"description": "Not like that, and why.", "content": {JSON: error, **pages}},
        "5XX": {
            "description": "Not now, and why.",
            "content": {JSON: {"schema": dict(OBJECT)}, **pages},
        },
    }


class Description(JsonView):
    """OpenAPI description of the web server."""

    about = RouteDocs((JSON,), OBJECT)

    async def get(self, request: Request) -> Response:
        """Describe every route."""
        del request
        return self.answer(described(self.host))
