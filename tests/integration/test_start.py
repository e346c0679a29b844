"""Starting the worker and its commands: what is wrong is one clear line and an exit code, never a hang."""

import socket
from pathlib import Path

import pytest

from famulus.config import KafkaConfig
from famulus.dev.node import free_port
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["agents"], "order-events"),
        (["tables"], "stock_reserved"),
        (["model", "orders.OrderCreated"], "total_amount"),
        (["worker", "--help"], "--web-port"),
        (["topics", "--help"], "topics apply"),
        (["broker", "--help"], "broker start"),
    ],
)
def test_commands_need_no_broker(arguments: list[str], says: str) -> None:
    """What only looks at the code works from a clean checkout."""
    code, output = faust(*arguments, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 0, output
    assert says in output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["send", "order-events", "x"], 69, "no Kafka broker answers at 127.0.0.1:1"),
        (["send", "@nonsense", "x"], 2, "nonsense"),
        (["model", "nonsense"], 2, "No model 'nonsense'"),
        (["completion"], 2, "click_completion"),
    ],
)
def test_commands_of_fausts_own_end_in_words(arguments: list[str], code: int, says: str) -> None:
    """One line and an exit code, no traceback."""
    settings = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "WORKER__STARTUPTIMEOUTS": "2"}
    ended, output = faust(*arguments, **settings)
    assert (ended, "Traceback" in output) == (code, False), output
    assert says in output


@pytest.mark.parametrize("command", [["worker"], ["topics", "apply"]])
def test_a_missing_broker_is_69(command: list[str]) -> None:
    """The address that was tried, and what to do."""
    code, output = faust(
        *command,
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        WORKER__WEBPORT=str(free_port()),
        WORKER__STARTUPTIMEOUTS="3",
    )
    assert code == 69, output
    assert "no Kafka broker answers at 127.0.0.1:" in one_line(output)


def test_a_wrong_setting_is_78() -> None:
    """The setting's name and the nearest match."""
    code, output = faust("worker", WORKER__WEBPROT="1")
    assert code == 78, output
    assert "did you mean 'web_port'" in one_line(output)


def test_a_busy_port_is_78(kafka: KafkaConfig, tmp_path: Path) -> None:
    """The port, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code, output = faust("worker", "--web-port", port, **settings_of(kafka, tmp_path))
    assert code == 78, output
    assert f"127.0.0.1:{port}" in one_line(output)


def test_missing_topics_are_78_and_apply_makes_them(kafka: KafkaConfig, tmp_path: Path) -> None:
    """The worker creates no topic behind anybody's back: it names what is missing and the command that makes it."""
    settings = {**settings_of(kafka, tmp_path), "WORKER__WEBPORT": str(free_port())}
    code, output = faust("worker", **settings)
    assert code == 78, output
    assert "topics apply" in one_line(output)
    assert kafka.topic("order-events.dead-letter") in one_line(output)
    code, output = faust("topics", "apply", **settings)
    assert (code, output.count("created")) == (0, 4), output
    code, output = faust("topics", "apply", **settings)
    assert (code, output.count("exists")) == (0, 4), output


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "raise RuntimeError('broken on purpose')",
            "agents/payments.py:2: RuntimeError: broken on purpose",
        ),
        ("from app import nothing", "agents/payments.py:2: ImportError: "),
        ("def broken(", "agents/payments.py:2: SyntaxError: "),
    ],
)
def test_an_agent_that_cannot_be_imported_is_78(checkout: Path, code: str, says: str) -> None:
    """One line with file, line and error.

    Stock Faust logs a warning, or nothing, and runs without the agent.
    """
    (checkout / "agents" / "payments.py").write_text(f"import app\n{code}\n")
    exit_code, output = faust("agents", cwd=checkout)
    assert exit_code == 78, output
    assert says in one_line(output)


HANDLER = """
from app import handles
from models.payments import PaymentMade
@handles(PaymentMade)
async def pay(payment: PaymentMade) -> None: ...
"""
SUBSCRIPTION = """
from app import app
payments = app.subscription("payment-events")
"""
BANK = """
class Bank: ...
"""


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        (HANDLER, "which no subscription reads"),
        (
            HANDLER.replace("payment: PaymentMade", "payment"),
            "parameter 'payment' needs a class as its type",
        ),
        (
            SUBSCRIPTION
            + BANK
            + HANDLER.replace("payment: PaymentMade", "payment: PaymentMade, bank: Bank"),
            "asks for Bank, which is not registered",
        ),
    ],
)
def test_what_does_not_fit_together_is_78(checkout: Path, agent: str, says: str) -> None:
    """A handler without a subscription, a subscription without an agent, a parameter that nothing can fill."""
    (checkout / "models" / "payments.py").write_text(PAYMENT_MODEL)
    (checkout / "agents" / "payments.py").write_text(agent)
    code, output = faust(
        "worker",
        cwd=checkout,
        WORKER__WEBPORT=str(free_port()),
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
    )
    assert code == 78, output
    assert says in one_line(output)


PAYMENT_MODEL = """
from uuid import UUID
from famulus import Event
class PaymentMade(Event, namespace="payments.PaymentMade", topic="payment-events", key="customer_id"):
    customer_id: UUID
"""
