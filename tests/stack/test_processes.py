"""What an app brings besides its web process: workers, a scheduler that must be alone, programs that run once."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx2
import pytest

from tests.stack.backups import ok
from tests.stack.beside import Beside
from tests.stack.load import Load
from tests.stack.stacks import CLEAN, wait_until

OVERRIDE = """\
services:
  worker:
    extends: {file: process.yaml, service: process}
    command: [python, -m, jobs.worker]
    deploy: {replicas: 2}
    mem_limit: 128m
  scheduler:
    extends: {file: process.yaml, service: process}
    command: [python, -m, jobs.scheduler]
    labels: {stack.singleton: "true"}
    mem_limit: 128m
  mail:
    build: {context: ., dockerfile_inline: "FROM ${PYTHON_IMAGE}"}
    command: [python, -m, http.server, "8025"]
    networks: [web]
    mem_limit: 64m
"""
# Two that ran at one time: each is seen until its very end.
TOGETHER = "SELECT count(*) FROM shifts a, shifts b WHERE a.id < b.id AND b.began_at <= a.seen_at"


TABLES = "python -m jobs.tables"


class Jobs(Beside):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "processes", "jobs", APP_DIR="../jobs", APP="jobs.web:app", MIGRATE=TABLES)
        (folder / "compose.override.yaml").write_text(OVERRIDE)

    def images(self) -> set[str]:
        """The images of the slots and the processes."""
        found = self.compose("ps", "--format", "{{.Service}} {{.Image}}").splitlines()
        return {image for service, image in map(str.split, found) if service not in OTHERS}


OTHERS = ("traefik", "postgres", "backup", "mail")


class Work:
    """A client that gives the app three jobs a second; `given` has those that it said it took."""

    def __init__(self, address: str) -> None:
        self.address, self.given, self.ending = address, list[int](), threading.Event()

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


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    made = Jobs(tmp_path_factory.mktemp("processes") / "stack")
    made.remove()
    try:
        ok(made.stack("up"))
        yield made
    finally:
        made.remove()


def test_up_starts_them_with_the_app(jobs: Jobs) -> None:
    """Two workers, one scheduler and what is no process of the app's, all from the override file."""
    running = jobs.compose("ps", "--status", "running", "--format", "{{.Service}}").split()
    assert sorted(running) == [
        "app-1",
        "app-2",
        "backup",
        "mail",
        "postgres",
        "scheduler",
        "traefik",
        "worker",
        "worker",
    ]
    assert "Nothing changed" in ok(jobs.stack("up"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.long)])
def test_deploys_lose_no_job(jobs: Jobs, rounds: int) -> None:
    """Releases under load, one of them broken: no request fails, each job runs once, there is one scheduler at most."""
    mail = jobs.container("mail")
    with Load(jobs.address, paths=("/", "/things")) as load, Work(jobs.address) as work:
        for number in range(rounds):
            broken = number == 1
            before = jobs.images()
            worker = jobs.app / "jobs/worker.py"
            text = worker.read_text()
            if broken:
                worker.write_text("raise SystemExit('no such queue')\n")
            jobs.commit()
            done = jobs.stack("deploy")
            worker.write_text(text)
            if broken:
                assert done.returncode == 1
                assert "no such queue" in done.stderr
                assert jobs.images() == before
            else:
                ok(done)
                assert len(jobs.images()) == 1
                assert jobs.images() != before
    wait_until(lambda: jobs.psql("SELECT count(*) FROM things WHERE done_at IS NULL") == "0", 120)
    print(load.report())
    print(f"{len(work.given)} jobs")
    assert load.failed == []
    assert len(work.given) > 20 * rounds
    finished = {int(line) for line in jobs.psql("SELECT id FROM things WHERE done_at IS NOT NULL").split()}
    assert set(work.given) <= finished
    assert jobs.psql("SELECT count(*) FROM (SELECT FROM runs GROUP BY thing HAVING count(*) > 1) AS twice") == "0"
    assert jobs.psql(TOGETHER) == "0"
    assert jobs.container("mail") == mail


def test_rollback_takes_them_along(jobs: Jobs) -> None:
    """After it they run the previous release's image too."""
    before = jobs.images()
    ok(jobs.stack("rollback"))
    [now] = jobs.images()
    assert {now} != before
    assert jobs.psql(TOGETHER) == "0"


def test_what_an_interrupted_command_left_is_ended_first(jobs: Jobs) -> None:
    """Two containers of one that must be alone: both end before another starts."""
    jobs.compose("up", "--detach", "--no-deps", "--no-recreate", "--scale", "scheduler=2", "scheduler")
    wait_until(lambda: jobs.psql(TOGETHER) == "1")
    jobs.psql("DELETE FROM shifts")
    jobs.commit()
    ok(jobs.stack("deploy"))
    jobs.psql("DELETE FROM shifts WHERE seen_at IS NULL")
    assert len(jobs.compose("ps", "--quiet", "scheduler").split()) == 1


def test_restore_stops_them(jobs: Jobs) -> None:
    """What they would write into the old database would be lost."""
    ok(jobs.stack("backup"))
    before = {service: one["State"]["StartedAt"] for service, one in jobs.containers().items()}
    ok(jobs.stack("restore", "--to", "latest", "--yes"))
    after = jobs.containers()
    for service in ("worker", "scheduler"):
        assert after[service]["State"]["Running"]
        assert after[service]["State"]["StartedAt"] > before[service]


def test_a_program_runs_once_with_what_serves(jobs: Jobs) -> None:
    """With the image, the variables and the role of the app; its exit code and output are passed on."""
    program = "import os,sys; print(os.environ['PGUSER'], os.path.exists('release.txt')); sys.exit(7)"
    done = jobs.stack("run", "--", "python", "-c", program)
    assert (done.returncode, done.stdout) == (7, "app True\n")
    done = jobs.stack("run", "--owner", "--", "python", "-c", program)
    assert (done.returncode, done.stdout) == (7, "owner True\n")


def test_program_gets_the_signals(jobs: Jobs) -> None:
    """It ends as it wants to."""
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('here', flush=True); signal.pause()"
    argv = (sys.executable, "stack", "run", "--", "python", "-c", program)
    with subprocess.Popen(argv, cwd=jobs.folder, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        process.terminate()
        assert process.wait(60) == 3


def test_nothing_runs_beside_a_restore(jobs: Jobs) -> None:
    """What it would write may be lost."""
    journal = jobs.folder / ".stack/journal.json"
    journal.write_text(json.dumps({"verb": "restore", "new": "another", "old": "this"}))
    try:
        for arguments in (("run", "--", "true"), ("psql", "--", "-c", "SELECT 1")):
            done = jobs.stack(*arguments)
            assert done.returncode == 1
            assert "`./stack restore` is under way" in done.stderr
    finally:
        journal.unlink()


def test_psql_is_the_apps(jobs: Jobs) -> None:
    """As the app's role, or the schema's owner's."""
    for arguments, role in (((), "app"), (("--owner",), "owner")):
        done = jobs.stack("psql", *arguments, "--", "-XqAtc", "SELECT current_user")
        assert (done.returncode, done.stdout) == (0, f"{role}\n")


def test_down_leaves_nothing(jobs: Jobs) -> None:
    """They are Compose's own services."""
    jobs.compose("down")
    assert jobs.left_behind() == ""
