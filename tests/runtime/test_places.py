"""Where a slot serves: on whatever address, as whoever, with little to write to, alone or with others."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.runtime.slots import APP, Slot, children
from tests.stack.stacks import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces")

Start = Callable[..., Slot]
# Of a package that all apps of FastAPI's import.
LIBRARY = "_pydantic_core"
# A read-only root with nothing to write to but /tmp, where the app is, no /dev/shm, and a /proc that takes nothing.
CLOSED = """
set -e
new=/mnt
mount -t tmpfs -o mode=1777 none $new
cp -r . $new
chmod -R a+rX $new
# A clone below /tmp stays where it is.
case "$1" in /tmp/*) mkdir -p "$new${1#/tmp}" && mount --rbind "$1" "$new${1#/tmp}" ;; esac
shift
while umount /dev/shm 2> /dev/null; do :; done
mount --move $new /tmp
mount -o remount,bind,ro /
mount -o remount,bind,ro /proc
cd /tmp
unset SLOT_FOLDER
exec "$@"
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Slot] = []

    def start(*inside: str, **settings: str) -> Slot:
        begun.append(Slot(tmp_path, *inside, **{"WORKERS": "1", **settings}))
        return begun[-1]

    yield start
    for slot in begun:
        slot.stop()


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_one_worker_and_a_small_parent(start: Start) -> None:
    """With one worker PID 1 has none of the app's libraries, and replaces it all the same; with two it shares them."""
    slot = start()
    slot.starts()
    [worker] = children(slot.first)
    assert LIBRARY in maps(worker)
    assert LIBRARY not in maps(slot.first)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: children(slot.first) not in ([worker], []) and slot.is_ready(), 60)
    assert slot.ask()[0] == 200
    assert "SIGKILL. Another starts." in slot.stop()
    slot = start(WORKERS="2")
    slot.starts()
    assert LIBRARY in maps(slot.first)


@pytest.mark.parametrize(
    ("host", "asked", "client"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_address_and_ports_are_settings(start: Start, host: str, asked: str, client: str) -> None:
    """An address of IPv4 or IPv6, or `::` for both: an IPv4 client has its own form of address there, too."""
    slot = start(HOST=host)
    slot.starts(asked)
    assert slot.ask(host=asked) == (200, f'["{client}","http"]')


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - what is tested
def test_networks_that_are_believed(start: Start, host: str) -> None:
    """Those of FORWARDED_ALLOW_IPS say who the client is, whether the socket is for IPv4 or for both."""
    told = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    slot = start(HOST=host, FORWARDED_ALLOW_IPS="192.0.2.0/24, 127.0.0.0/8")
    slot.starts()
    assert slot.ask(headers=told)[1] == '["203.0.113.9","https"]'
    if host == "::":
        assert slot.ask(host="::1", headers=told)[1] == '["::1","http"]'
    slot.stop()
    slot = start(HOST=host, FORWARDED_ALLOW_IPS="192.0.2.0/24")
    slot.starts()
    assert slot.ask(headers=told)[1] == '["127.0.0.1","http"]'


def test_probes_are_on_a_port_of_their_own(start: Start) -> None:
    """What an Ingress can reach answers no probe, and the probes' port gives nothing of the app's. Not live is
    a slot whose watchdog stands still, too; with another worker it is again."""
    slot = start(WATCHDOG_SECONDS="1")
    slot.starts()
    assert [slot.ask(path)[0] for path in ("/live", "/ready", "/serving")] == [404] * 3
    assert [slot.ask(path, port=slot.probes)[0] for path in ("/live", "/", "/pid", "/health")] == [200, 404, 404, 404]
    [worker] = children(slot.first)
    os.kill(worker, signal.SIGSTOP)
    # No watchdog works in there.
    wait_until(lambda: slot.ask("/live", port=slot.probes)[0] == 503)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: children(slot.first) not in ([worker], []) and slot.is_ready(), 60)
    assert slot.ask("/live", port=slot.probes)[0] == 200


def test_address_that_is_not_here(start: Start) -> None:
    """One sentence, and 2."""
    slot = start(HOST="192.0.2.1")
    assert slot.process.wait(60) == 2
    assert slot.stop().startswith(f"PORT={slot.port} is wrong: HOST=192.0.2.1 can't be listened on there: ")


def test_closed_container_of_an_unknown_user(start: Start) -> None:
    """A uid that nobody knows with group 0, a read-only root with only /tmp, no /dev/shm, no say in oom_score_adj."""
    whoever = ("setpriv", "--reuid=1000730000", "--regid=0", "--clear-groups", "--no-new-privs", "--inh-caps=-all")
    slot = start("sh", "-c", CLOSED, "sh", str(REPO), *whoever, WORKERS="2")
    slot.starts()
    assert slot.ask("/pid")[0] == 200
    worker = children(slot.first)[0]
    status = Path(f"/proc/{worker}/status").read_text()
    assert "Uid:\t1000730000" in status
    assert "CapEff:\t0000000000000000" in status
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == Path("/proc/self/oom_score_adj").read_text()
    assert " /dev/shm " not in Path(f"/proc/{worker}/mounts").read_text()


# As one that keeps an upload under the name that its client gave.
UPLOADS = (
    APP
    + """
from pathlib import Path

@app.get("/store/{name}")
async def store(name: str) -> int:
    Path("/tmp", name).unlink(missing_ok=True) if name.endswith("sock") else None
    return Path("/tmp", name).write_bytes(b"")
"""
)


def test_app_may_have_any_name_in_tmp(start: Start) -> None:
    """The slot's own files have a folder of their own: PID 1 would end where the one that it maps becomes empty."""
    slot = start("sh", "-c", CLOSED, "sh", str(REPO), app=UPLOADS)
    slot.starts()
    for name in ("workers", "schema.sock", "ready"):
        assert slot.ask(f"/store/{name}") == (200, "0")
    assert slot.is_ready()
    folder = Path(f"/proc/{slot.first}/root/tmp/.stack")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {"workers", "schema.sock", "ready"} <= {path.name for path in folder.iterdir()}
    assert all(path.is_socket() or path.read_text() for path in folder.iterdir())


# As Starlette keeps a file of a form.
FORM = """
import tempfile
from fastapi import FastAPI, Request
app = FastAPI()

@app.post("/")
async def store(request: Request) -> int:
    with tempfile.SpooledTemporaryFile(2**20) as file:
        async for part in request.stream():
            file.write(part)
        return file.tell()
"""
# Where uploads are kept, in place of /tmp: 18 MB, of which the app itself has 8.
LITTLE = """
mkdir uploads
mount -t tmpfs -o size=18m none uploads
head -c 8000000 /dev/zero > uploads/mine
TMPDIR=$PWD/uploads exec "$@"
"""


def test_more_uploads_than_there_is_room(start: Start) -> None:
    """Of those that come at one time some are 503, and none an error of the app's. The next one has room again."""
    slot = start("sh", "-c", LITTLE, "sh", app=FORM, BODY_LIMIT="8000000")
    slot.starts()
    content = (
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + b"x" * 7_000_000 + b"\r\n--x--\r\n"
    )
    asked = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
    whole = asked % len(content) + content

    def upload(first: int, both: threading.Barrier) -> int:
        with socket.create_connection(("127.0.0.1", slot.port), 30) as client, contextlib.suppress(BrokenPipeError):
            client.sendall(whole[:first])
            both.wait(30)
            client.sendall(whole[first:])
            return int(client.recv(12).split()[1])
        return 503

    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)
        found = {*pool.map(lambda _: upload(6_000_000, barrier), range(4))}
    assert 503 in found
    assert found <= {200, 503}
    assert upload(100, threading.Barrier(1)) == 200
    assert "has no room for an upload." in slot.stop()


def test_lines_of_json(start: Start) -> None:
    """The layer's own lines, Uvicorn's and those of an app without a logging of its own; a traceback is in its line."""
    slot = start(LOG_FORMAT="json")
    slot.starts()
    assert slot.ask("/broken")[0] == 500
    said = [json.loads(line) for line in slot.stop().splitlines()]
    assert all(one["time"].endswith("+00:00") and one["level"] and one["message"] for one in said)
    found = {(one["logger"], one["message"]): one for one in said}
    assert ("stack", "Draining for 0 s.") in found
    assert ("shop", "as planned") in found
    assert any(one["message"].endswith("UserWarning: careful") for one in said)
    assert ("uvicorn.error", "Application startup complete.") in found
    error = found["uvicorn.error", "Exception in ASGI application"]
    assert error["level"] == "error"
    assert error["exception"].endswith("RuntimeError: as planned")


def test_app_that_cannot_be_imported_in_json(start: Start) -> None:
    """Its traceback is one line."""
    slot = start(LOG_FORMAT="json", app="raise RuntimeError('as planned')")
    assert slot.process.wait(60) == 1
    first, *_ = (json.loads(line) for line in slot.stop().splitlines())
    assert (first["level"], first["message"]) == ("error", "RuntimeError: as planned")
    assert first["exception"].startswith("Traceback")
