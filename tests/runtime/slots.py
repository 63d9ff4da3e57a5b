"""A slot as PID 1 of a namespace of its own: what a container is to it, without an engine. Needs root."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO
from tests.stack.stacks import free_ports, wait_until

# As runtime/install.py makes it.
PROGRAM = """
if __name__ == "__main__":
    import sys
    sys.path[0] = {repository!r}
    from runtime.serve import main
    sys.exit(main())
"""
APP = """
import warnings
import logging
import os
from fastapi import FastAPI, Request
app = FastAPI()

@app.get("/")
async def root(request: Request) -> list[str]:
    return [request.client.host, request.url.scheme]

@app.get("/pid")
async def pid() -> int:
    return os.getpid()

@app.get("/broken")
async def broken() -> None:
    logging.getLogger("shop").warning("as %s", "planned")
    warnings.warn("careful")
    raise RuntimeError("as planned")
"""
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")


class Slot:
    """It runs `app` in `folder`; settings by their names. `inside` are programs that become it, in its namespace."""

    namespace: tuple[str, ...] = NAMESPACE

    def __init__(self, folder: Path, *inside: str, app: str = APP, notify: str = "", **settings: str) -> None:
        self.port, self.probes = free_ports(2)
        (folder / "main.py").write_text(app)
        (folder / "serve").write_text(PROGRAM.format(repository=str(REPO)))
        given = {"PORT": str(self.port), "READINESS_PORT": str(self.probes), "DRAIN_SECONDS": "0", **settings}
        self.process = subprocess.Popen(
            [*self.namespace, *inside, sys.executable, "serve"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "SLOT_FOLDER": str(folder), "PYTHONUNBUFFERED": "1"}
            | {"STACK_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "NOTIFY_SOCKET": notify}
            | {f"STACK_{name}": value for name, value in given.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(
        self, path: str = "/", host: str = "127.0.0.1", port: int = 0, headers: "dict[str, str] | None" = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(host, port or self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def is_ready(self, host: str = "127.0.0.1") -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        try:
            return self.ask("/ready", host, self.probes)[0] == 200
        except OSError:
            return False

    def starts(self, host: str = "127.0.0.1") -> None:
        wait_until(lambda: self.is_ready(host), 60)

    @property
    def first(self) -> int:
        """PID 1, as this machine knows it."""
        return children(self.process.pid)[0]

    def stop(self) -> str:
        """What it said in all."""
        if self.process.poll() is None and (found := children(self.process.pid)):
            os.kill(found[0], signal.SIGTERM)
        return self.process.communicate(timeout=60)[0]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
