"""The probes' door: PID 1 of a slot answers, never a worker, in whose queue a probe would wait."""

import socket
from collections.abc import Callable
from ipaddress import ip_address

# Seconds for a request's one packet; it is there already, where the kernel knows TCP_DEFER_ACCEPT.
PATIENCE = 0.05


def plain(host: str) -> str:
    """A peer's address as IPv4 has it, where a socket for both says ::ffff:192.0.2.1."""
    return host.removeprefix("::ffff:") if "." in host else host


def open_door(listener: socket.socket) -> None:
    """Have the kernel keep back who has connected and said nothing."""
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)


def answer(listener: socket.socket, answers: dict[str, Callable[[], bool]]) -> bool:
    """Answer one GET or HEAD by what `answers` says of each path; no path, no method is 404.

    Returns whether the proxy, or whoever else isn't in this container, was told 200.
    """
    try:
        connection, (peer, *_) = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            method, path, *_ = (connection.recv(4096).decode("latin-1") + "  ").split(" ", 2)
            tell = answers.get(path.partition("?")[0])
            status = "404 Not Found"
            if tell and method in ("GET", "HEAD"):
                status = "200 OK" if tell() else "503 Service Unavailable"
            connection.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return status == "200 OK" and not ip_address(plain(peer)).is_loopback
    except OSError:
        return False
