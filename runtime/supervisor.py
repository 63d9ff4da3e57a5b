"""PID 1 of a slot: forks the workers, replaces those that end, and drains before it stops them.

On SIGTERM `/ready` starts to answer 503, so that Traefik sends no more requests, while the workers go on serving for
`drain_seconds`; then they finish what is in flight. SIGINT stops at once, and so does SIGTERM before any worker serves.
A worker that can't start is tried again while another serves; otherwise the slot has failed, and Docker's restart
policy acts, which waits longer.

Forked, not spawned, as Uvicorn's own supervisor does it: what was imported before is in memory once for all workers,
and a new worker has only the app left to import. Standard library only.
"""

import contextlib
import gc
import logging
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from . import limits, lines, readiness
from .demand import OnDemand
from .notes import reason, tell_systemd, write_line, write_readiness
from .readiness import ENDED, SERVING, State

# Bytes of reasons, so that a worker that ends every second for days doesn't fill the tmpfs.
MOST = 4096
# Seconds between two notes for the container's health check.
TICK = 1
# Seconds that what a worker has started has to end by itself, once the worker has ended.
LEFT_SECONDS = 1
# Until the first time that it is: whoever starts it waits for that.
START_TICK = 0.2
# Seconds that workers have to end after a SIGINT, and after the time for requests in flight is over.
AT_ONCE = 1
# Seconds: a worker that lived no longer than this is replaced by one that waits for RESTART_DELAY first.
SHORT_LIFE = 5
RESTART_DELAY = 1
# Connections that wait to be accepted: Uvicorn's default.
BACKLOG = 2048
SIGNALS = {signal.SIGTERM, signal.SIGINT}


