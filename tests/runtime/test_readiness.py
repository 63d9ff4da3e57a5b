"""What PID 1 of a slot tells of itself: to probes, and to the container's health check."""

import http.client
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from runtime import notes
from tests.conftest import REPO
from tests.runtime.supervised import WORK, Start
from tests.stack.stacks import wait_until


def probe(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().status


def test_probes_are_answered_by_the_parent(start: Start) -> None:
    """Ready: all serve, and some loop turns. Serving: however busy. Neither while it drains. Nobody holds it up."""
    process = start(WORK.replace("    serving()", "    time.sleep(1); serving()"), 2, 60, PROBED="")
    port = int(process.says()[0])
    with socket.create_connection(("127.0.0.1", port)):
        assert (probe(port, "/ready"), probe(port, "/serving"), probe(port, "/")) == (503, 503, 404)
        assert [process.says()[0] for _ in range(2)] == ["running", "running"]
        assert (probe(port, "/ready"), probe(port, "/serving")) == (200, 200)
        # The workers sleep, and say nothing more.
        deadline = time.monotonic() + 10
        while probe(port, "/ready") == 200:
            assert time.monotonic() < deadline
        assert probe(port, "/serving") == 200
        process.send_signal(signal.SIGTERM)
        process.complains()
        assert probe(port, "/serving") == 503


# Serves, and stands still until it is told to turn; the next ones take their time.
STILL = """
def work(listener, serving):
    folder = os.environ["SLOT_FOLDER"]
    if os.path.exists(folder + "/slow"): time.sleep(60)
    serving()
    say("running", os.getpid())
    while True:
        if os.path.exists(folder + "/turn"): serving()
        time.sleep(0.1)
"""


def test_live_while_something_mends_it(start: Start, tmp_path: Path) -> None:
    """Not live is what nothing but a new container mends: every loop stands still, past its watchdog. Not a slow
    start, and not a worker that has ended."""
    slow = WORK.replace("    serving()", "    time.sleep(60)")
    assert probe(int(start(slow, PROBED="", LOST="0").says()[0]), "/live") == 200

    process = start(STILL, PROBED="", LOST="1")
    port, worker = int(process.says()[0]), int(process.says()[1])
    wait_until(lambda: probe(port, "/live") == 503)
    (tmp_path / "turn").touch()
    wait_until(lambda: probe(port, "/live") == 200)
    (tmp_path / "turn").unlink()
    wait_until(lambda: probe(port, "/live") == 503)
    (tmp_path / "slow").touch()
    os.kill(worker, signal.SIGKILL)
    process.complains()
    assert (probe(port, "/live"), probe(port, "/ready")) == (200, 503)


# The first serves, and its loop turns; the others don't come.
FIRST = """
import runtime.readiness
runtime.readiness.COMPLETE_SECONDS = 2
first = time.monotonic()
def work(listener, serving):
    try: os.mkdir(os.environ["SLOT_FOLDER"] + "/first")
    except FileExistsError: time.sleep(60)
    say("running", time.monotonic())
    while True: serving(); time.sleep(0.1)
"""


def test_slot_whose_workers_do_not_all_serve(start: Start) -> None:
    """It gets no requests, unless the others don't come in time: then some are better than none."""
    process = start(FIRST, 2, PROBED="")
    port, since = int(process.says()[0]), float(process.says()[1])
    wait_until(lambda: probe(port, "/serving") == 200)
    assert probe(port, "/ready") == 503
    wait_until(lambda: probe(port, "/ready") == 200)
    assert time.monotonic() - since >= 2


def health_check(folder: Path, file: str = "runtime/probe") -> tuple[int, str]:
    argv = ["/bin/sh", str(REPO / file)]
    done = subprocess.run(argv, env={"SLOT_FOLDER": str(folder)}, capture_output=True, text=True, timeout=10)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_health_check_reads_what_the_parent_knows(start: Start, tmp_path: Path) -> None:
    """Healthy while it is ready; not before, not while it drains, and not when PID 1 says nothing more."""
    assert health_check(tmp_path) == (1, "still starting")
    process = start(WORK.replace("    serving()", "    time.sleep(1); serving()"), drain_seconds=60)
    wait_until(lambda: health_check(tmp_path) == (1, "not ready"))
    process.says()
    wait_until(lambda: health_check(tmp_path) == (0, "ready"))
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: health_check(tmp_path)[1].startswith("PID 1 has said nothing for "))
    assert health_check(tmp_path)[0] == 1
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: health_check(tmp_path) == (1, "not ready"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_health_check_where_the_app_has_filled_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is so is still written down: over what was there."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        monkeypatch.setattr(notes, "FOLDER", tmp_path)
        notes.write_readiness(False)
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "upload").write_bytes(bytes(100_000))
        notes.write_readiness(True)
        assert health_check(tmp_path) == (0, "ready")
        notes.write_readiness(False)
        assert health_check(tmp_path) == (1, "not ready")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_probes_make_the_parent_write_nothing(start: Start, tmp_path: Path) -> None:
    """For the health check it is written down once a second and when it changes, however many probes come by."""
    process = start(PROBED="")
    port = int(process.says()[0])
    process.says()
    wait_until(lambda: health_check(tmp_path) == (0, "ready"))
    begun, written = time.monotonic(), set()
    for _ in range(300):
        probe(port, "/ready")
        written.add((tmp_path / "ready").stat().st_mtime_ns)
    assert len(written) <= 3 + time.monotonic() - begun


def is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_nobody_waits_for_a_slot_without_workers(start: Start, tmp_path: Path) -> None:
    """While no worker serves connections are refused, so that the proxy makes them elsewhere; then they are taken."""
    go = tmp_path / "go"
    waits = f"    while not os.path.exists({str(go)!r}): time.sleep(0.05)\n    serving()"
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with socket.socket() as bound:
        # As Uvicorn binds it.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        process = start(WORK.replace("    serving()", waits), 2, listener=bound)
        wait_until(lambda: health_check(tmp_path) == (1, "not ready"))
        assert is_refused(address)
        go.touch()
        workers = [int(process.says()[1]) for _ in range(2)]
        assert not is_refused(address)
        go.unlink()
        os.kill(workers[0], signal.SIGKILL)
        process.complains()
        assert not is_refused(address)
        os.kill(workers[1], signal.SIGKILL)
        process.complains()
        assert is_refused(address)
        go.touch()
        process.says()
        assert not is_refused(address)


def test_app_that_leaves_no_room_for_notes(start: Start, tmp_path: Path) -> None:
    """Nothing can be written down any more: the slot serves, replaces a worker, and drains, as ever."""
    process = start(drain_seconds=0.1)
    worker = process.says()[1]
    # At one moment, for PID 1 writes there all the time.
    folder = tmp_path.rename(tmp_path.with_name("elsewhere"))
    os.kill(int(worker), signal.SIGKILL)
    assert process.complains().endswith("SIGKILL. Another starts.")
    assert process.says()[0] == "running"
    process.send_signal(signal.SIGTERM)
    assert process.complains() == "Draining for 0.1 s."
    assert process.says()[0] == "terminated"
    assert process.wait(10) == 0
    folder.rename(tmp_path)
