"""What gives way first as requests grow: `.venv/bin/python -m benchmarks.scale`, three minutes.

The sample's reads, writes and new TLS connections, a counted number of each, and what the kernel counts of CPU for each
part; Postgres's log for a write, its memory for a connection, and how many commits it reaches at most. Then what ten, a
hundred and a thousand times the requests of one core of the app take, for nine reads and one write in ten requests.
"""

import socket
import ssl
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.idle import of_container
from benchmarks.measure import processes, pss
from tests.certificates import pair
from tests.stack.stacks import Clone, run
from tests.stack.tools import tool

NAME = "scale.test"
READS, WRITES, HANDSHAKES, CONNECTIONS = 6_000, 3_000, 2_000, 40
CLIENTS = 16
# Seconds of pgbench, and its clients.
SECONDS, WRITERS = 15, 16
INSERT = "INSERT INTO notes (text) VALUES ('a note of a usual length, some forty characters');"
# A connection of the app's that has worked, and waits until its input ends.
HOLD = """
import sys, psycopg
where = "host=/var/run/postgresql user=app dbname=app"
held = [psycopg.connect(where, autocommit=True) for _ in range(int(sys.argv[1]))]
for one in held: one.execute("SELECT * FROM notes ORDER BY id DESC LIMIT 20").fetchall()
print("held", flush=True)
sys.stdin.read()
"""
PARTS = {"app": ("app-1", "app-2"), "traefik": ("traefik",), "postgres": ("postgres",), "backup": ("backup",)}
# Of ten requests one writes. A client sends so many by one TLS connection.
WRITING, BY_CONNECTION = 0.1, 10
# Of a worker, one a core: SQLAlchemy's default.
POOL = 15
TIMES = (1, 10, 100, 1000)


@dataclass
class Cost:
    """CPU seconds of each part for one of them, and bytes of Postgres's log."""

    cpu: dict[str, float]
    log: float


