"""Running docker, and saying what goes on."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

# Compose's own lines about what it is doing: they would bury what went wrong.
PROGRESS = re.compile(r"\s*(Container|Network|Volume) \S+ +\w+\s*$")
# What was listed a moment ago, and somebody has removed since.
GONE = re.compile("no such (container|object)", re.IGNORECASE)
HERE = Path(__file__).resolve().parent.parent
# How Compose runs a program in a container of its own.
ONE_SHOT = ("run", "--rm", "--no-deps", "-T")
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds that a docker command has to end when `./stack` is interrupted.
AT_ONCE = 10
# With containerd's image store, the default of Engine 29, an attestation of each build would give an image that has not
# changed another digest: Compose would restart what it need not. Compose's own `provenance: false` does not reach
# BuildKit: https://github.com/docker/compose/issues/14111
BUILDS = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
# What every docker command inherits: the lock, so that it is held for as long as one of them runs, whatever becomes of
# `./stack` itself.
inherited: list[int] = []


class Stop(Exception):
    """Ends the command with one sentence and an exit code."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


def last_line(said: str) -> str:
    """The reason, of what a program said that failed; one that was killed said nothing."""
    # Docker's own reason is followed by where to find its help.
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("Run 'docker ")]
    return (lines or ["it said nothing."])[-1].strip()


