"""An app with a worker on Redis, a scheduler, a cron job and a single-page front, and a client that gives it jobs."""

import re
import shutil
import textwrap
import threading
from pathlib import Path
from typing import Self

import httpx2

from tests.conftest import REPO
from tests.stack.beside import Beside
from tests.stack.stacks import run

# The lines that the page has to copy: Redis, and a worker on it.
[DOCUMENTED] = re.findall(r"^    volumes:\n(?:    .+\n)+", (REPO / "docs/processes.md").read_text(), re.MULTILINE)
QUEUE = textwrap.dedent(DOCUMENTED).replace("shop.", "jobs.")
# For app.env.
REDIS = "REDIS_URL=unix:///run/redis/redis.sock\n"
OVERRIDE = (
    QUEUE
    + """\
  scheduler:
    extends: {file: process.yaml, service: process}
    command: [python, -m, jobs.scheduler]
    labels: {stack.singleton: "true"}
    mem_limit: 128m
  cron: {extends: {file: process.yaml, service: cron}, mem_limit: 128m}
  tool:
    extends: {file: process.yaml, service: process}
    profiles: [by-hand]
    command: [python, -m, http.server, "8026"]
    mem_limit: 64m
  mail:
    build: {context: ., dockerfile_inline: "FROM ${PYTHON_IMAGE}"}
    command: [python, -m, http.server, "8025"]
    networks: [web]
    deploy: {resources: {limits: {memory: 64m}}}
"""
)
# Two that ran at one time: each is seen until its very end.
TOGETHER = "SELECT count(*) FROM shifts a, shifts b WHERE a.id < b.id AND b.began_at <= a.seen_at"
WAITING = """SELECT count(*) FROM things WHERE NOT EXISTS
    (SELECT FROM runs WHERE thing = things.id AND ended_at IS NOT NULL)"""
IN_FLIGHT = "SELECT count(*) FROM runs WHERE ended_at IS NULL"
# Jobs that were cut off, or began twice.
WRONG = "SELECT thing FROM runs GROUP BY thing HAVING count(*) > 1 OR count(ended_at) < count(*)"
# Whether each minute since the first has had its one run of the cron job, which came to its end.
MINUTES = """SELECT count(*), count(DISTINCT due) = count(*) AND count(ended_at) = count(*)
    AND max(due) - min(due) = (count(*) - 1) * interval '1 minute' FROM beats"""
UP_TO_DATE = "SELECT max(due) > now() - interval '75 s' AND count(*) = count(ended_at) FROM beats"
TABLES = "python -m jobs.tables"
OTHERS = ("traefik", "postgres", "backup", "mail", "redis", "static", "tool")


class Jobs(Beside):
    def __init__(self, folder: Path) -> None:
        front = {"STATIC_DIR": "/srv/jobs/dist", "API_PATHS": "/things"}
        own = {"APP_DIR": "../jobs", "APP": "jobs.web:app", "MIGRATE": TABLES, **front}
        super().__init__(folder, "processes", "jobs", REDIS, **own)
        self.override(OVERRIDE)
        # The front of the other app, which its build writes the release into.
        shutil.copytree(REPO / "tests/apps/spa/front", self.app / "front")
        shutil.copy(REPO / "tests/apps/spa/build.py", self.app)
        with (self.app / "Dockerfile").open("a") as dockerfile:
            dockerfile.write('RUN ["python", "build.py"]\n')
        # One job a minute: a deploy waits for the longer ones of test_cron.py.
        (self.app / "crontab").write_text("* * * * * python -m jobs.beat quick 3\n")
        self.commit()

    def override(self, text: str) -> None:
        (self.folder / "compose.override.yaml").write_text(text)

    def redis(self, *command: str, check: bool = True) -> str:
        cli = ("exec", "-T", "redis", "redis-cli", "-e", "-s", "/data/redis.sock")
        return self.compose(*cli, *command, check=check).strip()

    def queue(self, count: int) -> list[int]:
        """Give the app so many jobs."""
        with self.client() as client:
            return [int(client.post("/things", json={"name": "a job"}).json()["id"]) for _ in range(count)]

    def all_done(self) -> bool:
        return self.psql(WAITING) == "0"

    def tool(self) -> str:
        """The container of what somebody started by hand, from a profile that is not chosen."""
        label = f"label=com.docker.compose.project={self.project}"
        return run("docker", "ps", "--quiet", "--filter", label, "--filter", "label=com.docker.compose.service=tool")

    def images(self) -> set[str]:
        """The images of the slots and the processes."""
        found = self.compose("ps", "--format", "{{.Service}} {{.Image}}").splitlines()
        return {image for service, image in map(str.split, found) if service not in OTHERS}


class Work:
    """A client that gives the app three jobs a second; `given` has those that it took, `refused` its other answers."""

    def __init__(self, address: str) -> None:
        self.address, self.given, self.refused, self.ending = address, list[int](), list[str](), threading.Event()

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.give)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()

    def give(self) -> None:
        with httpx2.Client(base_url=self.address, verify=False, timeout=30) as client:
            while not self.ending.wait(0.33):
                answer = client.post("/things", json={"name": "a job"})
                if answer.status_code == 201:
                    self.given.append(answer.json()["id"])
                else:
                    self.refused.append(f"{answer.status_code} {answer.text[:200]}")