class Scaled(Clone):
    def __init__(self, folder: Path) -> None:
        limits = {"IN_FLIGHT_LIMIT": "1000", "CLIENT_IN_FLIGHT_LIMIT": "1000", "MAX_CONNECTIONS": "200"}
        super().__init__(folder, "scale", DOMAIN=NAME, OWN_CERTIFICATES=NAME, **limits)
        certificate, key = pair(NAME)
        for ending, content in (("crt", certificate), ("key", key)):
            (folder / f"certificates/{NAME}.{ending}").write_bytes(content)
        self.out = folder / "out"
        self.out.mkdir()
        (self.out / "body").write_text('{"text": "a note of a usual length, some forty characters"}')
        run("chmod", "-R", "a+rX", str(folder))

    def spent(self) -> dict[str, float]:
        return {part: sum(of_container(self.container(one)) for one in names) for part, names in PARTS.items()}

    def written(self) -> int:
        # Not by its position, which a backup moves to the next file's begin.
        return int(self.psql("SELECT wal_bytes FROM pg_stat_wal", "postgres"))

    def load(self, count: int, path: str, *more: str) -> Cost:
        """So many requests by few connections; every answer must be right."""
        cpu, log = self.spent(), self.written()
        options = ("--add-host", f"{NAME}:127.0.0.1", "-v", f"{self.out}:/out")
        flags = ["-n", str(count), "-c", str(CLIENTS), *more, f"https://{NAME}:{self.https_port}{path}"]
        done = tool("h2load", *flags, options=options)
        assert f"{count} succeeded" in done.stdout, done.stdout + done.stderr
        print(*[line for line in done.stdout.splitlines() if line.startswith("finished")], file=sys.stderr)
        now = self.spent()
        return Cost({part: (now[part] - cpu[part]) / count for part in PARTS}, (self.written() - log) / count)

    def handshakes(self) -> float:
        """CPU seconds of Traefik for a new connection, none of them resumed."""
        context = ssl._create_unverified_context()  # noqa: S323 - the certificate is nobody's
        before = self.spent()["traefik"]
        for _ in range(HANDSHAKES):
            with socket.create_connection(("127.0.0.1", self.https_port)) as plain:
                context.wrap_socket(plain, server_hostname=NAME).close()
        return (self.spent()["traefik"] - before) / HANDSHAKES

    def memory(self) -> float:
        """MiB that Postgres has for a connection, by PSS."""

        def all_of_it() -> float:
            return sum(map(pss, processes([self.container("postgres")])))

        before = all_of_it()
        argv = ("docker", "exec", "-i", self.container("app-1"), "python", "-c", HOLD)
        with subprocess.Popen([*argv, str(CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
            assert holding.stdout
            assert holding.stdout.readline() == b"held\n"
            found = (all_of_it() - before) / CONNECTIONS
            # Its input ends.
            holding.communicate(timeout=30)
        return found

    def commits(self) -> tuple[float, float, float]:
        """Inserts a second, each its own transaction; CPU seconds and bytes of the log for each."""
        cpu, log = self.spent()["postgres"], self.written()
        script = ("docker", "exec", "-i", "-u", "app", self.container("postgres"), "pgbench", "-n", "-f", "/dev/stdin")
        done = run(*script, "-c", str(WRITERS), "-T", str(SECONDS), "app", input=INSERT)
        [rate] = [float(line.split()[2]) for line in done.splitlines() if line.startswith("tps = ")]
        count = rate * SECONDS
        return rate, (self.spent()["postgres"] - cpu) / count, (self.written() - log) / count


def table(read: Cost, write: Cost, handshake: float, memory: float) -> None:
    """What one core of the app serves of that mixture, and what it takes elsewhere, times TIMES."""

    def mixed(part: str) -> float:
        return read.cpu[part] * (1 - WRITING) + write.cpu[part] * WRITING

    one = 1 / mixed("app")
    print(f"one core of the app: {1 / read.cpu['app']:.0f} reads, {1 / write.cpu['app']:.0f} writes, {one:.0f} mixed")
    titles = "requests/s", "cores of the app", "connections", "their GiB", "Postgres's cores", "log MB/s"
    print("|", " | ".join((*titles, "Traefik's cores", "of them TLS", "new TLS/s")), "|")
    for times in TIMES:
        rate, tls = times * one, times * one / BY_CONNECTION
        row = (
            *(f"{rate:,.0f}", str(times), f"{times * POOL:,}", f"{times * POOL * memory / 1024:.1f}"),
            *(f"{rate * mixed('postgres'):.1f}", f"{rate * WRITING * write.log / 1e6:.1f}"),
            *(f"{rate * mixed('traefik') + tls * handshake:.1f}", f"{tls * handshake:.1f}", f"{tls:,.0f}"),
        )
        print("|", " | ".join(row), "|")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scaled = Scaled(Path(folder))
        scaled.remove()
        try:
            started = scaled.stack("up")
            assert started.returncode == 0, started.stderr
            posted = ("-d", "/out/body", "-H", "content-type: application/json")
            # Pools are filled, and there are notes.
            scaled.load(500, "/notes", *posted)
            write = scaled.load(WRITES, "/notes", *posted)
            read = scaled.load(READS, "/notes/1")
            for name, cost in (("read", read), ("write", write)):
                spent = ", ".join(f"{part} {1000 * one:.3f} ms" for part, one in cost.cpu.items())
                print(f"{name}: {spent}; log {cost.log:.0f} bytes", flush=True)
            handshake = scaled.handshakes()
            print(f"new TLS connection: Traefik {1000 * handshake:.3f} ms", flush=True)
            memory = scaled.memory()
            print(f"a connection to Postgres: {memory:.2f} MiB", flush=True)
            rate, cpu, log = scaled.commits()
            print(f"pgbench: {rate:.0f} commits/s, {1000 * cpu:.3f} ms of Postgres's and {log:.0f} bytes for each")
            table(read, write, handshake, memory)
        finally:
            scaled.remove()


if __name__ == "__main__":
    main()
