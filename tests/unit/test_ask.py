"""Waiting for an answer of the app's through the front door."""

import datetime
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ops.config import Config
from ops.door import ask
from ops.run import Stop
from runtime import headers
from tests import configs


class OtherSlot(http.server.BaseHTTPRequestHandler):
    """Answers `/health` as the slot that isn't wanted, `delay` seconds later."""

    delay = 0.0
    headers_sent: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        time.sleep(self.delay)
        self.send_response(200)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b'{"slot": "other"}')


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The configuration of a stack whose front door is such a server."""
    monkeypatch.setattr(ask, "ANSWER_SECONDS", 2)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = made.sign(key, hashes.SHA256())
    both = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "both.pem").write_bytes(both)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    # On one address, as with HTTPS_PORT=203.0.113.5:443: on no other does anybody answer.
    with http.server.ThreadingHTTPServer(("127.0.0.2", 0), OtherSlot) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        yield configs.config(ports=(80, server.server_port), addresses=("127.0.0.1", "127.0.0.2"))
        server.shutdown()


def test_address_that_the_port_is_published_on(config: Config) -> None:
    """There the door is asked: a machine need not publish its ports on 127.0.0.1."""
    assert ask.ask_health(config) == {"slot": "other"}
    with pytest.raises(OSError, match="refused"):
        ask.ask_health(replace(config, addresses=("127.0.0.1", "127.0.0.1")))


@pytest.mark.parametrize("delay", [0, 1])
def test_the_wrong_slot_answers(config: Config, monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    """A slow app is late, whichever slot answered last: few requests were made. A quick one has been asked enough."""
    monkeypatch.setattr(OtherSlot, "delay", delay)
    with pytest.raises(Stop) as raised:
        ask.wait_for(config, "app-1 did not answer", {"slot": "wanted"})
    assert isinstance(raised.value, ask.Late) is bool(delay)


@pytest.mark.parametrize(
    ("kind", "policy", "said"),
    [
        ("text/html; charset=utf-8", headers.STRICT, True),
        ("text/html; charset=utf-8", "default-src 'self'", False),
        ("application/json", headers.STRICT, False),
    ],
)
def test_pages_that_may_load_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch, kind: str, policy: str, said: bool
) -> None:
    """An app of HTML that has the policy of an API is told which setting is another."""
    monkeypatch.setattr(OtherSlot, "headers_sent", {"Content-Type": kind, "Content-Security-Policy": policy})
    assert ("CONTENT_SECURITY_POLICY in .env" in (ask.about_pages(config) or "")) == said
