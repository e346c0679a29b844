"""Logging in with a browser: a token is shown once, a session's cookie afterwards.

GET  /login   the form
POST /login   its field `token`: begins a session
POST /logout  ends it; needs the session's CSRF token, as everything that acts
"""

from html import escape
from typing import Any, cast

from faust.web import Request, Response, View

from famulus.application import Famulus
from famulus.web.console.html_page import see_other
from famulus.web.route_docs import HTML, JSON, RouteDocs
from famulus.webserver.auth import HEADERS, WebAuth, cookie_name, form_field
from famulus.webserver.sessions import LIFE_S

HOME = "/console"
# Of the door's policy, all but that the form may be sent to where it came from.
POLICY = HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'")
FORM = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Famulus</title>
<h1>Famulus</h1>
<p>{says}</p>
<form method="post" action="/login">
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Log in</button>
</form>
</html>
"""


class Login(View):
    """The form, and what takes it."""

    about = RouteDocs((HTML,), form={"token": {"type": "string"}})

    async def get(self, request: Request) -> Response:
        """Show the form."""
        del request
        return self.form("The worker's log says where its tokens are.")

    async def post(self, request: Request) -> Response:
        """Begin a session, or show the form again."""
        asked = cast(Any, request)  # Any: aiohttp's request, which Faust's type knows little of
        if asked.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            return self.form("Another site sent this form: log in here.", 403)
        cookie = _door(self).log_in((await form_field(asked, "token")).strip(), asked.remote or "")
        if cookie is None:
            return self.form("This is not a token of this worker.", 401)
        answer = cast(Any, see_other(HOME))  # Any: as above
        answer.set_cookie(
            cookie_name(asked),
            cookie,
            max_age=int(LIFE_S),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=asked.secure or asked.headers.get("X-Forwarded-Proto") == "https",
        )
        return cast(Response, answer)

    def form(self, says: str, status: int = 200) -> Response:
        """Return the form, with the message *says*."""
        headers = {"Content-Security-Policy": POLICY}
        return self.html(FORM.format(says=escape(says)), status=status, headers=headers)


class Logout(View):
    """The end of a session."""

    about = RouteDocs((JSON,), form={"csrf": {"type": "string"}})

    async def post(self, request: Request) -> Response:
        """End it."""
        asked = cast(Any, request)  # Any: as above
        _door(self).log_out(asked)
        answer = cast(Any, see_other("/login"))  # Any: as above
        answer.del_cookie(cookie_name(asked), path="/", httponly=True, samesite="Strict")
        return cast(Response, answer)


def _door(view: View) -> WebAuth:
    return cast(Famulus, view.app).door
