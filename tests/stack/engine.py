"""A Docker engine of our own, which a test may restart and kill: its own network, data, socket and containers."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from offline.engine import ROOT
from tests.stack.stacks import CLEAN, Clone, children, run, wait_until

# The machine's address in the engine's network: connections to 127.0.0.1 go by way of a process of dockerd's.
HOST = "10.77.0.1"

# In the engine's own network, where this process isn't.
ASK = """
import ssl, sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=3, context=ssl._create_unverified_context())
    print(answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.read().decode(), end="")
except OSError:
    pass
"""


class Engine:
    """dockerd in a network namespace, so that its rules and the machine's engine's never meet."""

    def __init__(self, name: str, *options: str) -> None:
        """`options`: dockerd's."""
        self.name = f"{name}-{os.getpid()}"
        # A socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.options = options
        self.environment = {**CLEAN, "DOCKER_HOST": f"unix://{self.folder}/socket"}
        self.daemon: subprocess.Popen[bytes] | None = None
        # Where the machine reaches this network once it is let out.
        self.outside = f"10.77.{os.getpid() % 250 + 1}.2"
        # The machine's rules, without their `-A` and `-D`, that let this network out.
        self.rules: list[tuple[str, ...]] = []
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        run("ip", "-n", self.name, "addr", "add", f"{HOST}/32", "dev", "lo")

    def let_out(self) -> None:
        """Let what runs on this engine's side reach what the machine reaches: builds install packages."""
        cable, ours = f"engine{os.getpid()}", self.outside.rpartition(".")[0]
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "addr", "add", f"{ours}.1/30", "dev", cable)
        run("ip", "link", "set", cable, "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "addr", "add", f"{ours}.2/30", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", f"{ours}.1")
        self.rules = [
            ("nat", "POSTROUTING", "--source", f"{ours}.2", "--jump", "MASQUERADE"),
            *(("filter", "FORWARD", way, f"{ours}.2", "--jump", "ACCEPT") for way in ("--source", "--destination")),
        ]
        for table, chain, *rule in self.rules:
            # First: the machine's engine drops what it does not know.
            run("iptables", "--wait", "--table", table, "--insert", chain, *rule)

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        path = f"{ROOT}/usr/sbin:{ROOT}/usr/bin:{CLEAN['PATH']}:/usr/sbin:/sbin"
        argv = self.inside("dockerd", f"--host=unix://{self.folder}/socket")
        argv += [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        # Where the machine has a containerd of its own.
        argv += ["--containerd-namespace", self.name, "--containerd-plugins-namespace", f"{self.name}-plugins"]
        with (self.folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*argv, *self.options], stdout=log, stderr=log, env={**CLEAN, "PATH": path}, start_new_session=True
            )

        def answers() -> bool:
            assert self.daemon
            assert self.daemon.poll() is None, (self.folder / "log").read_text()[-3000:]
            return not subprocess.run(["docker", "info"], capture_output=True, env=self.environment).returncode

        wait_until(answers)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd, as `systemctl stop` does or without a word."""
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(number)
            self.daemon.wait(60)

    def processes(self) -> list[int]:
        """Every process that this engine started and that is left: containerd, shims, what runs in containers."""
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                if str(self.folder) in command and pid != os.getpid():
                    found |= {pid, *descendants(pid)}
        return sorted(found)

    def power_off(self) -> None:
        """End everything at once, as near to pulling the plug as a process can come."""
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.daemon:
                self.daemon.wait(30)
        # What a boot finds empty.
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        (self.folder / "pid").unlink(missing_ok=True)

    def load(self, *images: str) -> None:
        """Copy images from the machine's engine."""
        pipe = subprocess.PIPE
        with subprocess.Popen(["docker", "save", *images], stdout=pipe, stderr=pipe, env=CLEAN) as save:
            argv = ["docker", "load", "--quiet"]
            done = subprocess.run(argv, stdin=save.stdout, env=self.environment, stdout=pipe, stderr=pipe)
            assert save.stderr
            assert not save.wait() | done.returncode, save.stderr.read() + done.stderr

    def inside(self, *argv: str) -> list[str]:
        """The command as one that runs on this engine's side of the network."""
        # Not `ip netns exec`, which mounts another /sys, without the control groups.
        return ["nsenter", f"--net=/run/netns/{self.name}", *argv]

    def remove(self) -> None:
        names = run("docker", "ps", "--all", "--quiet", env=self.environment, check=False).split()
        run("docker", "rm", "--force", *names, env=self.environment, check=False)
        self.stop()
        self.power_off()
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            if str(self.folder) in mount.split()[1]:
                run("umount", "--lazy", mount.split()[1], check=False)
        for table, chain, *rule in self.rules:
            run("iptables", "--wait", "--table", table, "--delete", chain, *rule, check=False)
        run("ip", "netns", "delete", self.name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Abroad(Clone):
    """A clone whose stack is on an engine of our own."""

    def __init__(self, engine: Engine, folder: Path, name: str, **settings: str) -> None:
        super().__init__(folder, name, **settings)
        self.engine = engine
        self.address = f"https://{HOST}:{self.https_port}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        argv = ("docker", "compose", "--env-file", str(self.env_file), *arguments)
        return run(*argv, cwd=self.folder, check=check, env=self.engine.environment)

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `./stack` where 127.0.0.1 is this engine's."""
        argv = self.engine.inside(sys.executable, "stack", *arguments)
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.engine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self) -> dict[str, dict[str, Any]]:
        """Every running container as `docker inspect` sees it, by its service."""
        names = self.compose("ps", "--quiet").split()
        found = json.loads(run("docker", "inspect", *names, env=self.engine.environment))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def ask(self, path: str) -> str:
        """What the stack answers to one who comes from outside; nothing when nobody does."""
        return run(*self.engine.inside(sys.executable, "-c", ASK, f"{self.address}{path}"))

    def serving(self) -> dict[str, str]:
        """The release of each slot that runs."""
        state = self.state()
        return {slot: state[slot]["Config"]["Image"].rpartition(":")[2] for slot in state if slot.startswith("app-")}


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]
