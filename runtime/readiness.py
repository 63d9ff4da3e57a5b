"""The probes' door: PID 1 of a slot answers, never a worker, in whose queue a probe would wait.

`/ready` is 200 while the slot should get requests: complete, not draining, and some worker's loop has turned lately.
Busy is not stuck. `/serving` is 200 while it could take one, however busy: not draining, and some worker serves.
"""

import selectors
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

# Connections at one time: more than probes ever need, and few enough to cost nothing.
MOST = 32


class Readiness:
    """Answers GET and HEAD on `listener` by what `answers` says of each path; no path, no method is 404.

    `selector` is the caller's: it waits there for what concerns it, and calls what is registered as `data`. `routed` is
    called once, when the proxy, or whoever else isn't in this container, was first told 200.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        answers: dict[str, Callable[[], bool]],
        routed: Callable[[], None],
    ) -> None:
        self.selector, self.answers, self.listener = selector, answers, listener
        self.routed: Callable[[], None] | None = routed
        self.open: list[socket.socket] = []
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self.accept)

    def accept(self) -> None:
        try:
            connection, (peer, *_) = self.listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self.open.append(connection)
        self.selector.register(connection, selectors.EVENT_READ, partial(self.answer, connection, peer))
        if len(self.open) > MOST:
            # The oldest: a probe asks at once.
            self.close(self.open[0])

    def answer(self, connection: socket.socket, peer: str) -> None:
        try:
            # A probe's request is one packet.
            method, path, *_ = (connection.recv(4096).decode("latin-1") + "  ").split(" ", 2)
            tell = self.answers.get(path.partition("?")[0])
            status = "404 Not Found"
            if tell and method in ("GET", "HEAD"):
                status = "200 OK" if tell() else "503 Service Unavailable"
            connection.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            if self.routed and status == "200 OK" and not ip_address(peer).is_loopback:
                self.routed()
                self.routed = None
        except OSError:
            pass
        self.close(connection)

    def close(self, connection: socket.socket) -> None:
        self.open.remove(connection)
        self.selector.unregister(connection)
        connection.close()

    def close_all(self) -> None:
        """In a child of the process, which has them too."""
        for one in (*self.open, self.listener):
            one.close()
