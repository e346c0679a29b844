"""Every route as `/openapi.json` describes it, asked for whatever the description allows, and for more."""

import http.client
import re
from itertools import chain, product
from typing import Any
from urllib.parse import quote, urlsplit

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from famulus.dev.worker import WorkerProcess
from tests.integration.test_door import tokens_of
from tests.support.on_kafka.house import House

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDS = {"/drain/"}  # it is asked for with the token for reading, which it refuses
EXAMPLES = 25


def test_every_route_is_described(house: House) -> None:
    """With words, and what is sent to it: a new route is there by itself, but its words somebody has to write."""
    house.build()
    worker = house.start()
    for path, methods in described(worker)["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"].endswith(".") or "." in operation["summary"], (path, method)
            assert "Web view (HTTP endpoint)" not in operation["summary"], (path, method)
            assert "HTTP" not in operation["description"], (path, method)


def test_every_route_answers_as_it_is_described(house: House) -> None:
    """No answer is a failure of the server, and each has a status, a type and a shape that the description knows."""
    house.build()
    worker = house.start()
    house.send(house.thing("a", 1), house.thing("b", 2))
    house.wait_settled(2, worker)
    _, _, read, admin = tokens_of(worker)
    schema: Any = schemathesis.openapi.from_dict(described(worker))
    schema.config.update(base_url=worker.url)
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        token = read if operation.method.upper() == "GET" or operation.path in ENDS else admin
        asked.add((operation.method, operation.path))
        check(operation, token)
    assert len(asked) == sum(map(len, described(worker)["paths"].values()))
    check_bad_input(worker, read, admin)
    assert worker.exit_code() is None
    assert worker.answer("/livez")[0] == 200


DIGITS = "9" * 5_000
BAD_TEXTS = [
    DIGITS,
    "-1",
    "1e9",
    "\u00b2",
    "\u0661",
    "%FF%FE",
    "%00",
    "%ED%A0%80",
    "..",
    "'\"<>&",
    "a" * 6_000,
    "1" * 19,
    "None",
]
BAD_BODIES = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b"[" * 60_000,
    b'{"a":' * 10_000,
    DIGITS.encode(),
    b"NaN",
    b'"\\ud800"',
    b"%FF=%FF&topic=%FF",
    b"topic=%00&partition=" + DIGITS.encode(),
    b"topic=things&cause=x&until=" + DIGITS.encode(),
    b"topic=things&origin=things/" + DIGITS.encode() + b"/1",
    b"topic=things&partition=2147483648",
    b"topic=things&partition=99999999999999999999",
    b"--x\r\n",
]
BAD_VALUES = [
    DIGITS,
    str(2**31),
    str(2**63),
    str(2**64),
    "-1",
    "1.5",
    "1e999",
    '"x"',
    "[]",
    "{}",
    "null",
    "true",
    '"\\u0000"',
    '"' + "a" * 50_000 + '"',
    '"9999-99-99"',
    '"0000-01-01T00:00:00Z"',
    '"things"',
]
KINDS = [
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain; charset=x",
]


def check_bad_input(worker: WorkerProcess, read: str, admin: str) -> None:
    """Whatever a parameter or a body is, the answer says that it is wrong, or that it is not there: never 500."""
    description = described(worker)
    for path, methods in description["paths"].items():
        names = re.findall(r"\{(\w+)\}", path)
        for method, operation in methods.items():
            queries = [each["name"] for each in operation["parameters"] if each["in"] == "query"]
            if method == "get":
                for text in BAD_TEXTS:
                    found = quote(text, safe="%")
                    filled = path.format(
                        **dict.fromkeys(names, found if len(found) < 6_500 else "x")
                    )
                    for query in queries or ["x"]:
                        others = "".join(f"&{name}=things" for name in queries if name != query)
                        answered(worker, "GET", f"{filled}?{query}={found}{others}", read)
                continue
            json = product(bodies_of(description, operation), KINDS[:1])
            for body, kind in chain(product(BAD_BODIES, KINDS), json):
                token = read if path in ENDS else admin
                answered(
                    worker,
                    method.upper(),
                    path.format(**dict.fromkeys(names, "x")),
                    token,
                    body,
                    kind,
                )


def bodies_of(description: Any, operation: Any) -> list[bytes]:
    """JSON bodies in which one field after the other has each bad value, beside such as may be good."""
    schema = operation["requestBody"]["content"].get("application/json", {}).get("schema", {})
    if "$ref" not in schema:
        return []
    fields = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    good = {
        "topic": '"things"',
        "note": '"a note"',
        "action": '"pause"',
        "concurrency": "null",
        "dry_run": "true",
    }
    found = []
    for field, value in product(fields, BAD_VALUES):
        values = {name: text for name, text in good.items() if name in fields} | {field: value}
        found.append(
            ("{" + ",".join(f'"{name}":{text}' for name, text in values.items()) + "}").encode()
        )
    return found


def answered(  # noqa: PLR0917  # a request has these parts
    worker: WorkerProcess,
    method: str,
    path: str,
    token: str,
    body: bytes | None = None,
    kind: str = "",
) -> None:
    """Ask, and see that the server does not fail."""
    connection = http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": kind} if kind else {})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status not in {500, 502, 504}, (
        method,
        path[:300],
        body and body[:300],
        kind,
        text[:300],
    )


def check(operation: Any, token: str) -> None:
    """Ask for *operation* with whatever its description allows."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {token}"}, allow_redirects=False)
        case.validate_response(answer, checks=CHECKS)

    run()


def described(worker: WorkerProcess) -> Any:
    """What the worker says of its routes."""
    return worker.get("/openapi.json")
