"""A Compose project of our own on the real engine: its name, ports and volumes never meet another's."""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from ops.update.merge import is_yours
from tests.conftest import REPO

# What the tests put in the place of the app in this checkout, which may be anybody's.
APP = "tests/apps/notes"
BASE_IMAGES = ("PYTHON_IMAGE", "POSTGRES_IMAGE", "TRAEFIK_IMAGE")
# Seconds that anything may take on a machine with other work: a deadline is for what would never come. A promise about
# time has its own, beside the promise.
PATIENCE = 120
# The environment of the test run, without the settings of a stack that its user may run.
CLEAN = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}


def run(*argv: str, check: bool = True, **options: Any) -> str:
    given: dict[str, Any] = {"env": CLEAN, "timeout": 300, **options}
    done: subprocess.CompletedProcess[str] = subprocess.run(argv, capture_output=True, text=True, **given)
    assert not check or done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout + ("" if check else done.stderr)


def inspect(container: str) -> dict[str, Any]:
    [found] = json.loads(run("docker", "inspect", container))
    assert isinstance(found, dict)
    return found


def children(pid: int) -> list[int]:
    """A process's children; none for one that has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command(pid: int) -> bytes:
    """A process's command line; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition.__name__}"
        time.sleep(0.1)  # between two looks, not instead of one


def prune(kind: str, label: str, *options: str) -> None:
    """Remove what nothing uses, once nobody else's prune is under way: the engine has one at a time."""
    argv = ("docker", kind, "prune", "--force", *options, "--filter", label)
    wait_until(lambda: "already running" not in run(*argv, check=False))


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; all are held until the last is found, so that no two are the same."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def base_images() -> dict[str, str]:
    """The base images that this checkout uses: those of its .env where no registry can be reached."""
    config = json.loads(run("docker", "compose", "config", "--format", "json", cwd=REPO))
    arguments: dict[str, str] = {}
    for service in config["services"].values():
        arguments |= service.get("build", {}).get("args", {})
    return {name: arguments[name] for name in BASE_IMAGES}


def edge(project: str) -> dict[str, str]:
    """Addresses for the project's edge network: two stacks on one engine may not share any."""
    number = zlib.crc32(project.encode())
    subnet = ipaddress.IPv4Address("10.192.0.0") + 16 * (number % 2**18)
    return {"EDGE_SUBNET": f"{subnet}/28", "EDGE_SUBNET_IPV6": f"fd5b:6c0a:{number >> 16:x}:{number & 0xFFFF:x}::/64"}


