"""The stack beside the popular template: `.venv/bin/python -m benchmarks.template PATH [rounds]`, PATH a clone of it.

https://github.com/fastapi/full-stack-fastapi-template, its backend unchanged: (A) by its own compose.yml and
compose.deploy.yml, as deployment-docker-compose.md says, and (B) as APP_DIR of this stack. Both with four Uvicorn
workers, Postgres 18, Traefik of one version and TLS, one at a time, A and B in turn; the tables have the medians.

Requests: the app has half of CPU 0 in all; Traefik, Postgres and the load (h2load, HTTP/2, 32 connections) share CPU 1.
Memory: right after that, of the same containers, without the template's Adminer and the stack's backups.
Redeploys: no limits of CPUs; 150 requests a second of both routes, over new and kept connections with HTTP/1.1 and
HTTP/2, while a changed app is built and put into service: by the three commands of the template's page, and by
`./stack deploy`.

On a machine without a registry stand-ins take the place of the base images, and an empty page that of the frontend.
"""

import re
import secrets
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.deploys import under
from benchmarks.measure import SECONDS, WARM_UP, cpu_seconds, load, processes, pss
from tests.conftest import REPO
from tests.stack.load import Load
from tests.stack.stacks import Clone, Stack, base_images, inspect, prune, run, wait_until

# Of the load beside a redeploy, and the seconds of it before that begins.
REQUESTS_A_SECOND, QUIET_SECONDS = 150, 5
HEALTH = "/api/v1/utils/health-check/"
ITEMS = "/api/v1/items/"
ADMINISTRATOR = {"FIRST_SUPERUSER": "admin@example.com", "FIRST_SUPERUSER_PASSWORD": secrets.token_urlsafe(32)}
# The variables that the template's page asks for.
OWN = {
    "PROJECT_NAME": "Benchmark",
    "SECRET_KEY": secrets.token_urlsafe(32),
    "SMTP_HOST": "",
    "EMAILS_FROM_EMAIL": "info@example.com",
    **ADMINISTRATOR,
}
MIB = {"B": 2**-20, "KiB": 2**-10, "MiB": 1, "GiB": 2**10}
# The template's Dockerfile, where no registry is reached. The official image has the curl of its health check.
PAGE = "RUN install -D /dev/null /app/backend/app/frontend/index.html"
CURL = "RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends curl"
STAND_INS = {
    r"FROM oven/bun(.|\n)*?(?=\nFROM)": f"FROM {{python}} AS frontend-build\n{PAGE}\n",
    r"FROM python:\S+": f"FROM {{python}}\n{CURL}",
    r"COPY --from=ghcr.io/astral-sh/uv:(\S+) .*": r"RUN python -m pip install --no-cache-dir uv==\1",
}


def checkout(path: str, folder: Path) -> Path:
    """A clone of the template as it was committed."""
    run("git", "clone", "--quiet", path, str(folder))
    python = base_images()["PYTHON_IMAGE"]
    if python.startswith("stack-offline/"):
        dockerfile = folder / "backend/Dockerfile"
        text = dockerfile.read_text()
        for pattern, instead in STAND_INS.items():
            text, count = re.subn(pattern, instead.replace("{python}", python), text)
            assert count == 1, pattern
        dockerfile.write_text(text)
    change(folder)
    return folder


def change(folder: Path) -> None:
    """A release of the app."""
    (folder / "backend/app/release.py").write_text(f"# {time.time_ns()}\n")
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
    run("git", "add", "--all", cwd=folder)
    run("git", *who, "commit", "--quiet", "--no-verify", "--message", "A release", cwd=folder)


# What is measured of each way, and what is wanted of this stack's over the template's.
FIGURES = {
    f"`{HEALTH}`, requests/s": "1.3 or more",
    "the app's CPU s for 1,000 of them": "",
    f"`{ITEMS}{{id}}`, requests/s": "1.3 or more",
    "the app's CPU s for 1,000 of these": "",
    "memory of the app's processes (PSS), MiB": "0.75 or less",
    "memory of all containers, backups apart, MiB": "0.75 or less",
    "the app's image, MB": "",
}


