"""What Postgres and the slots are sized to in the running stack, and what a client sees when that is not enough."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import httpx2
import pytest

from tests.stack.stacks import Clone, Stack, run, wait_until


def psql(stack: Stack, statement: str) -> str:
    return stack.compose("exec", "-T", "postgres", "psql", "-XqAt", "-U", "postgres", "app", "-c", statement).strip()


def test_postgres_is_tuned_to_its_limits(stack: Stack) -> None:
    """A quarter of POSTGRES_MEMORY, 768 MiB, for its cache, in the server itself."""
    shown = psql(
        stack, "SELECT name, setting || unit FROM pg_settings WHERE sourcefile LIKE '%tuned.conf' AND unit = 'kB'"
    )
    assert "work_mem|1966kB" in shown
    assert psql(stack, "SHOW shared_buffers") == "192MB"
    assert psql(stack, "SHOW max_connections") == "100"


def test_one_file_overrides_what_is_tuned(stack: Stack) -> None:
    """The line that postgresql.conf has as an example wins over the tuned value once it is no comment."""
    program = (
        "sed 's/^# work_mem = .*/work_mem = 7MB/' /etc/postgresql/postgresql.conf > /tmp/changed.conf && "
        "postgres -C work_mem -D /tmp -c config_file=/tmp/changed.conf"
    )
    argv = ("--entrypoint", "tune", f"{stack.project}-postgres", "sh", "-c", program)
    assert run("docker", "run", "--rm", "--tmpfs", "/tmp:mode=1777", *argv).strip() == str(7 * 1024)  # noqa: S108


def test_app_has_a_connection_limit_that_follows_max_connections(stack: Stack) -> None:
    """80 of 100; what else it was set to, the next start and the next `./stack up` put right."""
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'app'"
    assert psql(stack, limit) == "80"
    psql(stack, "ALTER ROLE app CONNECTION LIMIT 7")
    stack.compose("exec", "-T", "postgres", "rights")
    assert psql(stack, limit) == "80"


def test_parallel_workers_share_more_than_docker_gives(stack: Stack) -> None:
    """A hash table or the build of an index may take what POSTGRES_MEMORY has, and it counts as the container's."""
    write = "dd if=/dev/zero of=/dev/shm/shared bs=1M count=300 && rm /dev/shm/shared"
    stack.compose("exec", "-T", "-u", "postgres", "postgres", "sh", "-c", write)


@contextmanager
def notes_locked(stack: Stack) -> Iterator[None]:
    """Every statement about notes waits meanwhile."""
    argv = ["docker", "exec", "-i", "-u", "postgres", stack.container("postgres"), "psql", "-Xq", "app"]
    locked = (
        "SELECT count(*) FROM pg_locks WHERE relation = 'notes'::regclass AND mode = 'AccessExclusiveLock' AND granted"
    )
    # Until its standard input ends.
    with subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) as session:
        assert session.stdin
        session.stdin.write("BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE;\n")
        session.stdin.flush()
        wait_until(lambda: psql(stack, locked) == "1")
        yield


def test_pools_take_no_more_than_planned(stack: Stack, client: httpx2.Client) -> None:
    """Under many times as many requests as connections, the app holds what `./stack plan` says at most, and answers."""

    def ask(number: int) -> int:
        if number % 2:
            return client.get("/notes", timeout=20).status_code
        return client.post("/notes", json={"text": "beside many"}, timeout=20).status_code

    held = []
    with ThreadPoolExecutor(200) as pool:
        with notes_locked(stack):
            waiting, ends = pool.map(ask, range(200)), time.monotonic() + 12
            while time.monotonic() < ends:
                held.append(int(psql(stack, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")))
        assert set(waiting) <= {200, 201, 503}
    # The pools of all four workers, 15 each, are full, or nearly: which worker takes a request is chance. And each slot
    # has one for `/health`, while somebody asks.
    assert 45 <= max(held) <= 62
    assert client.get("/notes").status_code == 200


def test_request_waits_for_a_connection_no_longer_than_pool_timeout(stack: Stack, client: httpx2.Client) -> None:
    """Every connection busy: 503 with Retry-After, never 500, and other routes serve; then all is as before."""
    seconds: list[float] = []

    def ask(_: int) -> tuple[int, str | None]:
        begun = time.monotonic()
        answer = client.get("/notes", timeout=60)
        if answer.status_code == 503:
            seconds.append(time.monotonic() - begun)
        return answer.status_code, answer.headers.get("Retry-After")

    with ThreadPoolExecutor(150) as pool:
        with notes_locked(stack):
            answers = pool.map(ask, range(150))
            assert client.get("/").status_code == 200
            # Those that have a connection wait for the table; all others, more than the pools hold, give up before.
            wait_until(lambda: len(seconds) >= 150 - 60, 30)
        found = Counter(answers)
    print(f"POOL_TIMEOUT is 2: refused after {median(seconds):.1f} s, and {max(seconds):.1f} at most; {dict(found)}")
    assert set(found) <= {(200, None), (503, "1")}
    assert client.get("/notes").status_code == 200


def test_plan_is_shown(stopped: Clone) -> None:
    """`./stack plan` shows this machine, also where nothing runs and what is set doesn't fit; --json has the same."""
    done = stopped.stack("plan")
    assert done.returncode == 0, done.stderr
    found = json.loads(stopped.stack("plan", "--json").stdout)
    assert found["limits"]["app-1"] == 512
    assert f"This machine: {os.cpu_count()} CPUs, {found['machine']['memory']} MiB" in done.stdout
    assert f"  {'together':<12}{found['limits_sum']:>8}" in done.stdout
    done = stopped.stack("plan", WORKERS="9")
    assert done.returncode == 0, done.stderr
    assert "9 x WORKER_MEMORY=150 MiB" in done.stdout.splitlines()[-1]
    assert stopped.left_behind() == ""


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"APP_MEMORY": "90g"}, "The memory limits don't fit into this machine: app-1 92160 + "),
        ({"WORKERS": "9"}, "The workers don't fit into their slot: 9 x WORKER_MEMORY=150 MiB"),
        ({"POOL_SIZE": "50"}, "The pools don't fit into Postgres: 2 slots x "),
    ],
)
def test_what_does_not_fit_is_refused(stopped: Clone, settings: dict[str, str], sentence: str) -> None:
    """`./stack up` ends with 2 and the arithmetic before it builds or starts anything."""
    done = stopped.stack("up", **settings)
    assert done.returncode == 2
    [first, *_] = [line for line in done.stderr.splitlines() if not line.startswith("This shell sets ")]
    assert first.startswith(sentence)
    assert "Set " in done.stderr
    assert stopped.left_behind() == ""


def test_slot_refuses_by_itself(stack: Stack) -> None:
    """Under plain Compose too: the slot ends with that sentence before a worker starts."""
    argv = ("run", "--rm", "--no-deps", "-T", "-e", "STACK_WORKERS=9", "app-1")
    assert "9 x WORKER_MEMORY=150 MiB" in stack.compose(*argv, check=False)
