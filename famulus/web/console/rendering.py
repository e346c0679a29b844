"""Render the console's pages: templates in which everything that comes from events is escaped.

The functions are pure: what is shown is an argument. A page loads nothing from outside of the
worker, and contains no script and no style.
"""

from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from famulus.formatting import duration, printable
from famulus.webserver.auth import HEADERS

# Of the door's policy, more for what a page of ours brings along itself.
POLICY = HEADERS["Content-Security-Policy"].replace(
    "form-action 'none'",
    "form-action 'self'; style-src 'self'; script-src 'self'; connect-src 'self'",
)
PAGES: Final = {
    "/console": "Overview",
    "/console/subscriptions": "Subscriptions",
    "/console/tables": "Tables",
    "/console/dead-letters": "Dead letters",
    "/console/explain": "Explain",
    "/console/hot-keys": "Hot keys",
    "/console/settings": "Settings",
    "/console/workers": "Workers",
}
TEXT_MAX = 2_000  # characters of a value that a page shows


def render(template: str, **values: Any) -> str:  # Any: what the template names
    """Render a page of *template* with *values*.

    Raises jinja2.UndefinedError when the template names another value.
    """
    return _environment().get_template(template).render(pages=PAGES, **values)


def fragment(template: str, **values: Any) -> str:  # Any: as above
    """Render the main part of a page, for a browser that shows it already."""
    of = _environment().get_template(template)
    return "".join(of.blocks["main"](of.new_context(values | {"pages": PAGES})))


@cache
def static(name: str) -> bytes:
    """Return the content of a file of `static`."""
    return files("famulus.web").joinpath("static", name).read_bytes()


def shortened(text: str) -> str:
    """*text* as `printable`, and its end left out when it is long."""
    return printable(
        text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text):,} characters)"
    )


def number(value: float | None) -> str:
    """Format a number for people, a dash if it is unknown."""
    return "-" if value is None else f"{value:,}"


def brief(value: float) -> str:
    """Format a measured number: below 10 with one decimal, above without."""
    return f"{value:,.1f}" if value < 10 and value != round(value) else f"{value:,.0f}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("famulus.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": lambda text: printable(str(text)),
        "shortened": shortened,
        "number": number,
        "brief": brief,
        "seconds": duration,
        "query": urlencode,
    }
    return environment
