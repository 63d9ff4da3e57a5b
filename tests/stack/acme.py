"""A stack with a domain, and Pebble, Let's Encrypt's own test server, beside it."""

import contextlib
import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2

from offline.images import BASE, build_base, exists
from ops.door.ask import ToThisMachine
from tests.stack.stacks import CLEAN, Clone, free_ports, run, wait_until


class Secured(Clone):
    """A clone with a domain, which Pebble, in a container beside its own, gives certificates for."""

    name = "secured"

    def __init__(self, folder: Path, **settings: str) -> None:
        if not exists(BASE):
            build_base()
        # What Traefik is to trust Pebble by, and what browsers would trust Pebble's certificates by.
        self.pem, self.root = folder / "pebble.pem", folder / "root.pem"
        self.pebble_port = free_ports(1)[0]
        own = {
            "COMPOSE_FILE": "compose.yaml:tests/stack/pebble/compose.yaml",
            "DOMAIN": "app.test",
            "ACME_CA": "https://pebble/dir",
            "ACME_PROFILE": "classic",
            "PEBBLE_BASE": BASE,
            "PEBBLE_PEM": str(self.pem),
            "PEBBLE_PORT": str(self.pebble_port),
        }
        super().__init__(folder, self.name, **{**own, **settings})
        # What `./stack up` does first: Traefik's user reads these.
        run("chmod", "-R", "a+rX", str(folder / "traefik"))

    def prepare(self) -> None:
        """Remove what a killed run left, and build what Traefik mounts."""
        self.remove()
        self.compose("build", "--quiet", "pebble")
        self.pem.write_text(self.compose("run", "--rm", "--no-deps", "-T", "pebble", "cat", "/pebble.pem"))

    def start_authority(self) -> None:
        self.compose("up", "--detach", "pebble")
        wait_until(self.authority_answers)

    @contextlib.contextmanager
    def with_authority(self) -> Iterator[Self]:
        """Built, and with its authority running; nothing stays afterwards."""
        try:
            self.prepare()
            self.start_authority()
            yield self
        finally:
            self.remove()

    def authority_answers(self) -> bool:
        try:
            root = httpx2.get(f"https://localhost:{self.pebble_port}/roots/0", verify=False).text
        except httpx2.TransportError:
            return False
        # Each start makes another, and those before it have signed what is stored.
        known = self.root.read_text() if self.root.exists() else ""
        self.root.write_text(known if root in known else known + root)
        return True

    def issued(self) -> int:
        """Certificates that the authority has issued since it started."""
        log = run("docker", "logs", self.container("pebble"), check=False)
        return len(re.findall("Issued certificate serial", log))

    def store(self) -> dict[str, dict[str, str]]:
        """What Traefik keeps, by name: certificate and key in base64."""
        text = self.compose("exec", "-T", "traefik", "cat", "/acme/acme-other.json")
        found = json.loads(text)["acme"]["Certificates"] or []
        return {one["domain"]["main"]: one for one in found}

    def context(self, trusting: bool = True) -> ssl.SSLContext:
        """Trusts Pebble and no other; or anyone."""
        if trusting:
            return ssl.create_default_context(cafile=str(self.root))
        return ssl._create_unverified_context()  # noqa: S323 - Traefik's default certificate is self-signed

    def certificate(self, name: str = "app.test") -> dict[str, Any]:
        """What the stack serves for the name, verified. Raises OSError."""
        connection = ToThisMachine(name, self.https_port, self.context())
        try:
            connection.connect()
            found: Any = connection.sock.getpeercert()
            return dict(found)
        finally:
            connection.close()

    def trusted(self, *names: str) -> bool:
        """Whether each name is served with a certificate of the authority's."""
        try:
            return all(self.certificate(name) for name in names or ("app.test",))
        except OSError:
            return False

    def get(
        self, path: str = "/", name: str = "app.test", trusting: bool = True, **headers: str
    ) -> http.client.HTTPResponse:
        """Ask by a new connection."""
        connection = ToThisMachine(name, self.https_port, self.context(trusting))
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()

    def trusting_up(self, **settings: str) -> "subprocess.CompletedProcess[str]":
        """`./stack up` on a machine that trusts the authority."""
        return self.stack("up", SSL_CERT_FILE=str(self.root), **settings)

    def recreate(self, **settings: str) -> None:
        """Traefik again, with other settings until the next time."""
        argv = (
            "docker",
            "compose",
            "--env-file",
            str(self.env_file),
            "up",
            "--detach",
            "--wait",
            "--no-deps",
            "traefik",
        )
        run(*argv, "traefik", cwd=self.folder, env={**CLEAN, **settings})
