"""Every route as `/openapi.json` describes it, asked for whatever the description allows, and for more."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.dev.worker import WorkerProcess
from tests.integration.house import House
from tests.integration.test_door import tokens_of

CHECKS: list[Any] = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
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
    assert worker.exit_code() is None
    assert worker.answer("/livez")[0] == 200


def check(operation: Any, token: str) -> None:
    """Ask for *operation* with whatever its description allows."""

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {token}"}, allow_redirects=False)
        case.validate_response(answer, checks=CHECKS)

    run()


def described(worker: WorkerProcess) -> Any:
    """What the worker says of its routes."""
    return worker.get("/openapi.json")
