"""A stack whose app says what reached it, with limits that a test can reach."""

import contextlib
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.stack.stacks import CLEAN, Clone, run, wait_until

APP = """
import asyncio
import json
import time


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    print("saw", scope["method"], scope["path"], flush=True)
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    if scope["path"] == "/stall":  # The event loop with it.
        time.sleep(0.3)
    # What it is asked for, as `/status/503`.
    status = int(scope["path"].rpartition("/status/")[2]) if "/status/" in scope["path"] else 200
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    answer = {"client": scope["client"][0], "scheme": scope["scheme"], "headers": headers, "body": size}
    text = json.dumps(answer).encode()
    named = [(b"content-type", b"application/json")]
    if status == 206:
        named.append((b"content-range", b"bytes 0-9/20"))
    if scope["path"] not in ("/big", "/hold"):
        # Without it one in a hundred answers to a POST over HTTP/1.1 is cut off: Go's proxy passes the beginning of an
        # answer of unknown length on at once, and then can't look for the end of the request that it has just sent.
        named.append((b"content-length", str(len(text)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": named})
    if scope["path"] == "/big":  # More than the sockets' buffers on the way can hold.
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
    if scope["path"] == "/hold":  # It goes on when the client has gone.
        await send({"type": "http.response.body", "body": text, "more_body": True})
        await receive()
    await send({"type": "http.response.body", "body": text})
"""
SETTINGS = {
    "APP": "main:app",
    "WORKERS": "1",
    "DRAIN_SECONDS": "0",
    "READ_TIMEOUT": "3",
    "WRITE_TIMEOUT": "6",
    "IN_FLIGHT_LIMIT": "40",
    "CLIENT_IN_FLIGHT_LIMIT": "20",
    "BODY_LIMIT": "1000000",
}


class Echo(Clone):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "echo", **SETTINGS)
        (folder / "main.py").write_text(APP)
        run("chmod", "-R", "a+rX", str(folder / "traefik"))

    def recreate(self, *services: str, **settings: str) -> None:
        """These services again, with other settings until the next time, and an answer from both slots."""
        self.start(*services, **settings)
        wait_until(self.both_slots_answer)

    def start(self, *services: str, **settings: str) -> None:
        argv = ("docker", "compose", "--env-file", str(self.env_file), "up", "--detach", "--wait", "--no-deps")
        run(*argv, *services, cwd=self.folder, env={**CLEAN, **settings})

    def gateway(self) -> str:
        """Who a client on this machine is, seen from Traefik."""
        subnet = ipaddress.ip_network(self.settings["EDGE_SUBNET"])
        return str(next(subnet.hosts()))

    @contextlib.contextmanager
    def connected(self, protocol: str = "http/1.1", port: int | None = None) -> Iterator[ssl.SSLSocket]:
        """A TLS connection over which a test sends what bytes it likes."""
        context = ssl._create_unverified_context()  # noqa: S323 - self-signed
        context.set_alpn_protocols([protocol])
        with (
            socket.create_connection(("127.0.0.1", port or self.https_port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            yield secure

    def ask(self, path: str = "/", **headers: str) -> dict[str, Any]:
        """What the app saw of a request with these headers."""
        with self.client() as client:
            answer = client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = json.loads(answer.text)
        return found

    def seen(self, since: str) -> list[str]:
        """Method and path of each request that reached either slot."""
        logs = [run("docker", "logs", "--since", since, self.container(slot)) for slot in ("app-1", "app-2")]
        return re.findall(r"^saw (.*)$", "\n".join(logs), re.MULTILINE)


def everything(connection: socket.socket, seconds: float = 2) -> bytes:
    """What comes until the other side closes, or says nothing for so long."""
    connection.settimeout(seconds)
    received = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            received += part
    return received
