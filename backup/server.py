"""Barman, Postgres and the files of the backup volume."""

import fcntl
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAJOR = os.environ.get("PG_MAJOR", "18")
VOLUME = Path("/backup")
# One Barman server a major version: another one's backups are of another database, to Postgres and to Barman.
# BACKUP_FOLDER: what a plan looks at that was fetched, and is not this volume's own yet.
HOME = VOLUME / (os.environ.get("BACKUP_FOLDER") or MAJOR)
STREAMING = HOME / "streaming"
STATE = HOME / "stack"
# Where that goes while the volume has no room: a tmpfs of the container.
SPARE = Path("/tmp/stack")  # noqa: S108
SOCKET = "/var/run/postgresql"
SLOT = "barman"
# Not the database `app`: there the schema's owner could have this role call functions and operators of its own.
LIVE = f"host={SOCKET} user=barman dbname=postgres options=-csearch_path="
CONFIGURATION = Path("/tmp/barman.conf")  # noqa: S108 - a tmpfs of the container
# The newest that may be lost when Postgres's disk dies and the backup volume survives, in seconds.
PROMISE = 5

# https://docs.pgbarman.org/release/3.20.1/user_guide/configuration.html
TEMPLATE = f"""\
[barman]
barman_home = {VOLUME}
barman_user = barman
barman_lock_directory = {VOLUME}
log_level = WARNING

[main]
description = Postgres {MAJOR}
backup_directory = {HOME}
conninfo = {LIVE}
streaming_conninfo = {LIVE}
backup_method = postgres
streaming_archiver = on
slot_name = {SLOT}
compression = zstd
retention_policy = RECOVERY WINDOW OF {{days}} DAYS
# At restore straight from the backups into the new data directory, without a copy in between.
staging_location = local
staging_path = /tmp
"""


LOGGED = re.compile(r"^\d{4}-\d\d-\d\d \S+ \[\d+\] \S+ ")


class Failure(Exception):
    """Ends a verb with one sentence. `code`: how the program ended that failed."""

    code: int | None = None


def configure(days: int) -> None:
    """Write Barman's configuration; `days` are those that one can go back."""
    text = TEMPLATE.format(days=days)
    # Each call of `docker compose exec` comes by here, and another process's Barman may be reading it.
    if not CONFIGURATION.exists() or CONFIGURATION.read_text() != text:
        write(CONFIGURATION, text)
    SPARE.mkdir(exist_ok=True)
    if os.access(VOLUME, os.W_OK):
        STATE.mkdir(parents=True, exist_ok=True)


def run(*argv: str, **options: Any) -> str:
    """Run argv and return what it printed. Raises Failure with the end of what it said when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", **({"input": ""} | options))
    except subprocess.TimeoutExpired:
        raise Failure(f"{argv[0]} did not answer within {options['timeout']} s.") from None
    if done.returncode:
        # Barman says it twice, the second time as its log does: with the time, the process and the module.
        said = [LOGGED.sub("", line) for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = list(dict.fromkeys(line for line in said if re.match(r"ERROR|EXCEPTION|.*\b(error|FATAL):", line)))
        failure = Failure("; ".join(errors[-5:] or said[-5:]) or f"{argv[0]} ended with {done.returncode}.")
        failure.code = done.returncode
        raise failure
    return done.stdout


def barman(*arguments: str) -> str:
    return run("barman", "--config", str(CONFIGURATION), *arguments)


def psql(statement: str, connection: str = LIVE, timeout: int | None = 60, **values: str) -> list[list[str]]:
    """The rows that a server answers, as text; `:'name'` in the statement stands for a value, quoted."""
    flags = ["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--field-separator=\x1f"]
    flags += [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **values}.items()]
    # From standard input: in --command psql replaces nothing.
    printed = run("psql", *flags, connection, input=statement, timeout=timeout)
    return [line.split("\x1f") for line in printed.split("\n")[:-1]]


def whole(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return facts


def write(path: Path, text: str) -> None:
    """Write the file whole or not at all, also for who reads it meanwhile, and when the power fails."""
    young = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with young.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        young.replace(path)
    except OSError:
        young.unlink(missing_ok=True)
        raise


def identity() -> str | None:
    """The system identifier of the database that the backups are of; None before the first."""
    known = whole(HOME / "identity.json").get("systemid")
    return str(known) if known else None


def now() -> datetime:
    return datetime.now(UTC)


def remember(name: str, /, **facts: Any) -> None:
    """Keep facts in the backup volume, with the time; whole or not at all; without room there, in /tmp."""
    text = json.dumps({"at": now().isoformat(timespec="seconds"), **facts})
    spare = SPARE / f"{name}.json"
    try:
        write(STATE / f"{name}.json", text)
    except OSError:
        write(spare, text)
    else:
        spare.unlink(missing_ok=True)


def recall(name: str) -> dict[str, Any]:
    """What `remember` kept; {} when there is nothing."""
    return whole(SPARE / f"{name}.json") or whole(STATE / f"{name}.json")


def hold() -> None:
    """Keep the backup volume locked until this process ends, as lock/hold does it. Raises Failure.

    Two services on one volume would receive two databases' WAL into one folder, or remove each other's backups.
    """
    path = VOLUME / ".held-by"
    # Never closed: with this process, its container and what it started there end.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(
            f"Another service uses the backup volume: {path.read_text().strip()}. Two would destroy what it holds. "
            "Stop that one, or give this one a volume of its own."
        ) from None
    os.ftruncate(file, 0)
    holder = f"container {os.uname().nodename} of the project {os.environ.get('PROJECT')}, since {now():%FT%TZ}\n"
    os.write(file, holder.encode())


@contextmanager
def alone(job: str, wait: bool = False) -> Iterator[None]:
    """Hold the job's lock in this container. While another process holds it: wait if `wait`, else raise Failure."""
    with (SPARE / f"{job}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Failure(f"Another {job} is under way: `./stack backups` shows it when it is done.") from None
        yield


def outcome(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Remember that the job `name` is well, and when; return the facts."""
    remember(name, ok=True, **facts)
    return facts


def failed(name: str, reason: object, **facts: Any) -> None:
    """Remember why the job `name` failed, and what else is to be known of it; say it in the log."""
    sentence = str(reason)
    print(f"{name}: {sentence}", flush=True)
    remember(name, ok=False, said=sentence, **facts)


def age(moment: str | datetime) -> float:
    """Seconds since."""
    then = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (now() - then).total_seconds()