def last_lines(said: str) -> list[str]:
    """The end of what a program said, without Compose's own lines."""
    return [line for line in said.strip().splitlines() if line.strip() and not PROGRESS.match(line)][-20:]


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """One `==>` line with the seconds that the step took; every ten seconds a sign of life."""
    begun, done = time.monotonic(), threading.Event()

    def alive() -> None:
        while not done.wait(10):
            print(f"    {title}: {time.monotonic() - begun:.0f} s so far", file=sys.stderr, flush=True)

    threading.Thread(target=alive, daemon=True).start()
    outcome = "failed after "
    try:
        yield
        outcome = ""
    finally:
        done.set()
        print(f"==> {title}: {outcome}{time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `yes`. Raises Stop when nobody is there, or the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop("Nobody is there to be asked: --yes goes on without the question.", 2)
    try:
        said = input(f"{question} [y/N] ")
    except EOFError:
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise Stop("Nothing was changed.")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and a lost terminal back: what would be left half-way is brought to its end first."""
    with handling(hold_back):
        yield


def hold_back(_number: int, _frame: object) -> None:
    # Not by print, in the middle of which the signal may have come.
    with contextlib.suppress(OSError):
        os.write(2, b"    Not now: this must come to its end.\n")


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """Within, the first of them interrupts, and the next ones are held back: they come before the way back begins."""
    # nohup means it.
    ignored = {number for number in INTERRUPTIONS if signal.getsignal(number) == signal.SIG_IGN}

    def first(number: int, _frame: object) -> None:
        if number not in ignored:
            for one in INTERRUPTIONS:
                signal.signal(one, hold_back)
            raise KeyboardInterrupt

    with handling(first):
        yield


@contextlib.contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have this called for Ctrl-C, SIGTERM and a lost terminal, and what was before afterwards."""
    before = {number: signal.signal(number, handler) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def docker(
    *argv: str,
    check: bool = True,
    despite: re.Pattern[str] | None = None,
    environment: dict[str, str] | None = None,
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run docker in this folder; return the finished process. A failure raises Stop with what docker said.

    `despite`: not one of which docker says that. `environment`: instead of this process's. After `seconds` it is ended,
    and raises subprocess.TimeoutExpired.
    """
    process = begin_docker(*argv, environment=environment)
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:
        end(process)
        raise
    done = subprocess.CompletedProcess(argv, process.returncode, out, err)
    if check and done.returncode and not (despite and despite.search(err)):
        raise Stop("\n".join([f"`docker {' '.join(argv)}` failed:", *last_lines(err or out)]))
    return done


def begin_docker(
    *argv: str, environment: dict[str, str] | None = None, stdout: int | IO[str] = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["docker", *argv],
        cwd=HERE,
        env={**(os.environ if environment is None else environment), **BUILDS},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        # What a release prints is anybody's: never a reason to fail.
        encoding="utf-8",
        errors="replace",
        # A terminal's Ctrl-C is for `./stack`, which then says what happens to its commands.
        start_new_session=True,
        pass_fds=inherited,
    )


def run_with(volume: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one program with a volume, in a container of its own."""
    forget_opened(volume)
    return docker("run", "--rm", "--name", f"{volume}-opened", "--network", "none", *argv, check=check)


def has_volume(name: str) -> bool:
    return not docker("volume", "inspect", name, check=False).returncode


def forget_opened(volume: str) -> None:
    """Remove what a command that was killed may have left: a container, made and not started, that holds the volume."""
    remove_container(f"{volume}-opened")


def remove_container(container: str) -> None:
    """Remove a container, if it is there, with the volume that its image may declare: nobody else would."""
    docker("rm", "--force", "--volumes", container, check=False)


def end(process: subprocess.Popen[str]) -> None:
    """End a docker command and its plugins, and wait until they have: they must not go on beside what comes next."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + AT_ONCE
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Not only until the process ends, but until nobody holds its output.
            process.communicate(timeout=AT_ONCE)
            # And nobody is left that it started: one without an output of ours may go on.
            while time.monotonic() < deadline and is_there(process.pid):
                time.sleep(0.05)
            if not is_there(process.pid):
                return


def is_there(group: int) -> bool:
    """Whether a process of the group is left, but for those that wait to be reaped."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its) == group and state != "Z":
                return True
    return False


def compose(*argv: str, check: bool = True, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    done = docker("compose", *argv, check=check, despite=GONE, seconds=seconds)
    if done.returncode and GONE.search(done.stderr):
        # Somebody's prune took what Compose had made and not started yet.
        return docker("compose", *argv, check=check, seconds=seconds)
    return done


def compose_json(*argv: str) -> Any:
    return docker_json("compose", "--progress", "quiet", *argv)


def docker_json(*argv: str) -> Any:
    """The JSON that a docker command prints; what it says on standard error is passed on as it comes."""
    said: list[str] = []
    # Not a pipe: it would fill while standard error is read.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        process = begin_docker(*argv, stdout=printed)
        assert process.stderr
        try:
            for line in process.stderr:
                if not line.strip():
                    continue
                # The last line is the reason when it fails; every other is progress.
                for earlier in said[-1:]:
                    print(f"    {earlier}", file=sys.stderr, flush=True)
                said.append(line.rstrip())
        except BaseException:
            end(process)
            raise
        if process.wait():
            raise Stop(said[-1] if said else f"`docker {' '.join(argv)}` ended with {process.returncode}.")
        printed.seek(0)
        text = printed.read()
    return json.loads(text) if text.strip() else None


def running(project: str, service: str = "", ended: bool = False) -> list[str]:
    """Ids of the project's containers that run, or of a service's; with `ended` the others too. One-shot ones aside.

    By Compose's labels: Compose itself takes many times as long to say it.
    """
    labels = {"project": project, "service": service, "oneoff": "False"}
    filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items() if value]
    return sorted(docker("ps", "--quiet", "--no-trunc", *(["--all"] if ended else []), *filters).stdout.split())


def inspect(*containers: str) -> list[dict[str, Any]]:
    """What Docker knows of each; nothing of one that is gone since it was listed."""
    if not containers:
        return []
    found: list[dict[str, Any]] = json.loads(docker("inspect", *containers, despite=GONE).stdout)
    return found


@functools.lru_cache
def engine_facts() -> dict[str, Any]:
    """What `docker info` says, asked once: it starts every plugin. Raises Stop where no engine answers."""
    found: dict[str, Any] = json.loads(docker("info", "--format", "{{json .}}").stdout)
    if "ServerVersion" not in found or found.get("ServerErrors"):
        raise Stop("\n".join(found.get("ServerErrors") or ["No Docker engine answers."]))
    return found


def in_containerd() -> bool:
    """Whether the engine has its images in containerd's store, as Engine 29 has by default."""
    return "io.containerd.snapshotter" in str(engine_facts().get("DriverStatus"))