@dataclass
class Deploy:
    """Requests that failed and that were sent, the longest time without a right answer, the seconds of the deploy."""

    failed: int
    sent: int
    gap: float
    seconds: float


DEPLOYS = [
    ("failed requests of a redeploy", "none", "{0.failed} of {0.sent:,}"),
    ("longest time without a right answer, s", "", "{0.gap:.1f}"),
    ("seconds that it took", "", "{0.seconds:.0f}"),
]


@dataclass
class Measured:
    """One way's: FIGURES of each round, and each deploy."""

    rows: list[list[float]] = field(default_factory=list)
    deploys: list[Deploy] = field(default_factory=list)


class Served(Stack, ABC):
    """The template's backend, some way. `slots` are the services that run it."""

    slots: tuple[str, ...]
    app: Path
    headers: dict[str, str]
    item = ""

    def install(self) -> None:
        """From the checkout to a running stack."""
        self.deploy()

    @abstractmethod
    def deploy(self) -> None:
        """Put the checkout as it is now into service."""

    @abstractmethod
    def limit(self, limited: bool) -> None:
        """Whether the CPUs are pinned and limited, from the next start on."""

    def start(self) -> None:
        self.compose("up", "--detach", "--wait")
        wait_until(self.answers, 120)

    def answers(self) -> bool:
        with self.client(headers=self.headers) as client:
            return all(client.get(path).status_code == 200 for path in (HEALTH, self.item) for _ in range(4))

    def make_item(self) -> None:
        """One item, and the token to read it with."""
        self.headers, self.item = {}, HEALTH
        wait_until(self.answers, 120)
        name, password = ADMINISTRATOR.values()
        with self.client() as client:
            login = client.post("/api/v1/login/access-token", data={"username": name, "password": password})
            self.headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
            made = client.post(ITEMS, headers=self.headers, json={"title": "An item", "description": "of some length"})
            self.item = ITEMS + made.json()["id"]

    def measure(self, out: Path) -> list[float]:
        found = []
        headers = [part for name, value in self.headers.items() for part in ("-H", f"{name}: {value}")]
        pids = processes(map(self.container, self.slots))
        for path in (HEALTH, self.item):
            before = cpu_seconds(pids)
            rate = len(load(out, self.address + path, *headers)) / SECONDS
            # The warm-up used CPU too.
            found += [rate, (cpu_seconds(pids) - before) / (rate * (SECONDS + WARM_UP)) * 1000]
        return [*found, sum(map(pss, pids)), self.memory(), self.image_size()]

    def memory(self) -> float:
        """MiB of the containers, the backups' apart."""
        names = [one["Id"] for service, one in self.containers().items() if service != "backup"]
        names = [name for name in names if inspect(name)["State"]["Running"]]
        used = run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", *names).splitlines()
        parts = [re.match(r"([\d.]+)([A-Za-z]+)", line) for line in used]
        return sum(float(part[1]) * MIB[part[2]] for part in parts if part)

    def image_size(self) -> float:
        """MB of the app's image."""
        image = inspect(self.container(self.slots[0]))["Image"]
        return int(run("docker", "image", "inspect", "--format", "{{.Size}}", image)) / 1e6

    def redeploy(self) -> Deploy:
        change(self.app)
        sent = Load(self.address, REQUESTS_A_SECOND, paths=(HEALTH, self.item), headers=self.headers)
        begun, ended = under(sent, self.deploy, QUIET_SECONDS)
        print(self.project, sent.report(), *sent.failed[:2], sep="\n    ", file=sys.stderr, flush=True)
        return Deploy(len(sent.failed), len(sent.samples), sent.longest_gap(begun), ended - begun)