class Supervisor:
    """`count` processes that each run `work` on the bound `listener`; its result is their exit code.

    `work` calls the function that it is given once it serves, and each second while its loop turns: is it draining?
    `drain_seconds` pass between SIGTERM and the end of serving, `graceful_seconds` from there until what is left of the
    workers is killed. `lost_seconds`: State.
    """

    def __init__(
        self,
        work: Callable[[socket.socket, Callable[[], bool]], int],
        listener: socket.socket,
        count: int,
        drain_seconds: float,
        graceful_seconds: float,
        probes: "socket.socket | None" = None,
        programs: Sequence[OnDemand] = (),
        lost_seconds: float = math.inf,
    ) -> None:
        self.work, self.listener, self.count = work, listener, count
        self.drain_seconds, self.graceful_seconds = drain_seconds, graceful_seconds
        self.probes, self.programs, self.state = probes, programs, State(count, lost_seconds)
        # By process id: which one it is, and when it was started.
        self.workers: dict[int, tuple[int, float]] = {}
        self.pid, self.oom_kills = os.getpid(), limits.oom_kills()
        # When on_time is due.
        self.alarm = math.inf
        self.was_ready = self.routed = self.stopping = False
        # What was written down last, and when it is to be again: each probe of Traefik's comes by there.
        self.shown: bool | None = None
        self.due = 0.0
        self.failure = 0
        # The group of each that has ended, by its id, and when what is left of it is killed.
        self.left: dict[int, float] = {}
        # Which of them the kernel refused a process.
        self.missing: set[int] = set()
        # Not epoll, which a process shares with its children. What is registered is called.
        self.selector = selectors.PollSelector()
        # What a signal's arrival is written to, so that the loop goes on.
        self.woken, self.waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.woken, selectors.EVENT_READ, self.take_signals)
        if probes:
            readiness.open_door(probes)
            self.selector.register(probes, selectors.EVENT_READ, partial(self.answer_probe, probes))

    def run(self) -> int:
        """Run until every worker has ended; return this process's exit code."""
        # The kernel drops a signal that PID 1 does not handle, and Docker would wait and kill.
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        # One that came earlier, and that serve.py has kept waiting, comes here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        # What is there now stays: without this each worker's collector would touch, and so copy, every page of it.
        gc.collect()
        gc.freeze()
        for program in self.programs:
            program.watch(self.selector)
        self.turn(0)
        for index in range(self.count):
            self.start(index)
        while self.workers:
            self.turn(self.show_readiness())
            for index in tuple(self.missing):
                self.start(index)
        self.end_left(math.inf)
        return self.failure

    def end_left(self, now: float) -> None:
        """End what workers have left that ended by `now` or before."""
        for pid in [pid for pid, due in self.left.items() if due <= now]:
            del self.left[pid]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def turn(self, seconds: float) -> None:
        """Wait so long for something to do, and do it."""
        for key, _ in self.selector.select(max(0, min(seconds, self.alarm - time.monotonic()))):
            key.data()
        if time.monotonic() >= self.alarm:
            self.on_time()
        self.end_left(time.monotonic())
        # Every child that has ended: a worker, a program, or an orphan of a worker's, which comes to PID 1.
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if pid in self.workers:
                    self.ended(pid, os.waitstatus_to_exitcode(status))
                any(program.ended(pid) for program in self.programs)

    def take_signals(self) -> None:
        for number in os.read(self.woken, 4096):
            if number == signal.SIGTERM:
                self.on_term()
            elif number == signal.SIGINT:
                self.drain()
                self.stop(AT_ONCE)

    def answer_probe(self, probes: socket.socket) -> None:
        answers = {"/live": self.state.is_live, "/ready": self.state.is_ready, "/serving": self.state.may_serve}
        if readiness.answer(probes, answers) and not self.routed:
            self.routed = True
            write_line("routed")

    def show_readiness(self) -> float:
        """Write it down when it changes, and again in time; return the seconds until then."""
        is_ready, now = self.state.is_ready(), time.monotonic()
        if is_ready != self.shown or now >= self.due:
            if is_ready and not self.was_ready:
                tell_systemd()
                self.was_ready = True
            self.shown, self.due = is_ready, now + (TICK if self.was_ready else START_TICK)
            write_readiness(is_ready)
        return self.due - now

    def start(self, index: int, delay: float = 0) -> None:
        if self.stopping:
            return
        # The child must not miss a signal, nor pass it on to this process: until it has handlers of its own.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self.be_worker(index, delay)
            self.workers[pid] = index, time.monotonic()
            self.missing.discard(index)
        except OSError as error:
            # As when the app's threads are all that the container may have. Where no other is left, the slot ends.
            if index not in self.missing:
                lines.say(f"A worker can't be started: {error.strerror}.", logging.ERROR)
            self.missing.add(index)
            self.failure = 0 if self.workers else 1
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def be_worker(self, index: int, delay: float) -> None:
        """In the child: run the work and end with its result.

        A stop that was asked for ends it as any program ends, by way of the parent's stack, where nothing waits for it:
        what runs in threads is finished, and what is registered with `atexit` called, until PID 1 kills. Otherwise a
        thread of the app's could keep it for ever.
        """
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            # What it starts is known by this: `ended`.
            os.setpgid(0, 0)
            for number in (*SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if self.probes:
                self.probes.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            time.sleep(delay)
            code = self.work(self.listener, partial(self.serve, index))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Whatever is raised gives way to this.
            if self.state.draining[0]:
                sys.exit(code)
            lines.end(code)

    def serve(self, index: int) -> bool:
        """In a worker: say that it serves, and that its loop turns; return whether the slot drains."""
        if os.getppid() != self.pid:
            # Without a container nothing else ends what a killed parent leaves, and it would keep the port.
            os.kill(os.getpid(), signal.SIGTERM)
        self.state.turned[index] = time.monotonic()
        if self.state.states[index] != SERVING:
            self.state.states[index] = SERVING
            # After that: PID 1, which may just have closed it, looks once more.
            self.listener.listen(BACKLOG)
        return bool(self.state.draining[0])

    def ended(self, pid: int, code: int) -> None:
        # What it has started, as a pool's processes, would keep its sockets, and its sessions in the database. What
        # ends by itself, as multiprocessing's tracker of shared memory, first does what it has to do.
        self.left[pid] = 0 if self.stopping else time.monotonic() + LEFT_SECONDS
        index, started = self.workers.pop(pid)
        served, lived = self.state.states[index] == SERVING, time.monotonic() - started
        if served:
            self.state.states[index] = ENDED
        if self.stopping:
            return
        self.refuse_while_nobody_serves()
        before, self.oom_kills = self.oom_kills, limits.oom_kills()
        how = reason(code, self.oom_kills > before, self.count)
        write_line(how, MOST)
        if code > 0 and not served and not self.state.serves():
            lines.say(f"Worker {pid} could not start, and no other serves: so ends this slot.", logging.ERROR)
            self.failure = code
            self.stop(AT_ONCE)
            return
        lines.say(f"Worker {pid} ended after {lived:.0f} s: {how}. Another starts.", logging.WARNING)
        self.start(index, RESTART_DELAY if lived < SHORT_LIFE else 0)

    def refuse_while_nobody_serves(self) -> None:
        """Have connections refused, so that Traefik makes them to the other slot: here they would wait for a worker."""
        if not self.state.serves():
            # For all processes that have the socket, and until one of them listens again.
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RD)
            if self.state.serves():
                self.listener.listen(BACKLOG)

    def on_term(self) -> None:
        if self.state.draining[0]:
            return
        self.drain()
        if not self.state.serves():
            # Traefik sends nothing to a slot that does not serve yet.
            return self.stop(AT_ONCE)
        lines.say(f"Draining for {self.drain_seconds:g} s.")
        self.alarm = time.monotonic() + self.drain_seconds

    def drain(self) -> None:
        self.state.draining[0] = 1
        write_line("draining")

    def on_time(self) -> None:
        """The drain is over, or the workers' time to end."""
        if self.stopping:
            lines.say(f"Killed, for they did not end: workers {', '.join(map(str, self.workers))}.", logging.WARNING)
            self.send(signal.SIGKILL)
            self.alarm = math.inf
        else:
            self.stop(self.graceful_seconds + AT_ONCE)

    def stop(self, seconds: float) -> None:
        """Ask the workers to end, and kill those that have not after `seconds`."""
        self.stopping = True
        # A connection that nobody will accept must be refused, so that Traefik sends its request to the other slot.
        self.listener.close()
        self.send(signal.SIGTERM)
        self.alarm = time.monotonic() + seconds

    def send(self, number: signal.Signals) -> None:
        # None of them is another's by now: until it is taken in, in `turn`, an ended one keeps its number.
        for pid in self.workers:
            os.kill(pid, number)
