"""Postgres and its backup service alone: what the container's program answers, without the rest of the stack."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.stack.stacks import CLEAN, Clone, run, wait_until


class Database(Clone):
    def __init__(self, folder: Path, name: str, **settings: str) -> None:
        super().__init__(folder, name, **settings)
        self.volume = f"{self.project}_postgres-data"
        self.restores = 0

    def begin(self) -> None:
        """Start it with an empty database, whose first backup is there."""
        self.compose("build", "--quiet", "postgres", "backup")
        self.start()
        self.sql("CREATE TABLE notes (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
        wait_until(lambda: bool(self.verb("list")))

    def start(self, *services: str) -> None:
        self.compose("up", "--detach", "--wait", "--no-deps", *(services or ("postgres",)))
        if not services:
            self.compose("up", "--detach", "--no-deps", "backup")

    def settle(self) -> None:
        """Wait until the service has a backup of the timeline that runs."""
        running = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
        wait_until(lambda: self.verb("list")[0]["timeline"] == int(self.sql(running)))

    def sql(self, *statements: str) -> str:
        """Run them, each in a transaction of its own."""
        words = [word for one in statements for word in ("-c", one)]
        argv = ("exec", "-T", "postgres", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", *words, "app")
        return self.compose(*argv).strip()

    def write(self, *numbers: int) -> str:
        """Write these notes; the server's time after that."""
        rows = (f"INSERT INTO notes VALUES ({number:d})" for number in numbers)  # noqa: S608 - whole numbers
        return self.sql(*rows, "SELECT clock_timestamp()")

    def notes(self) -> set[int]:
        return {int(line) for line in self.sql("SELECT id FROM notes").split()}

    def python(self, program: str) -> str:
        """Run a program in the backup container."""
        head = "from backup import server, settings; server.configure(14)\n"
        return self.compose("exec", "-T", "backup", "python", "-c", head + program)

    def verb(self, *words: str) -> Any:
        """What the running container answers."""
        return json.loads(self.compose("exec", "-T", "backup", "python", "-m", "backup", *words))

    def ask(self, *words: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """Ask a container of its own, as a restore does."""
        argv = ["docker", "compose", "--progress", "quiet", "run", "--rm", "--no-deps", "-T", *options]
        argv += ["backup", *words]
        done = subprocess.run(argv, cwd=self.folder, env=CLEAN, capture_output=True, text=True, timeout=300)
        print(*words, done.stdout, done.stderr, sep="\n")
        return done

    def alone(self, *words: str) -> Any:
        done = self.ask(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def plan(self, *words: str) -> Any:
        return self.alone("plan", *words)

    def refused(self, *words: str) -> str:
        """Why there is no plan."""
        done = self.ask("plan", *words)
        assert done.returncode == 1, done.stdout
        return done.stderr.strip().splitlines()[-1]

    def recover(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Stop both, and restore into the new volume `into`."""
        self.compose("stop", "postgres")
        self.compose("stop", "backup")
        self.restores += 1
        self.into = f"{self.project}_postgres-{self.restores}-{time.time_ns()}"
        labels = (f"com.docker.compose.project={self.project}", "com.docker.compose.volume=postgres-data")
        run("docker", "volume", "create", *(word for label in labels for word in ("--label", label)), self.into)
        return self.ask("restore", *words, options=("--volume", f"{self.into}:/restore"))

    def restore(self, *words: str, services: tuple[str, ...] = ()) -> Any:
        """Restore, and serve what was restored."""
        done = self.recover(*words)
        assert done.returncode == 0, done.stderr
        image = f"{self.project}-postgres"
        rights = ("--rm", "--user", "root", "--entrypoint", "chown", "--volume", f"{self.into}:/volume")
        run("docker", "run", *rights, image, "-R", "postgres:postgres", "/volume")
        self.use(self.into)
        self.start(*services)
        return json.loads(done.stdout)

    def use(self, volume: str) -> None:
        """Serve this volume from the next start on."""
        lines = [line for line in self.env_file.read_text().splitlines() if not line.startswith("POSTGRES_VOLUME=")]
        self.env_file.write_text("\n".join([*lines, f"POSTGRES_VOLUME={volume}", ""]))
        self.volume = volume
