"""A Swarm of one server, on an engine of the tests' own, and a Postgres beside it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2

from offline.images import BASE, build_base, exists
from tests.conftest import REPO
from tests.stack.engine import HOST, Engine
from tests.stack.load import Load, untrusting
from tests.stack.stacks import Clone, run, wait_until

HAPROXY = "stack-offline/test-haproxy:forky"
SHOP = "shop"
HBA = "local all all trust\nhost all all all scram-sha-256\n"
# A route that tells what the app makes of who asks.
SEEN = """

from fastapi import Request


@app.get("/who-asks")
async def who_asks(request: Request) -> dict[str, object]:
    return {"client": request.client.host, "scheme": request.url.scheme, "headers": request.headers.items()}
"""
# A release whose app can't be imported.
BROKEN = """
FROM {image}
USER root
RUN ["sh", "-c", "echo 'raise RuntimeError' >> /code/app/main.py"]
USER 10001:10001
"""


class Swarm:
    """`clone` builds the app's image on the machine's engine; all else is on `engine`."""

    def __init__(self, engine: Engine, clone: Clone) -> None:
        self.engine, self.clone = engine, clone
        self.image = f"{clone.project}-app"
        self.address = f"https://{engine.outside}:{clone.https_port}"

    def docker(self, *argv: str, check: bool = True, **options: Any) -> str:
        return run("docker", *argv, env=self.engine.environment, check=check, **options)

    def make(self) -> None:
        """Three releases of the app's image, one of them broken; Postgres; what docs/swarm.md has before the first."""
        with (self.clone.folder / "app/main.py").open("a") as file:
            file.write(SEEN)
        self.clone.compose("build", "migrate")
        for release in ("first", "second"):
            run("docker", "tag", f"{self.image}:latest", f"{self.image}:{release}")
        run(
            "docker",
            "build",
            "--quiet",
            "--tag",
            f"{self.image}:broken",
            "-",
            input=BROKEN.format(image=f"{self.image}:first"),
        )
        if not exists(BASE):
            build_base()
        run("docker", "build", "--quiet", "--tag", HAPROXY, str(REPO / "tests/deploy/swarm"))
        postgres = self.clone.settings["POSTGRES_IMAGE"]
        self.engine.load(HAPROXY, postgres, *(f"{self.image}:{release}" for release in ("first", "second", "broken")))
        self.docker("swarm", "init", "--advertise-addr", HOST)
        self.make_database(postgres)
        folder = self.clone.folder
        subject = ("-subj", "/CN=app.example.com", "-addext", "subjectAltName=DNS:app.example.com")
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key.pem"))
        run("openssl", "req", "-x509", "-days", "2", *key, "-out", str(folder / "cert.pem"), *subject)
        self.secret("certificate", (folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
        self.secret("database-url", f"postgresql://shop:of-the-app@{HOST}/shop\n")
        self.secret("migration-database-url", f"postgresql://shop_owner:of-the-owner@{HOST}/shop\n")

    def secret(self, name: str, text: str) -> None:
        self.docker("secret", "create", name, "-", input=text)

    def make_database(self, image: str) -> None:
        """One that is reached by TCP with a password, with the roles of deploy/postgres/."""
        hba = self.clone.folder / "hba"
        hba.write_text(HBA)
        hba.chmod(0o644)
        options = ("--network", "host", "--env", "POSTGRES_HOST_AUTH_METHOD=trust", "--env", "POSTGRES_DB=shop")
        command = ("postgres", "-c", f"listen_addresses={HOST}", "-c", "hba_file=/hba", "-c", "fsync=off")
        run("chmod", "a+rx", str(self.clone.folder))
        self.docker(
            "run",
            "--detach",
            "--name",
            "postgres",
            "--user",
            "postgres",
            *options,
            "--volume",
            f"{hba}:/hba:ro",
            image,
            *command,
        )
        # Not by its socket, on which the server answers that makes the database.
        wait_until(lambda: "accepting" in self.docker("exec", "postgres", "pg_isready", "--host", HOST, check=False))
        passwords = ("--env", "OWNER_PASSWORD=of-the-owner", "--env", "APP_PASSWORD=of-the-app")
        roles = ("psql", "-Xq", "--set=owner=shop_owner", "--set=app=shop", "shop")
        self.docker(
            "exec",
            "--interactive",
            *passwords,
            "postgres",
            *roles,
            input=(REPO / "deploy/postgres/roles.sql").read_text(),
        )

    def deploy(self, release: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run the command of docs/swarm.md to its end, whatever that is."""
        own = {"IMAGE": f"{self.image}:{release}", "HAPROXY_IMAGE": HAPROXY, "WORKERS": "1", **settings}
        argv = [sys.executable, "-m", "deploy.swarm", SHOP]
        environment = {**self.engine.environment, **own}
        done = subprocess.run(argv, cwd=self.clone.folder, env=environment, capture_output=True, text=True, timeout=400)
        print(*argv, release, done.stdout, done.stderr, sep="\n")
        return done

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, verify=untrusting(), timeout=10)

    def answers(self) -> bool:
        """Whether HAProxy has found tasks, and they the schema."""
        try:
            with self.client() as client:
                return client.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def serving(self) -> set[str]:
        """The releases that answer."""
        with self.client() as client:
            return {client.get("/who").json()["release"] for _ in range(10)}

    def running(self, service: str = "app") -> set[str]:
        """The service's tasks that run."""
        argv = (
            "service",
            "ps",
            "--no-trunc",
            "--filter",
            "desired-state=running",
            "--format",
            "{{.ID}} {{.CurrentState}}",
        )
        listed = [line.split() for line in self.docker(*argv, f"{SHOP}_{service}").splitlines()]
        return {name for name, state, *_ in listed if state == "Running"}

    def replaced(self, before: set[str]) -> bool:
        """Whether as many tasks run as then, and not the same."""
        now = self.running()
        return len(now) == len(before) and now != before

    def process(self, task: str) -> int:
        """A task's PID 1, by its id on this machine."""
        return int(self.docker("inspect", "--format", "{{.Status.ContainerStatus.PID}}", task))

    def update(self) -> str:
        """How the newest update of the app ended, or goes on."""
        [found] = json.loads(self.docker("service", "inspect", f"{SHOP}_app"))
        return str(found.get("UpdateStatus", {}).get("State", ""))

    @contextlib.contextmanager
    def load(self, what: str, *paths: str, rate: float = 40) -> Iterator[Load]:
        """Counted load meanwhile, and a little longer; nothing that was acknowledged is lost or doubled."""
        with Load(self.address, rate, paths=paths) as load:
            wait_until(lambda: len(load.samples) > 40)
            yield load
            after = time.monotonic()
            wait_until(lambda: len([one for one in load.samples if one.sent > after]) > 100)
        print(f"{what}: sent {len(load.samples)}, failed {len(load.failed)}. {load.report()}")
        assert load.lost_or_doubled() == []
