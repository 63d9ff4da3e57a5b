"""Requests a second, beside the templates' way and two ceilings: `.venv/bin/python -m benchmarks.requests [rounds]`.

Four ways to write the same routes, in the same slots behind the same Traefik with TLS, one after the other in each of
the rounds; the table has the medians. The app has half of CPU 0; Traefik, Postgres and the load (h2load, HTTP/2, 32
connections) share CPU 1. First as fast as it goes, then at half of that rate, for the latencies.
"""

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.conftest import REPO
from tests.stack.engine import descendants
from tests.stack.stacks import Clone, inspect, run, wait_until
from tests.stack.tools import tool

CLIENTS = 32
SECONDS = 6
WARM_UP = 2
HERTZ = os.sysconf("SC_CLK_TCK")
OVERRIDE = "compose.yaml:benchmarks/ways/compose.yaml"
# Settings, by the way.
WAYS = {
    "this app": {},
    "the templates' way": {"COMPOSE_FILE": f"{OVERRIDE}:benchmarks/ways/template.yaml"},
    "psycopg's pool": {"APP": "ways.pool:app"},
    "bare ASGI": {"APP": "ways.bare:app"},
}
ROUTES = {"GET /notes/{id}": "/notes/1", "GET /notes": "/notes", "POST /notes": "/notes", "GET /": "/"}


@dataclass
class Row:
    """Requests/s at most; p50 and p99 in ms at half of it; the slots' CPU seconds per 1,000 requests; PSS in MiB."""

    rate: float
    p50: float
    p99: float
    cpu: float
    pss: float


def processes(containers: Iterable[str]) -> list[int]:
    """The ids on this machine of all that runs in the containers."""
    parents = [inspect(one)["State"]["Pid"] for one in containers]
    return [one for parent in parents for one in (parent, *descendants(parent))]


def cpu_seconds(pids: Iterable[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / HERTZ


def pss(pid: int) -> float:
    """MiB of the process, by its share of what several use."""
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()[0]) / 1024


def load(out: Path, url: str, *more: str) -> list[int]:
    """Microseconds of each request that h2load sent in SECONDS, after WARM_UP. Every answer must be a 2xx.

    `out` is a folder for its log, /out for h2load; `more` are further options of it.
    """
    log = out / "log"
    log.unlink(missing_ok=True)
    flags = ["-c", str(CLIENTS), "-D", str(SECONDS), f"--warm-up-time={WARM_UP}", "--log-file=/out/log", *more]
    done = tool("h2load", *flags, url, options=("--cpuset-cpus", "1", "-v", f"{out}:/out"))
    assert not done.returncode, done.stderr
    lines = [line.split() for line in log.read_text().splitlines()]
    right = [line for line in lines if line[1].startswith("2")]
    # Those under way at the end have another status.
    others = [line for line in lines if not line[1].startswith("2")]
    assert len(others) <= CLIENTS < len(right), (done.stdout, others[:5])
    assert not others or {line[1] for line in others} <= {"0", "-1"}, others[:5]
    return [int(line[2]) for line in right]


class Benchmark(Clone):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "benchmark", COMPOSE_FILE=OVERRIDE, IN_FLIGHT_LIMIT="1000", RELEASE="ways")
        run("chmod", "-R", "a+rX", str(folder))
        self.out = folder / "out"
        self.out.mkdir()
        (self.out / "body").write_text('{"text": "a note of a usual length, some forty characters"}')

    def build(self) -> None:
        """The images of this checkout, and on top of the app's what the other ways need."""
        self.compose("build", "--quiet", "traefik", "postgres", "backup", "migrate")
        image = f"{self.project}-app:ways"
        base = run("docker", "image", "inspect", "--format", "{{.Id}}", image).strip()
        run("docker", "tag", base, f"{self.project}-app:plain")
        argv = ("docker", "build", "--quiet", "--build-arg", f"APP_IMAGE={self.project}-app:plain", "--tag", image)
        run(*argv, str(REPO / "benchmarks/ways"))

    def start(self, way: str) -> None:
        changed = {**self.settings, **WAYS[way]}
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in changed.items()))
        self.compose("up", "--detach", "--wait", "traefik", "postgres", "app-1", "app-2")
        wait_until(self.both_slots_answer)

    def processes(self) -> list[int]:
        return processes(self.container(slot) for slot in ("app-1", "app-2"))

    def load(self, route: str, rate: float | None = None) -> list[int]:
        flags = [f"--rps={rate / CLIENTS:.2f}"] if rate else []
        if route.startswith("POST"):
            flags += ["-d", "/out/body", "-H", "content-type: application/json"]
        return load(self.out, self.address + ROUTES[route], *flags)

    def measure(self, route: str) -> Row:
        pids = self.processes()
        before = cpu_seconds(pids)
        rate = len(self.load(route)) / SECONDS
        used = cpu_seconds(pids) - before
        quantiles = statistics.quantiles(self.load(route, rate / 2), n=100)
        # The warm-up used CPU too.
        sent = rate * (SECONDS + WARM_UP)
        return Row(rate, quantiles[49] / 1000, quantiles[98] / 1000, used / sent * 1000, max(map(pss, pids)))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Path(folder))
        benchmark.remove()
        try:
            benchmark.build()
            for number in range(rounds):
                for way in WAYS:
                    benchmark.start(way)
                    if not number and way == "this app":
                        with benchmark.client() as client:
                            assert client.post("/notes", json={"text": "the first"}).json()["id"] == 1
                    for route in ROUTES:
                        rows[route, way].append(benchmark.measure(route))
                        print(number, route, way, rows[route, way][-1], file=sys.stderr, flush=True)
        finally:
            benchmark.remove()
    print("| route | way | requests/s | p50 ms | p99 ms | CPU s/1,000 | PSS MiB |\n|---|---|---|---|---|---|---|")
    for (route, way), measured in sorted(rows.items(), key=lambda one: list(ROUTES).index(one[0][0])):
        row = Row(*map(statistics.median, zip(*map(astuple, measured), strict=True)))
        print(f"| {route} | {way} | {row.rate:,.0f} | {row.p50:.1f} | {row.p99:.1f} | {row.cpu:.2f} | {row.pss:.0f} |")


if __name__ == "__main__":
    main()