class Stack:
    """A Compose project of this checkout, or of the copy of it in `folder`."""

    def __init__(self, name: str, env_file: Path, folder: Path = REPO, **settings: str) -> None:
        self.folder = folder
        # One name a checkout: what a killed run left behind, the next one of the same checkout removes.
        self.project = f"stack-test-{name}-{zlib.crc32(str(REPO).encode()):08x}"
        self.http_port, self.https_port = free_ports(2)
        ports = {"HTTP_PORT": str(self.http_port), "HTTPS_PORT": str(self.https_port)}
        own = {"COMPOSE_PROJECT_NAME": self.project, **ports, **edge(self.project)}
        if folder == REPO:
            own["APP_DIR"] = APP
        self.settings = {**base_images(), **own, **settings}
        self.env_file = env_file
        env_file.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        self.address = f"https://localhost:{self.https_port}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        return run("docker", "compose", "--env-file", str(self.env_file), *arguments, cwd=self.folder, check=check)

    def container(self, service: str) -> str:
        [name] = self.compose("ps", "--all", "--quiet", "--no-trunc", service).split()
        return name

    def containers(self) -> dict[str, dict[str, Any]]:
        """Every container of the project as `docker inspect` sees it, by its service."""
        names = self.compose("ps", "--all", "--quiet").split()
        found = json.loads(run("docker", "inspect", *names))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def psql(self, statement: str, role: str = "owner", database: str = "app") -> str:
        """What Postgres answers to that OS user of its container, whose name is the role's."""
        argv = ("exec", "-T", "-u", role, "postgres", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", database)
        return self.compose(*argv, "-c", statement).strip()

    def workers(self, slot: str) -> list[int]:
        """The slot's workers, by their ids on this machine: children of PID 1 that run its own program."""
        pids = children(inspect(self.container(slot))["State"]["Pid"])
        return [pid for pid in pids if b"/bin/serve" in command(pid)]

    def client(self, **options: Any) -> httpx2.Client:
        # Without a domain the certificate is Traefik's own, self-signed.
        return httpx2.Client(base_url=self.address, verify=False, timeout=10, **options)

    def up(self) -> None:
        self.compose("up", "--detach", "--wait")
        wait_until(self.both_slots_answer)

    def both_slots_answer(self) -> bool:
        """Whether Traefik routes to both slots: it learns of a healthy one at its next probe."""
        begun = f"{time.time():.3f}"
        try:
            with self.client() as client:
                if any(client.get("/").status_code != 200 for _ in range(4)):
                    return False
        except httpx2.TransportError:
            # While Traefik starts, the engine takes connections for it.
            return False
        return self.slots_since(begun) == {"app-1", "app-2"}

    def slots_since(self, begun: str) -> set[str]:
        """The slots that requests went to, from Traefik's access log."""
        lines = run("docker", "logs", "--since", begun, self.container("traefik")).splitlines()
        entries = [json.loads(line) for line in lines if '"ServiceAddr"' in line]
        return {entry["ServiceAddr"].partition(":")[0] for entry in entries}

    def remove(self) -> None:
        # What a command that a test killed was about to start holds a volume.
        ours = ("--filter", f"label=com.docker.compose.project={self.project}", "--filter", "status=created")
        for left in run("docker", "ps", "--all", "--quiet", *ours).split():
            run("docker", "rm", "--force", left, check=False)
        # Not by --rmi: a service of a test's may run a base image, which others need.
        # By its name, which a test may have taken out of .env.
        down = ("--project-name", self.project, "down", "--volumes", "--remove-orphans", "--timeout", "0")
        self.compose(*down, check=False)
        label = f"label=com.docker.compose.project={self.project}"
        built = ("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", label)
        for image in run(*built).split():
            if "<none>" not in image:
                run("docker", "image", "rm", "--force", image, check=False)
        prune("image", label)
        # Those that a restore left in favour of another.
        prune("volume", label, "--all")


class Clone(Stack):
    """A clone as a careful administrator's umask leaves it, the tests' app in it, with the settings in its .env."""

    # Whether it has the tests' app; if not, the one that is in this checkout.
    with_app_of_tests = True

    def __init__(self, folder: Path, name: str = "clone", **settings: str) -> None:
        listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=REPO).splitlines()
        before = os.umask(0o077)
        try:
            for path in listed:
                if is_yours(path) and self.with_app_of_tests:
                    continue
                for copy in (path, path.removeprefix(f"{APP}/") if self.with_app_of_tests else path):
                    (folder / copy).parent.mkdir(parents=True, exist_ok=True)
                    (folder / copy).write_bytes((REPO / path).read_bytes())
        finally:
            os.umask(before)
        super().__init__(name, folder / ".env", folder, **settings)

    def stack(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run `./stack` to its end, whatever that is."""
        argv = [sys.executable, "stack", *arguments]
        environment = CLEAN | settings
        done = subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        # What a failed test shows: its steps and their seconds.
        print(*argv, done.stdout, done.stderr, sep="\n")
        return done

    def interrupted(
        self,
        number: signal.Signals,
        moment: str,
        *arguments: str,
        then: Callable[[], None] = lambda: None,
        again: bool = False,
        unread: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        """Run `./stack` until a line has `moment`, and `then`; send it the signal; give what it said, and its end.

        `again`: send it once more when it is already on the way back. `unread`: its reader has gone by then.
        """
        argv = [sys.executable, "stack", *arguments]
        with subprocess.Popen(
            argv,
            cwd=self.folder,
            env=CLEAN,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background, or under nohup, ignores it, and would pass that on.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None,
        ) as process:
            assert process.stderr
            said = ""
            while moment not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            then()
            if unread:
                process.stderr.close()
            os.kill(process.pid, number)
            if again:
                while "failed after" not in said:
                    line = process.stderr.readline()
                    assert line, said
                    said += line
                os.kill(process.pid, number)
            if number != signal.SIGKILL and not unread:
                said += process.stderr.read()
            process.stderr.close()
        print(said)
        return subprocess.CompletedProcess(argv, process.returncode, "", said)

    def left_behind(self) -> str:
        """What of the project is on the machine, volumes and images aside."""
        label = f"label=com.docker.compose.project={self.project}"
        return run("docker", "ps", "-aq", "--filter", label) + run("docker", "network", "ls", "-q", "--filter", label)


class Repository(Clone):
    """A clone with a history: every release is a commit."""

    def __init__(self, folder: Path, name: str = "releases") -> None:
        super().__init__(folder, name)
        self.git("init", "--quiet")
        self.first = self.commit()

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        return run("git", *who, *arguments, cwd=self.folder).strip()

    def commit(self, **files: str) -> str:
        """Commit the checkout with these files written, `__` for each slash; return the name of the release."""
        for name, text in files.items():
            (self.folder / name.replace("__", "/")).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "A release")
        return self.git("rev-parse", "--short=12", "HEAD")

    def checkout(self, release: str) -> None:
        self.git("checkout", "--quiet", "--force", release)
        self.git("clean", "--quiet", "--force")

    def releases(self) -> dict[str, str]:
        """The release of each slot's container."""
        return {
            service: container["Config"]["Image"].rpartition(":")[2]
            for service, container in self.containers().items()
            if service.startswith("app-")
        }
