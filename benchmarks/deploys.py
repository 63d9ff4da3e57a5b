"""Three ways to a new release, under the same load: `.venv/bin/python -m benchmarks.deploys [rounds]` prints the table.

Each way replaces both slots' release under an open loop of 40 requests a second, GET, POST, PUT and DELETE over new and
kept connections with HTTP/1.1 and HTTP/2. Measured are requests that failed, the longest time without a right answer,
and the p99 of the time of the deploy over that of the 20 s before it.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.stack.load import Load
from tests.stack.stacks import Repository, inspect, run, wait_until

QUIET_SECONDS = 20


def compose_up(repository: Repository, release: str) -> None:
    """(a) `docker compose up -d`."""
    repository.compose("up", "--detach", "--wait", "--no-build")


def scale(repository: Repository, release: str) -> None:
    """(b) A second container beside each, then the first stopped and removed, as rollout plugins of Compose do it."""
    old = [repository.container(slot) for slot in ("app-1", "app-2")]
    wider = ("--scale", "app-1=2", "--scale", "app-2=2")
    repository.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "--no-build", *wider, "app-1", "app-2")
    run("docker", "stop", *old)
    run("docker", "rm", *old)


def deploy(repository: Repository, release: str) -> None:
    """(c) `./stack deploy`."""
    done = repository.stack("deploy")
    assert done.returncode == 0, done.stderr
    print(done.stderr, file=sys.stderr)


def under(load: Load, replace: Callable[[], None], quiet: float = QUIET_SECONDS) -> tuple[float, float]:
    """Run `replace` under the load, after `quiet` seconds of it; return when it began and ended (time.monotonic())."""
    with load:
        wait_until(lambda: bool(load.samples) and load.samples[-1].sent - load.samples[0].sent > quiet, 60)
        begun = time.monotonic()
        replace()
        ended = time.monotonic()
        wait_until(lambda: load.samples[-1].sent > ended + 5)
    return begun, ended


def measure(
    repository: Repository, way: Callable[[Repository, str], None], release: str
) -> tuple[int, float, float, float]:
    """Failed requests, the longest gap in s, p99 with the deploy over p99 before, the deploy's seconds."""
    repository.checkout(release)
    if way is not deploy:
        # Only the change of the release itself: the image is there.
        run(
            "docker",
            "compose",
            "build",
            "--quiet",
            "migrate",
            cwd=repository.folder,
            env=environment(repository, release),
        )
        dotenv = repository.folder / ".env"
        lines = [line for line in dotenv.read_text().splitlines() if not line.startswith("RELEASE=")]
        dotenv.write_text("\n".join([*lines, f"RELEASE={release}", ""]))
    load = Load(repository.address, rate=40)
    begun, ended = under(load, lambda: way(repository, release))
    print(f"{way.__doc__} {load.report()}", *load.failed[:3], sep="\n    ", file=sys.stderr)
    before, during = load.quantile(99, until=begun), load.quantile(99, begun, ended)
    return len(load.failed), load.longest_gap(begun), during / before, ended - begun


def environment(repository: Repository, release: str) -> dict[str, str]:
    from tests.stack.stacks import CLEAN

    return CLEAN | {"RELEASE": release}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder))
        repository.remove()
        try:
            started = repository.stack("up")
            assert started.returncode == 0, started.stderr
            print("| way | failed | longest gap | p99 over the quiet one | seconds |\n|---|---|---|---|---|")
            for way in (compose_up, scale, deploy):
                rows = []
                for _ in range(rounds):
                    release = repository.commit(**{"app__release.py": f"# {time.time_ns()}\n"})
                    rows.append(measure(repository, way, release))
                    wait_until(repository.both_slots_answer)
                failed, gap, ratio, seconds = map(statistics.median, zip(*rows, strict=True))
                print(f"| {way.__doc__} | {failed} | {gap:.1f} s | {ratio:.1f} | {seconds:.1f} |", flush=True)
                if way is scale:
                    # Back to one container a slot.
                    assert inspect(repository.container("app-1"))
        finally:
            repository.remove()


if __name__ == "__main__":
    main()
