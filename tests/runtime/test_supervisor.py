"""PID 1 of a slot, with small workers; the stack tests have the real ones."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.runtime.slots import children
from tests.runtime.supervised import STUBBORN, WORK, Start
from tests.stack.stacks import wait_until


def test_sigterm_drains_first(start: Start, tmp_path: Path) -> None:
    """On SIGTERM that is written down at once, the worker goes on for the drain, and the end is a success."""
    process = start(drain_seconds=1)
    process.says()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.complains() == "Draining for 1 s."
    assert (tmp_path / "workers").read_text() == "+\ndraining\n"
    assert process.says()[0] == "terminated"
    assert time.monotonic() - begun >= 1
    assert process.wait(30) == 0


# With a process of its own that nothing else would end.
PARENT = WORK.replace(
    "    serving()\n",
    """
    child = os.fork()
    if not child:
        time.sleep(600)
    say("child", child)
    serving()
""",
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_worker_has_started_ends_with_it(start: Start, number: signal.Signals) -> None:
    """However it ends: a pool's processes would keep its sockets and its sessions in the database."""
    process = start(PARENT)
    child, worker = int(process.says()[1]), int(process.says()[1])
    os.kill(worker, number)
    wait_until(lambda: not Path(f"/proc/{child}").exists(), 30)
    # Another has begun.
    assert process.says()[0] in ("terminated", "child")


def test_terminal_reaches_the_workers(start: Start) -> None:
    """Its Ctrl-C is for the group in the foreground, which is PID 1's: that passes it on."""
    process = start(count=2)
    workers = [int(process.says()[1]) for _ in range(2)]
    assert {os.getpgid(worker) for worker in workers} == {*workers}
    process.send_signal(signal.SIGINT)
    assert {process.says()[0] for _ in workers} == {"terminated"}
    assert process.wait(30) == 0


def test_second_sigterm_does_not_start_over(start: Start) -> None:
    """A second SIGTERM neither shortens the drain nor lengthens it."""
    process = start(drain_seconds=1)
    process.says()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.complains()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert err == ""
    assert time.monotonic() - begun >= 1


def test_sigterm_before_it_is_handled_is_not_lost(start: Start) -> None:
    """One that comes while PID 1 still imports ends the slot as soon as it can, without a worker or a drain."""
    process = start(drain_seconds=60, blocked=True)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("", "", 0)


def test_sigterm_before_a_worker_serves_does_not_drain(start: Start) -> None:
    """Traefik has sent nothing to wait for."""
    process = start(WORK.replace("    serving()\n", ""), drain_seconds=60)
    process.says()
    process.send_signal(signal.SIGTERM)
    assert process.says()[0] == "terminated"
    assert process.wait(30) == 0


def test_no_drain(start: Start) -> None:
    """DRAIN_SECONDS=0 stops the workers right away."""
    process = start()
    process.says()
    process.send_signal(signal.SIGTERM)
    assert process.says()[0] == "terminated"
    assert process.wait(30) == 0


def test_sigint_stops_at_once(start: Start) -> None:
    """SIGINT does not drain, and a worker that will not end is killed."""
    process = start(STUBBORN, drain_seconds=60)
    process.says()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_worker_that_does_not_finish_is_killed(start: Start) -> None:
    """After the time for requests in flight what is left is killed, and named, before Docker would kill all."""
    process = start(STUBBORN)
    _, pid = process.says()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert f"Killed, for they did not end: workers {pid}." in err
    assert process.returncode == 0


def test_killed_worker_is_replaced(start: Start) -> None:
    """A worker that a signal ended is replaced, the other goes on, and what happened is said."""
    process = start(count=2)
    pids = {process.says()[1], process.says()[1]}
    killed = pids.pop()
    os.kill(int(killed), signal.SIGKILL)
    assert process.complains() == f"Worker {killed} ended after 0 s: SIGKILL. Another starts."
    assert process.says()[1] not in {killed, *pids}
    assert process.poll() is None


# Whose processes the kernel counts: root's it does not.
NOBODY = 54_321


