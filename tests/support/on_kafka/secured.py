"""A broker with a listener for every way to log in, whose certificates are made here, and a server of tokens."""

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from famulus.dev.broker import Broker, Listener
from famulus.dev.node import HOST, free_port
from tests.support.on_kafka.canary import secret

USER, PASSWORD = "alice", secret("password")  # of a broker that lives for a test
CLIENT_SECRET, KEY_PASSWORD = secret("client"), secret("key")
SECRETS = PASSWORD, CLIENT_SECRET, KEY_PASSWORD
PAST = datetime.now(UTC) - timedelta(days=2)
LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Secured:
    """The broker, and the files of its world in *folder*."""

    broker: Broker
    folder: Path
    token_url: str

    def ways(self) -> dict[str, dict[str, str]]:
        """The settings of every right way in, in Kafka's names as the page spells them."""
        trust = {"SslCaLocation": str(self.folder / "ca.pem")}
        certificate = {
            "SslCertificateLocation": str(self.folder / "client.pem"),
            "SslKeyLocation": str(self.folder / "client.key"),
            "SslKeyPassword": KEY_PASSWORD,
        }
        user = {
            **trust,
            "SecurityProtocol": "SaslSsl",
            "SaslUsername": USER,
            "SaslPassword": PASSWORD,
        }
        oauth = {
            "SaslOauthbearerTokenEndpointUrl": f"{self.token_url}/good",
            "SaslOauthbearerAllowedHosts": f"elsewhere.example,{HOST}",
            "SaslOauthbearerClientId": "famulus",
            "SaslOauthbearerClientSecret": CLIENT_SECRET,
            "SaslOauthbearerScope": "kafka",
            "HttpsCaLocation": str(self.folder / "ca.pem"),
        }
        return {
            "tls": {**trust, "SecurityProtocol": "Ssl", **self._at("TLS")},
            "mtls": {**trust, "SecurityProtocol": "SSL", **certificate, **self._at("MTLS")},
            "plain": {**user, "SaslMechanism": "Plain", **self._at("SASL")},
            "scram-256": {**user, "SaslMechanism": "ScramSha256", **self._at("SASL")},
            "scram-512": {**user, "SaslMechanism": "SCRAM-SHA-512", **self._at("SASL")},
            "oauth": {
                **trust,
                "SecurityProtocol": "SASL_SSL",
                "SaslMechanism": "OAuthBearer",
                **oauth,
                **self._at("OAUTH"),
            },
        }

    def _at(self, listener: str) -> dict[str, str]:
        return {"BootstrapServers": self.broker.address(listener)}


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """Make the certificates in *folder*, start the broker and the token server, and end both."""
    ours, foreign = trustme.CA(), trustme.CA()
    for name, authority in (("ca", ours), ("foreign", foreign)):
        authority.cert_pem.write_to_path(folder / f"{name}.pem")
    good = ours.issue_cert(HOST)
    _client(folder / "client", ours.issue_cert("client.example"))
    _client(folder / "foreign-client", foreign.issue_cert("client.example"))
    _client(folder / "expired-client", _expired(ours, "client.example"))
    mutual = {
        "ssl.client.auth": "required",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": _line(ours),
    }
    listeners = [
        Listener("TLS", "SSL", _shown(good)),
        Listener("MTLS", "SSL", {**_shown(good), **mutual}),
        Listener("EXPIRED", "SSL", _shown(_expired(ours, HOST))),
        Listener("ELSEWHERE", "SSL", _shown(ours.issue_cert("kafka.example"))),
        Listener(
            "SASL",
            "SASL_SSL",
            {
                **_shown(good),
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                "plain.sasl.jaas.config": (
                    f'{LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
                ),
                "scram-sha-256.sasl.jaas.config": f"{LOGIN}.scram.ScramLoginModule required;",
                "scram-sha-512.sasl.jaas.config": f"{LOGIN}.scram.ScramLoginModule required;",
            },
        ),
        Listener(
            "CLEAR",
            "SASL_PLAINTEXT",
            {
                "sasl.enabled.mechanisms": "SCRAM-SHA-256",
                "scram-sha-256.sasl.jaas.config": f"{LOGIN}.scram.ScramLoginModule required;",
            },
        ),
        Listener(
            "OAUTH",
            "SASL_SSL",
            {
                **_shown(good),
                "sasl.enabled.mechanisms": "OAUTHBEARER",
                "oauthbearer.sasl.jaas.config": (
                    f"{LOGIN}.oauthbearer.OAuthBearerLoginModule required;"
                ),
            },
        ),
    ]
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    good.configure_cert(trust)
    with (
        token_server(trust) as token_url,
        Broker(listeners=listeners, scram_users={USER: PASSWORD}) as broker,
    ):
        yield Secured(broker, folder, token_url)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings as variables for a process."""
    return {f"KAFKA__{name.upper()}": value for name, value in settings.items()}


def _shown(certificate: trustme.LeafCert) -> dict[str, str]:
    """What a listener shows, in the form that Kafka reads: PKCS 8, in one line each."""
    chain = "".join(pem.bytes().decode() for pem in certificate.cert_chain_pems)
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.key": _escaped(_key(certificate, serialization.NoEncryption())),
        "ssl.keystore.certificate.chain": _escaped(chain.encode()),
    }


def _expired(authority: trustme.CA, name: str) -> trustme.LeafCert:
    return authority.issue_cert(name, not_before=PAST - timedelta(days=1), not_after=PAST)


def _line(authority: trustme.CA) -> str:
    return _escaped(authority.cert_pem.bytes())


def _escaped(pem: bytes) -> str:
    return pem.decode().replace("\n", "\\n")


def _key(certificate: trustme.LeafCert, locked: serialization.KeySerializationEncryption) -> bytes:
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def _client(path: Path, certificate: trustme.LeafCert) -> None:
    """A certificate and its key, which is locked."""
    certificate.cert_chain_pems[0].write_to_path(path.with_suffix(".pem"))
    locked = serialization.BestAvailableEncryption(KEY_PASSWORD.encode())
    path.with_suffix(".key").write_bytes(_key(certificate, locked))


def unsecured_token(lives_s: float) -> str:
    """A token without a signature, which a broker without further configuration takes, unless it is over."""
    now = time.time()
    claims = {"sub": USER, "iat": now - 60, "exp": now + lives_s, "scope": "kafka"}
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode()
        for part in ({"alg": "none"}, claims)
    )
    return ".".join(part.rstrip("=") for part in parts) + "."


async def _answer(request: web.Request) -> web.Response:
    """The last part of the path says how the server behaves."""
    form = await request.post()
    client = base64.b64encode(f"famulus:{CLIENT_SECRET}".encode()).decode()
    kind = request.match_info["kind"]
    if request.headers.get("Authorization") != f"Basic {client}" or form.get("scope") != "kafka":
        return web.json_response(
            {"error": "invalid_client", "error_description": "a text of theirs"}, status=401
        )
    if kind == "redirect":
        raise web.HTTPTemporaryRedirect("/good")
    if kind == "trouble":
        return web.Response(status=503, text="a text of theirs")
    if kind == "large":
        return web.Response(text="x" * 100_000)
    return web.json_response(
        {"access_token": unsecured_token(-30 if kind == "over" else 300), "expires_in": 300}
    )


@contextmanager
def token_server(trust: ssl.SSLContext) -> Iterator[str]:
    """Serve tokens over https on a thread of its own; gives the address."""
    loop, port, ready = asyncio.new_event_loop(), free_port(), threading.Event()

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/{kind}", _answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, HOST, port, ssl_context=trust).start()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"https://{HOST}:{port}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
