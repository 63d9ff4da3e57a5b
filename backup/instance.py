"""A Postgres of our own on restored files: on a socket in a closed folder, under our own uid."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backup.catalog import lsn
from backup.server import Failure, psql, run

# Where to stop; where the log ends before that, nothing is to be stopped at.
PLACES = ("recovery_target_time", "recovery_target_lsn")
# Only this uid gets to the socket, so everyone there may be anyone.
HBA = "local all all trust\n"
# https://www.postgresql.org/docs/18/runtime-config-wal.html#RUNTIME-CONFIG-WAL-ARCHIVE-RECOVERY
RECOVERY = (
    *("restore_command", "recovery_end_command", "recovery_target", "recovery_target_time", "recovery_target_name"),
    *("recovery_target_lsn", "recovery_target_inclusive", "recovery_target_timeline", "recovery_target_action"),
)
# The database's owner may set defaults for every session in it, and what comes with the connection wins over them. None
# of these may decide whose functions are called, who calls them, or when the session ends.
SETTINGS = {
    "search_path": "",
    "role": "none",
    "local_preload_libraries": "",
    "client_encoding": "UTF8",
    "default_transaction_read_only": "off",
    **dict.fromkeys(("statement_timeout", "lock_timeout", "transaction_timeout"), "0"),
    **dict.fromkeys(("idle_in_transaction_session_timeout", "idle_session_timeout"), "0"),
}
OPTIONS = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
# An event trigger of the superuser's may call a function of somebody else's.
SUPERUSER = f"{OPTIONS} -c event_triggers=off"
# COPY writes rows out with Postgres's own functions alone, as for pg_dump. For a SELECT the planner calls those that
# indexes and statistics are on, as the superuser (RelationGetIndexExpressions in relcache.c). To count rows one column
# will do, a short one if there is one.
COUNTS = r"""
\set QUIET off
SELECT pg_catalog.format('SELECT %L', pg_catalog.translate(name, pg_catalog.chr(10), ' ')),
    pg_catalog.format('COPY %s%s TO ''/dev/null''', name, (
        SELECT pg_catalog.format('(%I)', attname) FROM pg_catalog.pg_attribute
        WHERE attrelid = tables.oid AND attnum > 0 AND attgenerated = '' AND NOT attisdropped
        ORDER BY attlen < 0, attnum LIMIT 1))
