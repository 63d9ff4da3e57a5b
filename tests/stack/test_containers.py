"""What the containers may do, from their own inside and from the engine's side."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.stack.stacks import Stack, inspect, run, wait_until

SERVICES = ("traefik", "app-1", "app-2", "migrate", "postgres", "backup")
RUNNING = tuple(service for service in SERVICES if service != "migrate")


def processes(stack: Stack, service: str) -> list[int]:
    """The container's processes, by their ids on this machine."""
    return [int(line) for line in run("docker", "top", stack.container(service), "-o", "pid").split()[1:]]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_services_are_those_of_the_design(stack: Stack) -> None:
    """Nothing runs that these tests do not look at."""
    assert set(stack.containers()) == set(SERVICES)


@pytest.mark.parametrize("service", RUNNING)
def test_no_process_has_root_or_a_capability(stack: Stack, service: str) -> None:
    """The kernel's own word for every process: not root, no capability now or to be had, no new privileges."""
    pids = processes(stack, service)
    assert pids
    for pid in pids:
        word = status(pid)
        assert "0" not in word["Uid"].split(), word["Name"]
        assert {int(word[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}, word["Name"]
        assert word["NoNewPrivs"] == "1"


@pytest.mark.parametrize("service", SERVICES)
def test_container_is_closed(stack: Stack, service: str) -> None:
    """Read-only, no capability, no way to the engine, limits on memory, processes and logs."""
    container = stack.containers()[service]
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert container["Config"]["User"] not in ("", "0", "root")
    assert not [mount for mount in container["Mounts"] if "docker" in mount["Source"] and mount["Type"] == "bind"]
    assert not [mount for mount in container["Mounts"] if mount["Source"].endswith(".sock")]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    assert "size=64m" in host["Tmpfs"]["/tmp"]  # noqa: S108 - the container's
    assert host["RestartPolicy"]["Name"] == ("no" if service == "migrate" else "unless-stopped")


@pytest.mark.parametrize("service", SERVICES)
def test_environment_holds_no_secret(stack: Stack, service: str) -> None:
    """There is no password to find."""
    environment = [line.partition("=") for line in stack.containers()[service]["Config"]["Env"]]
    suspect = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|_KEY$")
    assert [name for name, _, value in environment if suspect.search(name) and value] == []
    assert [name for name, _, value in environment if re.search(r"://[^/]*:[^/]*@", value)] == []


@pytest.mark.parametrize("service", RUNNING)
def test_file_system_is_read_only(stack: Stack, service: str) -> None:
    """A container can't write into its own image, in fact and not only by its configuration."""
    refused = run("docker", "exec", stack.container(service), "touch", "/usr/local/bin/mine", check=False)
    assert "Read-only file system" in refused


def test_only_traefik_publishes_ports(stack: Stack) -> None:
    """One door."""
    for service, container in stack.containers().items():
        assert bool(container["HostConfig"]["PortBindings"]) == (service == "traefik")


@pytest.mark.parametrize("service", ["postgres", "backup"])
def test_postgres_and_its_backups_have_no_network(stack: Stack, service: str) -> None:
    """No interface but the loopback one, and no TCP or UDP socket on that."""
    container = stack.containers()[service]
    assert list(container["NetworkSettings"]["Networks"]) == ["none"]
    net = Path(f"/proc/{container['State']['Pid']}/net")
    assert [line.partition(":")[0].strip() for line in (net / "dev").read_text().splitlines()[2:]] == ["lo"]
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        assert len((net / kind).read_text().splitlines()) == 1, kind


CONNECT = """
import psycopg, sys
try:
    psycopg.connect(f"host=/var/run/postgresql dbname=app user={sys.argv[1]}").close()
except psycopg.OperationalError as error:
    sys.exit(str(error))
print("connected")
"""


@pytest.mark.parametrize(
    ("user", "role", "outcome"),
    [
        ("app", "app", "connected"),
        ("owner", "owner", "connected"),
        *(("app", role, "Peer authentication failed") for role in ("owner", "postgres")),
        ("app", "barman", "no pg_hba.conf entry"),
        *(("owner", role, "Peer authentication failed") for role in ("app", "postgres")),
        *(("root", role, "authentication failed") for role in ("app", "owner", "postgres")),
    ],
)
def test_postgres_knows_its_clients_by_uid(stack: Stack, user: str, role: str, outcome: str) -> None:
    """Each uid gets its own role and no other; root gets none."""
    app = stack.container("app-1")
    assert outcome in run("docker", "exec", "--user", user, app, "python", "-c", CONNECT, role, check=False)


def test_app_may_not_change_the_schema(stack: Stack) -> None:
    """In the running stack too: rows, no DDL."""
    program = (
        "import psycopg; psycopg.connect('host=/var/run/postgresql dbname=app user=app').execute('DROP TABLE notes')"
    )
    refused = run("docker", "exec", stack.container("app-1"), "python", "-c", program, "app", check=False)
    assert "must be owner of table notes" in refused


def test_log_of_postgres_names_no_value(stack: Stack) -> None:
    """Neither a slow statement's parameters nor the row that an error is about: they are somebody's."""
    insert = "INSERT INTO alembic_version VALUES ($1) \\bind 'a-secret' \\g\n"
    statements = f"SELECT pg_sleep(1.1), $1::text \\bind 'a-secret' \\g\nBEGIN;\n{insert}{insert}ROLLBACK;\n"
    postgres = stack.container("postgres")
    run("docker", "exec", "-i", "-u", "owner", postgres, "psql", "-XqAt", "app", input=statements)
    logged = run("docker", "logs", postgres, check=False)
    assert "duration: " in logged
    assert "duplicate key value violates unique constraint" in logged
    assert "a-secret" not in logged


def test_migrations_ran_once_and_before_the_app(stack: Stack) -> None:
    """One container, one run, done before either slot started."""
    containers = stack.containers()
    migrate = containers["migrate"]
    assert migrate["State"]["ExitCode"] == 0
    assert migrate["RestartCount"] == 0
    assert len(run("docker", "ps", "-aq", "--filter", f"name={stack.project}-migrate").split()) == 1
    for slot in ("app-1", "app-2"):
        assert migrate["State"]["FinishedAt"] < containers[slot]["State"]["StartedAt"]


def test_slots_run_the_same_image_with_workers(stack: Stack) -> None:
    """Both slots and the migration are one image; a slot has two workers or more."""
    containers = stack.containers()
    assert len({containers[service]["Image"] for service in ("app-1", "app-2", "migrate")}) == 1
    assert len(stack.workers("app-1")) >= 2


def test_killed_worker_and_killed_slot_come_back(stack: Stack) -> None:
    """kill -9 of a worker: PID 1 starts another. Of PID 1: the engine starts the container again."""
    before = stack.workers("app-1")
    os.kill(before[0], signal.SIGKILL)
    container = stack.container("app-1")

    def worker_is_back() -> bool:
        now = stack.workers("app-1")
        return before[0] not in now and len(now) == len(before)

    wait_until(worker_is_back)
    assert inspect(container)["RestartCount"] == 0
    # The id on this machine: `docker kill` would count as a stop that somebody wanted.
    os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: inspect(container)["RestartCount"] == 1)
    wait_until(stack.both_slots_answer)
    # Some engines mount it anew without its mode, and nobody but root may write there then.
    assert run("docker", "exec", container, "stat", "-c", "%a", "/tmp") == "1777\n"  # noqa: S108


def test_wrong_setting_ends_a_slot_with_a_sentence(stack: Stack) -> None:
    """Without `./stack` too: exit code 2, one line."""
    argv = ("run", "--rm", "--no-deps", "-T", "-e", "STACK_WORKERS=many", "app-1")
    assert "WORKERS=many is wrong: it must be a whole number from 1 to 64." in stack.compose(*argv, check=False)


WRONG = {
    "BACKUP_RATE=fast": "whole MB a second (0 for as fast as it goes), 0 to 1000.",
    "BACKUP_KEEP_DAYS=0": "whole days, 1 to 3650.",
    "BACKUP_S3_EVERY=5": "whole seconds, 10 to 86400.",
    "BACKUP_FULL=0 3 * * 0": "days of the week by name, as in mon-fri.",
    "BACKUP_VERIFY=0 25 * * sun": "minute hour day month weekday (",
    "BACKUP_S3_BUCKET=mine": "BACKUP_S3_KEYS must name a file with ACCESS_KEY_ID, SECRET_ACCESS_KEY, PASSWORD",
}


@pytest.mark.parametrize("setting", WRONG)
def test_wrong_setting_ends_the_backups_with_a_sentence(stack: Stack, setting: str) -> None:
    """As it ends a slot."""
    said = stack.compose("run", "--rm", "--no-deps", "-T", "-e", setting, "backup", check=False).strip()
    assert WRONG[setting] in said.splitlines()[-1]
    assert "S3" in setting or said.splitlines()[-1].startswith(f"{setting} is wrong: ")


DAYS = """
from datetime import datetime, timedelta, timezone
from backup import settings
for setting in settings.SCHEDULES:
    trigger, now, found = settings.crontab(setting), datetime(2026, 11, 1, tzinfo=timezone.utc), []
    while (now := trigger.get_next_fire_time(None, now)) < datetime(2026, 11, 15, tzinfo=timezone.utc):
        found.append(f"{now:%a}")
        now += timedelta(seconds=1)
    print(setting, *found)
"""


def test_backup_each_day(stack: Stack) -> None:
    """A full one on Sundays, an increment on every other day, and a verification on Sundays, for two weeks."""
    week = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    shown = stack.compose("exec", "-T", "backup", "python", "-c", DAYS).splitlines()
    assert {line.split()[0]: line.split()[1:] for line in shown} == {
        "BACKUP_FULL": ["Sun", "Sun"],
        "BACKUP_INCREMENTAL": week * 2,
        "BACKUP_VERIFY": ["Sun", "Sun"],
    }


def test_app_that_cannot_be_imported_ends_its_slot(stack: Stack) -> None:
    """No worker tries for ever: the slot ends with the reason in its log, and the rest is Docker's policy."""
    said = stack.compose("run", "--rm", "--no-deps", "-T", "-e", "STACK_APP=app.main:missing", "app-1", check=False)
    assert "APP is wrong: the module app.main has no missing." in said
    assert "could not start, and no other serves: so ends this slot." in said


def test_image_is_small(stack: Stack) -> None:
    """The stack's layer on the user's image takes at most 45 MB."""
    sizes = [inspect(f"{stack.project}-{name}")["Size"] for name in ("app:latest", "user")]
    assert (sizes[0] - sizes[1]) / 1e6 <= 45


def test_idle_memory(stack: Stack) -> None:
    """Idle, a slot with two workers, which share their libraries, uses less than 130 MiB, and the four together 450.

    docs/figures.md has the figures of a first start; here the other tests have left page cache in Postgres and Traefik.
    """
    names = stack.compose("ps", "--quiet", "app-1", "app-2", "postgres", "traefik").split()
    lines = run("docker", "stats", "--no-stream", "--format", "json", *names).splitlines()
    used = {one["Name"]: float(one["MemUsage"].split("MiB")[0]) for one in map(json.loads, lines)}
    for slot in ("app-1", "app-2"):
        assert used[f"{stack.project}-{slot}-1"] < 130
    assert sum(used.values()) < 450
