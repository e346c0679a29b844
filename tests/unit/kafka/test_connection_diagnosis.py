"""Tests of the diagnosis of a broker that cannot be reached, by what happens on a socket."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme

from famulus.config import KafkaConfig
from famulus.dev.node import free_port
from famulus.errors import UnavailableError
from famulus.kafka.admin import partitions_of
from famulus.kafka.connection_diagnosis import why_away


@asynccontextmanager
async def listening(
    *, context: ssl.SSLContext | None = None, ends: bool = False
) -> AsyncIterator[int]:
    """Yield a port with a listener that is no broker: it reads, or *ends* each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 if ends else -1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


def settings(port: int, protocol: str = "PLAINTEXT", host: str = "127.0.0.1") -> KafkaConfig:
    """Return the settings of a cluster at *host* and *port*."""
    return KafkaConfig.model_validate(
        {"bootstrap_servers": f"{host}:{port}", "security_protocol": protocol}
    )


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("famulus.kafka.connection_diagnosis.KNOCK_MS", 300)


async def test_nothing_listens() -> None:
    """A name with two addresses and the error of a startup give the same reason."""
    port = free_port()
    assert (
        await why_away(settings(port))
        == f"127.0.0.1:{port} refuses connections: nothing listens there"
    )
    assert "refuses connections" in await why_away(settings(port, host="localhost"))
    with pytest.raises(
        UnavailableError, match=f"within 0.2 s .127.0.0.1:{port} refuses connections"
    ):
        await partitions_of(settings(port), ["t"], 0.2)


async def test_a_name_that_is_not_known() -> None:
    assert "is a name that is not known here" in await why_away(
        settings(9092, host="nowhere.invalid")
    )


async def test_something_that_never_answers() -> None:
    """A firewall that drops packets behaves like this."""
    async with listening() as port:
        assert await why_away(settings(port)) == f"127.0.0.1:{port} does not answer"


async def test_tls_on_one_side_only() -> None:
    """A listener with TLS is asked without it, and the other way round."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with listening(context=context) as port:
        assert (
            "ends the connection: a listener that wants TLS, or a login? "
            "Kafka.SecurityProtocol is PLAINTEXT"
        ) in (await why_away(settings(port)))
    async with listening(ends=True) as port:
        why = await why_away(settings(port, "SSL"))
        assert "a listener without" in why
        assert "Kafka.SecurityProtocol is SSL" in why
