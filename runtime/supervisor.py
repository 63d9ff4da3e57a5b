"""PID 1 of a slot: forks the workers, replaces those that end, and drains before it stops them.

On SIGTERM `/ready` starts to answer 503, so that Traefik sends no more requests, while the workers go on serving for
`drain_seconds`; then they finish what is in flight. SIGINT stops at once, and so does SIGTERM before any worker serves.
A worker that can't start is tried again while another serves; otherwise the slot has failed, and Docker's restart
policy acts, which waits longer.

What becomes of the workers stands in a file that `./stack` reads: WORKERS.

Forked, not spawned, as Uvicorn's own supervisor does it: what was imported before is in memory once for all workers,
and a new worker has only the app left to import. Standard library only.
"""

import contextlib
import gc
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from . import limits
from .demand import OnDemand
from .notes import DRAINING, INCOMPLETE, WORKERS, ready, without_room, write_readiness
from .readiness import Readiness

# Seconds without a turn of any worker's loop after which the slot gets no new requests.
STUCK_SECONDS = 3
# Lines, so that a worker that ends every second for days doesn't fill the tmpfs.
MOST = 100
STARTING, SERVING, ENDED = b".+-"
# Seconds between two notes for the container's health check.
TICK = 1
# Until the first time that it is: whoever starts it waits for that.
START_TICK = 0.2
# What a worker returns that did not get as far as serving, as Uvicorn has it.
STARTUP_FAILURE = 3
# Seconds that workers have to end after a SIGINT, and after the time for requests in flight is over.
AT_ONCE = 1
# Seconds: a worker that lived no longer than this is replaced by one that waits for RESTART_DELAY first.
SHORT_LIFE = 5
RESTART_DELAY = 1
# Connections that wait to be accepted: Uvicorn's default.
BACKLOG = 2048
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGALRM}