def allow(pid: int, processes: int) -> None:
    subprocess.run(["prlimit", f"--pid={pid}", f"--nproc={processes}:"], check=True, user=NOBODY, group=NOBODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_process_that_the_kernel_refuses(start: Start, tmp_path: Path) -> None:
    """While an app's threads are all that a container may have: PID 1 and the others go on, and another starts."""
    os.chown(tmp_path, NOBODY, NOBODY)
    become = f"os.chdir({str(tmp_path)!r}); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    process = start(become + WORK, count=2, SLOT_FOLDER=".")
    killed, other = process.says()[1], process.says()[1]
    allow(process.pid, 2)
    os.kill(int(killed), signal.SIGKILL)
    assert process.complains().endswith(" s: SIGKILL. Another starts.")
    assert process.complains() == "A worker can't be started: Resource temporarily unavailable."
    os.kill(int(other), 0)
    allow(process.pid, 3)
    assert process.says()[0] == "running"
    # Where none is left, the slot ends: its restart ends whatever has taken them.
    allow(process.pid, 0)
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(30) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_has_ended_when_the_slot_is_stopped(start: Start, number: signal.Signals) -> None:
    """PID 1, which does not know yet, sends it a signal: that is nobody else's, and no error."""
    process = start(count=2)
    killed, _ = process.says()[1], process.says()[1]
    process.send_signal(signal.SIGSTOP)
    os.kill(int(killed), signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{killed}/stat").read_text().rpartition(")")[2].split()[0] == "Z", 30)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    assert process.returncode == 0


def test_what_became_of_the_workers_is_written_down(start: Start, tmp_path: Path) -> None:
    """A letter for each worker, a line for each end, and whether the slot drains: what `./stack` goes by."""
    written = tmp_path / "workers"
    process = start(WORK.replace("    serving()", "    time.sleep(os.path.exists('/') and 0.5); serving()"), 2, 60)
    while not written.exists() or written.read_text() != "..\n":
        assert process.poll() is None
    killed, _ = process.says()[1], process.says()[1]
    assert written.read_text() == "++\n"
    os.kill(int(killed), signal.SIGKILL)
    process.complains()
    assert sorted(written.read_text().splitlines()[0]) == ["+", "-"]
    assert process.says()[0] == "running"
    process.send_signal(signal.SIGTERM)
    process.complains()
    assert written.read_text() == "++\nSIGKILL\ndraining\n"


def test_worker_that_ends_by_itself_is_replaced(start: Start) -> None:
    """Nobody asked it to end, whatever its exit code; short-lived ones follow one another slowly."""
    process = start("def work(listener, serving): return 0")
    begun = time.monotonic()
    for _ in range(3):
        assert process.complains().endswith(" s: exit code 0. Another starts.")
    assert time.monotonic() - begun >= 2


def test_signal_without_a_name(start: Start) -> None:
    """A real-time signal that ends a worker is said by its number."""
    process = start()
    os.kill(int(process.says()[1]), signal.SIGRTMIN + 5)
    assert process.complains().endswith(f": signal {signal.SIGRTMIN + 5}. Another starts.")


@pytest.mark.parametrize("work", ["def work(listener, serving): return 3", "def work(listener, serving): sys.exit(3)"])
def test_worker_that_cannot_start_ends_the_slot(start: Start, work: str) -> None:
    """An app that can't be imported fails the slot, with the other workers, so that the restart policy acts."""
    process = start(work.replace(": ", f":\n    if os.path.exists({__file__!r}): "), count=2)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "could not start" in err


def test_worker_that_cannot_start_beside_one_that_serves(start: Start, tmp_path: Path) -> None:
    """While another serves the slot goes on, and tries again: what is missing may come back."""
    work = f"if os.path.exists({str(tmp_path / 'broken')!r}): return 3"
    process = start(WORK.replace("    def end", f"    {work}\n    def end"), count=2)
    killed, other = process.says()[1], process.says()[1]
    (tmp_path / "broken").touch()
    os.kill(int(killed), signal.SIGKILL)
    assert "s: SIGKILL." in process.complains()
    assert "s: exit code 3." in process.complains()
    (tmp_path / "broken").unlink()
    while process.says()[0] != "running":
        pass
    os.kill(int(other), 0)


def test_worker_with_streams_of_its_own(start: Start) -> None:
    """What an app has put in place of sys.stdout may have no flush: the worker ends with its code all the same."""
    process = start("def work(listener, serving):\n    sys.stdout = sys.stderr = object()\n    return 3")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.count("\n")) == (3, 1)


def test_listener_closes_with_the_workers(start: Start, listener: socket.socket) -> None:
    """Once the workers end, a connection is refused, not left waiting: Traefik asks the other slot."""
    process = start(WORK.replace("def end(*_): ", "def end(*_): listener.close(); ").replace("sys.exit(0)", "None"))
    process.says()
    address = listener.getsockname()
    listener.close()
    with socket.create_connection(address):
        pass
    process.send_signal(signal.SIGTERM)
    assert process.says()[0] == "terminated"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_notes_of_an_earlier_run_are_removed(start: Start, tmp_path: Path) -> None:
    """A slot that starts is not draining."""
    (tmp_path / "workers").write_text("+\ndraining\n")
    start().says()
    assert (tmp_path / "workers").read_text() == "+\n"


def test_orphans_are_reaped(start: Start) -> None:
    """A process whose parent has ended comes to PID 1, which must neither take its end for a worker's nor keep it."""
    orphan = "if not os.fork():\n        if not os.fork(): time.sleep(0.2)\n        os._exit(0)\n    os.wait()"
    process = start(WORK.replace("    signal.signal", f"    {orphan}\n    signal.signal"), drain_seconds=1)
    assert process.says()[0] == "running"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert err == "Draining for 1 s.\n"
    assert process.returncode == 0