FROM (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
) AS tables ORDER BY name \gexec
"""


class Instance:
    def __init__(self, folder: Path, durable: bool) -> None:
        self.folder = folder
        self.closed = Path(tempfile.mkdtemp(prefix="instance-"))
        self.log = self.closed / "log"
        self.options = {
            "config_file": str(folder / "postgresql.conf"),
            "hba_file": str(self.closed / "hba"),
            "listen_addresses": "",
            "unix_socket_directories": str(self.closed),
            "unix_socket_permissions": "0700",
            "shared_buffers": "64MB",
            # Off: it would ask for as many connections as the original server had, and nobody reads meanwhile.
            "hot_standby": "off",
            "max_wal_senders": "0",
            "summarize_wal": "off",
            "autovacuum": "off",
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "max_wal_size": "4GB",
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_timezone": "UTC",
            "lc_messages": "C",
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.last_transaction: str | None = None
        # Where in the WAL the recovery ended, and whether for want of more.
        self.redone = 0
        self.ran_out = False

    def start(self) -> None:
        (self.closed / "hba").write_text(HBA)
        flags = [word for name, value in self.options.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            argv = ["postgres", "-D", str(self.folder), *flags]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def recover(self, say: Callable[[str], None]) -> None:
        """Start and replay until the target; the server takes connections then. Raises Failure."""
        say("replay the WAL")
        self.start()
        try:
            self.wait(say)
        except Failure:
            # Then everything that there is was committed before the target; who called sees to it that this is so.
            if "recovery ended before configured recovery target was reached" not in self.log.read_text():
                raise
            settings = self.folder / "postgresql.auto.conf"
            # By their whole names: without recovery_target_timeline it would follow the newest.
            named = [(line.partition("=")[0].strip(), line) for line in settings.read_text().splitlines()]
            if not any(name in PLACES for name, _ in named):
                raise Failure("The WAL that was received does not reach as far as that.") from None
            settings.write_text("\n".join([*(line for name, line in named if name not in PLACES), ""]))
            self.ran_out = True
            self.start()
            self.wait(say)
        self.redone = lsn(re.findall(r"redo done at (\S+)", self.log.read_text())[-1])
        times = re.findall(r"last completed transaction was at log time (\S+ \S+)", self.log.read_text())
        self.last_transaction = times[-1] if times else None
        for name in RECOVERY:
            self.sql(f"ALTER SYSTEM RESET {name}")

    def wait(self, say: Callable[[str], None]) -> None:
        assert self.process
        told = time.monotonic()
        while not self.answers():
            if self.process.poll() is not None:
                said = self.log.read_text().splitlines()
                # "The database system is …" is an answer to who asks whether it is there.
                fatal = [line for line in said if re.search("FATAL:  (?!the database system is)|PANIC", line)]
                raise Failure(f"The restored files can't be started: {(fatal or ['no reason given'])[0]}")
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"replay the WAL: {self.at()}")
            time.sleep(0.1)

    def answers(self) -> bool:
        argv = ["pg_isready", "--quiet", "--host", str(self.closed)]
        return subprocess.run(argv, capture_output=True).returncode == 0

    def at(self) -> str:
        """What the startup process says that it does, such as `recovering 000000010000000000000006`."""
        assert self.process
        titles = []
        # Each may end while it is looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                titles.append(Path(f"/proc/{child}/cmdline").read_text(errors="replace"))
        return next((title.partition("startup ")[2].strip("\0 ") for title in titles if "startup" in title), "starting")

    def sql(self, statement: str, database: str = "postgres", user: str = "postgres") -> list[list[str]]:
        """What the server answers. What the superuser is given here calls nothing outside pg_catalog."""
        # Anybody else's statement may call a function that never ends.
        options, timeout = (SUPERUSER, None) if user == "postgres" else (OPTIONS, 60)
        return psql(statement, f"host={self.closed} user={user} dbname={database} options='{options}'", timeout)

    def check(self) -> dict[str, Any]:
        """The roles are there; the schema's revision. Raises Failure."""
        [[roles]] = self.sql(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname IN ('app', 'owner', 'barman')"
        )
        if roles != "3":
            raise Failure("The restored database lacks the roles that the stack needs.")
        return {"revision": self.revision()}

    def revision(self) -> str | None:
        """The schema's revision, None without one."""
        # As the schema's owner: the table may be a view by now, which calls functions of that role's.
        [[there]] = self.sql("SELECT pg_catalog.to_regclass('public.alembic_version') IS NOT NULL", "app", "owner")
        if there == "f":
            return None
        rows = self.sql("SELECT version_num FROM public.alembic_version ORDER BY 1", "app", "owner")
        return " ".join(row[0] for row in rows)

    def timeline(self) -> int:
        """The timeline that the recovery began."""
        [[name]] = self.sql("SELECT pg_walfile_name(pg_current_wal_lsn())", "postgres")
        return int(name[:8], 16)

    def origin(self) -> tuple[str, int, int]:
        """The system identifier; which timeline was followed, and up to which place."""
        [[identity]] = self.sql("SELECT system_identifier FROM pg_control_system()", "postgres")
        lines = (self.folder / "pg_wal" / f"{self.timeline():08X}.history").read_text().splitlines()
        followed, place = [line.split()[:2] for line in lines if line.strip()][-1]
        return identity, int(followed), lsn(place)

    def amcheck(self) -> None:
        """Raise Failure when a table or an index is not sound.

        It calls functions that indexes are on, but as the table's owner, who can't become anybody else meanwhile:
        amcheck_lock_relation_and_check in contrib/amcheck/verify_common.c, since CVE-2022-1552.
        """
        for [database] in self.sql("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn"):
            # In another schema than pg_catalog, whoever owns that schema can add functions of the same names.
            self.sql("DROP EXTENSION IF EXISTS amcheck CASCADE", database)
        argv = ["pg_amcheck", "--host", str(self.closed), "--username=postgres", "--all", "--install-missing"]
        run(*argv, "--heapallindexed", "--jobs=2", env={**os.environ, "PGOPTIONS": SUPERUSER})

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        rows = [row[0] for row in self.sql(COUNTS, "app")]
        return {name: int(tag.removeprefix("COPY ")) for name, tag in zip(rows[::2], rows[1::2], strict=True)}

    def stop(self) -> None:
        """Stop cleanly, so that the next start replays nothing; at once when it doesn't answer."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(2)
            try:
                self.process.wait(300)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failure("The restored server did not stop within 5 minutes.") from None
        shutil.rmtree(self.closed, ignore_errors=True)
