"""Asking the app how it is, from outside through Traefik."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import Any

from ops.config import Config
from ops.run import Stop

# Seconds until the stack must answer, once its containers are healthy: Traefik finds a slot within two.
ANSWER_SECONDS = 30
# Seconds for one answer: an app that has much to do lets a request wait.
PATIENCE = 10
# Seconds: an app that takes longer for `/health` has more to do than it can; the database has one of them.
SLOW = 0.9
# The default of runtime/headers.py.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Late(Stop):
    """What was wanted did not come in time from an app that is slow, so that few requests could be made at all."""


class ToThisMachine(http.client.HTTPSConnection):
    """HTTPS to this machine under the public name, past DNS and the router: many can't reach their public address."""

    def __init__(self, domain: str, port: int, context: ssl.SSLContext, address: str = "127.0.0.1") -> None:
        super().__init__(domain, port, timeout=PATIENCE)
        self.context, self.address = context, address

    def connect(self) -> None:
        plain = socket.create_connection((self.address, self.port), self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


def through_the_door(config: Config, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    """What a client is answered, and its body. Raises OSError, HTTPException."""
    try:
        return get(ToThisMachine(config.names[0], config.ports[1], untrusting(), config.addresses[1]), path)
    except ssl.SSLError as error:
        # CLIENT_CA, as the Traefik that runs has it, whatever .env says by now: traefik/dynamic/inside.yaml.
        if "CERTIFICATE_REQUIRED" not in str(error.reason):
            raise
        return get(http.client.HTTPConnection(config.addresses[0], config.ports[0], timeout=PATIENCE), path)


def get(connection: http.client.HTTPConnection, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def ask_health(config: Config) -> dict[str, Any]:
    """What one of the slots says at `/health`. Raises OSError, HTTPException, or ValueError when it isn't the app's."""
    answer, said = through_the_door(config, "/health")
    if answer.status not in (200, 503) or not said.startswith(b"{"):
        raise ValueError(f"{answer.status} {answer.reason}")
    found: dict[str, Any] = json.loads(said)
    return found


def about_pages(config: Config) -> str | None:
    """What to say of an app whose first page is HTML that may load nothing: an API's policy, as nobody said another."""
    try:
        headers = through_the_door(config, "/")[0].headers
    except (OSError, http.client.HTTPException):
        return None
    kind, policy = headers.get("Content-Type", ""), headers.get_all("Content-Security-Policy") or []
    if not kind.startswith("text/html") or policy != [NOTHING]:
        return None
    return (
        "The app's first page is HTML, and may load nothing: it has an API's Content-Security-Policy. "
        "CONTENT_SECURITY_POLICY in .env, or a header of the app's own, says what it may load."
    )


def untrusting() -> ssl.SSLContext:
    """Who answers is checked, by wait_for_certificates, where there is a domain to hold a certificate."""
    return ssl._create_unverified_context()  # noqa: S323


def wait_for(config: Config, what: str, wanted: dict[str, str]) -> dict[str, Any]:
    """Ask until an answer has what is `wanted`; return it. Raises Stop, which says that `what` did not come."""
    deadline = time.monotonic() + ANSWER_SECONDS
    slowest = 0.0
    while True:
        began = time.monotonic()
        try:
            answer = ask_health(config)
            if wanted.items() <= answer.items():
                return answer
            last = json.dumps(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = str(error)
        slowest = max(slowest, time.monotonic() - began)
        if time.monotonic() > deadline:
            kind = Late if slowest > SLOW else Stop
            raise kind(f"{config.address}/health: {what} within {ANSWER_SECONDS} s; last: {last}.")
        time.sleep(0.1)
