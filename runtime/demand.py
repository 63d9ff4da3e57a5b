"""Programs that PID 1 starts when somebody first connects to them, and again after they ended: socket activation."""

import os
import select
import selectors
import signal
import socket
import sys
import time

# The descriptor under which a program gets its listening socket.
LISTENER = 3
# Seconds: a program that lived no longer than this can't work, and would be started for ever by who waits for it.
SHORT_LIFE = 1


class OnDemand:
    """`program`, a script of this Python's, gets the listening socket as descriptor LISTENER."""

    def __init__(self, listener: socket.socket, program: str) -> None:
        self.listener, self.program = listener, program
        # Also where it is LISTENER already.
        listener.set_inheritable(True)
        self.pid = 0

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Start it as soon as somebody connects. The selector calls what is registered as `data`."""
        self.selector = selector
        selector.register(self.listener, selectors.EVENT_READ, self.start)

    def start(self) -> None:
        self.selector.unregister(self.listener)
        try:
            self.spawn()
        except OSError:
            # The kernel has no process more for this container. Who connects next is the next try.
            self.watch(self.selector)
            self.refuse()

    def spawn(self) -> None:
        self.started = time.monotonic()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, self.program],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, self.listener.fileno(), LISTENER)],
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD],
        )

    def ended(self, pid: int) -> bool:
        """Whether it was this one's process; who connects next starts it again."""
        if pid != self.pid:
            return False
        self.pid = 0
        self.watch(self.selector)
        if time.monotonic() - self.started < SHORT_LIFE:
            self.refuse()
        return True

    def refuse(self) -> None:
        """Whoever waits is told at once."""
        if select.select([self.listener], [], [], 0)[0]:
            self.listener.accept()[0].close()
