"""A supervisor with small workers, in a process of its own."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from runtime.supervisor import SIGNALS
from tests.conftest import REPO

SUPERVISED = """
import os, signal, socket, sys, time
from runtime.supervisor import Supervisor
def say(*words):
    # One write: two workers share the pipe.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
{work}
listener = socket.socket(fileno=int(sys.argv[1]))
count, drain_seconds = int(sys.argv[2]), float(sys.argv[3])
probes = socket.create_server(("127.0.0.1", 0))
if "PROBED" in os.environ: say(probes.getsockname()[1])
lost = float(os.environ.get("LOST", "inf"))
sys.exit(Supervisor(work, listener, count, drain_seconds, graceful_seconds=0.5, probes=probes, lost_seconds=lost).run())
"""
# Says that it runs, and on SIGTERM that it ends.
WORK = """
def work(listener, serving):
    def end(*_): say("terminated", os.getpid()); sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    serving()
    say("running", os.getpid())
    time.sleep(60)
"""
STUBBORN = WORK.replace("sys.exit(0)", "None").replace("time.sleep(60)", "while True: time.sleep(1)")

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """What PID 1 of a container is to its processes, this makes of any process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def block_signals() -> None:
    """What runtime.serve does before it becomes the supervisor."""
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def launch(work: str, numbers: list[str], descriptor: int, blocked: bool, environment: dict[str, str]) -> "Parent":
    return Parent(
        [sys.executable, "-c", SUPERVISED.format(work=work), *numbers],
        cwd=REPO,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[descriptor],
        preexec_fn=block_signals if blocked else adopt_orphans,
    )


class Parent(subprocess.Popen[str]):
    def says(self) -> list[str]:
        """The words of the next line that a worker prints."""
        assert self.stdout
        return self.stdout.readline().split()

    def complains(self) -> str:
        """The next line of the supervisor's own."""
        assert self.stderr
        return self.stderr.readline().rstrip("\n")


Start = Callable[..., Parent]