class Supervisor:
    """`count` processes that each run `work` on the bound `listener`; its result is their exit code.

    `work` calls the function that it is given once it serves, and each second while its loop turns.
    `drain_seconds` pass between SIGTERM and the end of serving, `graceful_seconds` from there until what is left of the
    workers is killed.
    """

    def __init__(
        self,
        work: Callable[[socket.socket, Callable[[], None]], int],
        listener: socket.socket,
        count: int,
        drain_seconds: float,
        graceful_seconds: float,
        probes: "socket.socket | None" = None,
        programs: Sequence[OnDemand] = (),
    ) -> None:
        self.work = work
        self.listener = listener
        self.count = count
        self.drain_seconds = drain_seconds
        self.graceful_seconds = graceful_seconds
        # By process id: which one it is, and when it was started.
        self.workers: dict[int, tuple[int, float]] = {}
        self.oom_kills = limits.oom_kills()
        WORKERS.write_bytes(bytes([STARTING]) * count + b"\n")
        with WORKERS.open("r+b") as file:
            # Shared with the workers: each sets its own letter once it serves.
            self.states = mmap.mmap(file.fileno(), count)
        # When each worker's loop last turned, in seconds of time.monotonic(), which all processes share.
        self.turned = mmap.mmap(-1, 8 * count)
        # Not epoll, which a process shares with its children.
        self.selector = selectors.PollSelector()
        answers = {"/ready": self.is_ready, "/serving": self.may_serve}
        routed = partial(self.write_down, "routed")
        self.readiness = Readiness(probes, self.selector, answers, routed) if probes else None
        # What a signal's arrival is written to, so that `wait` returns.
        self.woken, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.woken, selectors.EVENT_READ, lambda: os.read(self.woken, 4096))
        self.programs = programs
        self.was_ready = False
        # What was written down last, and when it is to be again: each probe of Traefik's comes by there twice.
        self.shown: bool | None = None
        self.due = 0.0
        self.draining = False
        self.stopping = False
        self.failure = 0
        self.lines = 0

    def run(self) -> int:
        """Run until every worker has ended; return this process's exit code."""
        DRAINING.unlink(missing_ok=True)
        INCOMPLETE.touch()
        # The kernel drops a signal that PID 1 does not handle, and Docker would wait and kill.
        signal.signal(signal.SIGTERM, self.on_term)
        signal.signal(signal.SIGINT, self.on_int)
        signal.signal(signal.SIGALRM, self.on_alarm)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        # One that came earlier, and that serve.py has kept waiting, is handled here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # What is there now stays: without this each worker's collector would touch, and so copy, every page of it.
        gc.collect()
        gc.freeze()
        for program in self.programs:
            program.watch(self.selector)
        for index in range(self.count):
            self.start(index)
        while self.workers:
            for key, _ in self.selector.select(self.show_readiness()):
                key.data()
            self.reap()
        return self.failure

    def reap(self) -> None:
        """Take in every child that has ended: a worker, a program, or an orphan of a worker's, which comes to PID 1."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if pid in self.workers:
                    self.ended(pid, os.waitstatus_to_exitcode(status))
                any(program.ended(pid) for program in self.programs)

    def show_readiness(self) -> float:
        """Write it down when it changes, and again in time; return the seconds until then."""
        is_ready, now = self.is_ready(), time.monotonic()
        if is_ready != self.shown or now >= self.due:
            self.was_ready = self.was_ready or is_ready
            self.shown, self.due = is_ready, now + (TICK if self.was_ready else START_TICK)
            with without_room():
                write_readiness(is_ready)
        return self.due - now

    def is_ready(self) -> bool:
        newest = max(struct.unpack(f"{self.count}d", self.turned[:]))
        return ready() and self.may_serve() and time.monotonic() - newest < STUCK_SECONDS

    def may_serve(self) -> bool:
        return self.serves() and not self.draining

    def start(self, index: int, delay: float = 0) -> None:
        # A signal that came between the fork and the handlers' reset would be handled by the child as if it were PID 1.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = 0 if self.stopping else os.fork()
        if pid:
            self.workers[pid] = index, time.monotonic()
        elif not self.stopping:
            self.be_worker(index, delay)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def be_worker(self, index: int, delay: float) -> None:
        """In the child: run the work and end with its result."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in {*SIGNALS, signal.SIGCHLD}:
                signal.signal(number, signal.SIG_DFL)
            if self.readiness:
                self.readiness.close_all()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            time.sleep(delay)
            code = self.work(self.listener, partial(self.serve, index))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not by way of the parent's stack.
            os._exit(code)

    def serve(self, index: int) -> None:
        """In a worker: say that it serves, and that its loop turns."""
        struct.pack_into("d", self.turned, 8 * index, time.monotonic())
        if self.states[index] == SERVING:
            return
        first = set(self.states[:]) == {STARTING}
        self.states[index] = SERVING
        # After that: PID 1, which may just have closed it, looks once more.
        self.listener.listen(BACKLOG)
        if set(self.states[:]) == {SERVING}:
            INCOMPLETE.unlink(missing_ok=True)
        elif first:
            with contextlib.suppress(FileNotFoundError):
                os.utime(INCOMPLETE)

    def ended(self, pid: int, code: int) -> None:
        index, started = self.workers.pop(pid)
        if self.states[index] == SERVING:
            self.states[index] = ENDED
        lived = time.monotonic() - started
        if self.stopping:
            return
        self.refuse_while_nobody_serves()
        how = self.reason(code)
        self.write_down(how)
        if code == STARTUP_FAILURE and not self.serves():
            print(f"Worker {pid} could not start, and no other serves: so ends this slot.", file=sys.stderr)
            self.failure = STARTUP_FAILURE
            self.stop(AT_ONCE)
            return
        print(f"Worker {pid} ended after {lived:.0f} s: {how}. Another starts.", file=sys.stderr)
        self.start(index, RESTART_DELAY if lived < SHORT_LIFE else 0)

    def refuse_while_nobody_serves(self) -> None:
        """Have connections refused, so that Traefik makes them to the other slot: here they would wait for a worker."""
        if not self.serves():
            # For all processes that have the socket, and until one of them listens again.
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RD)
            if self.serves():
                self.listener.listen(BACKLOG)

    def serves(self) -> bool:
        return SERVING in self.states[:]

    def write_down(self, line: str) -> None:
        self.lines += 1
        if self.lines <= MOST:
            with without_room(), WORKERS.open("a") as file:
                file.write(f"{line}\n")

    def reason(self, code: int) -> str:
        """Why a worker ended, from its exit code and from what the kernel killed in this container for memory."""
        before, self.oom_kills = self.oom_kills, limits.oom_kills()
        if code == -signal.SIGKILL and self.oom_kills > before:
            limit = limits.memory_limit()
            size = f"APP_MEMORY={limit // limits.MIB}m" if limit else "the machine's memory"
            return f"out of memory: {size} for {self.count} workers"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def on_term(self, _signal: int, _frame: "FrameType | None") -> None:
        if self.draining:
            return
        self.drain()
        if not self.serves():
            # Traefik sends nothing to a slot that does not serve yet.
            self.stop(AT_ONCE)
            return
        print(f"Draining for {self.drain_seconds:g} s.", file=sys.stderr)
        # 0 would switch the timer off.
        signal.setitimer(signal.ITIMER_REAL, self.drain_seconds or 1e-6)

    def on_int(self, _signal: int, _frame: "FrameType | None") -> None:
        self.drain()
        self.stop(AT_ONCE)

    def drain(self) -> None:
        self.draining = True
        with without_room():
            DRAINING.touch()
        self.lines = 0
        self.write_down("draining")

    def on_alarm(self, _signal: int, _frame: "FrameType | None") -> None:
        if self.stopping:
            print(f"Killed, for they did not end: workers {', '.join(map(str, self.workers))}.", file=sys.stderr)
            self.send(signal.SIGKILL)
        else:
            self.stop(self.graceful_seconds + AT_ONCE)

    def stop(self, seconds: float) -> None:
        """Ask the workers to end, and kill those that have not after `seconds`."""
        self.stopping = True
        # A connection that nobody will accept must be refused, so that Traefik sends its request to the other slot.
        self.listener.close()
        self.send(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def send(self, number: signal.Signals) -> None:
        for pid in list(self.workers):
            # One that has ended, and that was not taken in before this signal came.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