class Template(Served):
    """(A) By its own Compose files."""

    slots = ("backend",)

    def __init__(self, folder: Path, app: Path) -> None:
        self.app = app
        files = "compose.yml", "compose.deploy.yml", str(REPO / "benchmarks/unchanged.yaml")
        own = {"DOMAIN": "localhost", "POSTGRES_PASSWORD": secrets.token_urlsafe(32), **OWN}
        super().__init__("template", folder / "template.env", app, COMPOSE_FILE=":".join(files), **own)

    def limit(self, limited: bool) -> None:
        pinned = {"APP_CPUSET": "0", "APP_CPUS": "0.5", "REST_CPUSET": "1"} if limited else {}
        settings = {**self.settings, **pinned}
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def deploy(self) -> None:
        self.compose("build")
        self.compose("run", "--rm", "backend", "bash", "scripts/prestart.sh")
        self.compose("up", "--detach")
        if self.item:
            wait_until(self.answers, 120)

    def remove(self) -> None:
        # Not the base images, which Compose takes for this project's.
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "3", check=False)
        run("docker", "image", "rm", "--force", f"{self.project}-backend", check=False)
        prune("image", f"label=com.docker.compose.project={self.project}")


class Here(Clone, Served):
    """(B) On this stack."""

    slots = ("app-1", "app-2")

    def __init__(self, folder: Path, app: Path) -> None:
        self.app = app
        folder.mkdir()
        settings = {"APP_DIR": str(app), "APP_DOCKERFILE": "backend/Dockerfile", "MIGRATE": "bash scripts/prestart.sh"}
        # The load is one client.
        super().__init__(folder, "template-here", WORKERS="2", CLIENT_IN_FLIGHT_LIMIT="500", **settings)
        (folder / "app.env").write_text("".join(f"{name}={value}\n" for name, value in OWN.items()))
        run("chmod", "-R", "a+rX", str(folder))

    def limit(self, limited: bool) -> None:
        # ./stack has written into it.
        lines = [line for line in self.env_file.read_text().splitlines() if not line.startswith("COMPOSE_FILE=")]
        files = ["COMPOSE_FILE=compose.yaml:benchmarks/pinned.yaml"] * limited
        self.env_file.write_text("\n".join([*lines, *files, ""]))

    def install(self) -> None:
        self.ok("up")

    def deploy(self) -> None:
        self.ok("deploy")

    def ok(self, *arguments: str) -> None:
        done = self.stack(*arguments)
        assert done.returncode == 0, done.stderr


def main() -> None:
    path, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name)).chmod(0o755)
        app = checkout(path, folder / "app")
        both: list[Served] = [Template(folder, app), Here(folder / "stack", app)]
        for one in both:
            one.remove()
        try:
            show(compare(both, folder / "out", rounds))
        finally:
            for one in both:
                one.remove()


def compare(both: list[Served], out: Path, rounds: int) -> list[Measured]:
    out.mkdir()
    found = [Measured() for _ in both]
    for one in both:
        one.install()
        one.make_item()
        one.compose("stop")
    for limited in (True, False):
        for one in both:
            one.limit(limited)
        for number in range(rounds):
            for one, measured in zip(both, found, strict=True):
                one.start()
                if limited:
                    measured.rows.append(one.measure(out))
                    print(number, one.project, measured.rows[-1], file=sys.stderr, flush=True)
                else:
                    measured.deploys.append(one.redeploy())
                one.compose("stop")
    return found


def show(both: list[Measured]) -> None:
    """Print the table."""
    print("| | the template | this stack | over the template | wanted |\n|---|---|---|---|---|")
    medians = [map(statistics.median, zip(*one.rows, strict=True)) for one in both]
    for (what, wanted), one, other in zip(FIGURES.items(), *medians, strict=True):
        digits = 2 if "CPU" in what else 0
        print(f"| {what} | {one:,.{digits}f} | {other:,.{digits}f} | {other / one:.2f} | {wanted} |")
    for what, wanted, text in DEPLOYS:
        theirs, ours = ("; ".join(text.format(it) for it in one.deploys) for one in both)
        print(f"| {what} | {theirs} | {ours} | | {wanted} |")


if __name__ == "__main__":
    main()
