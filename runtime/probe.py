"""The container's health check: exit 0 when `/ready` answers 200. No HTTP library: it runs every few seconds."""

import socket

# Where PID 1 answers probes: readiness.py.
PORT = 8001


def main() -> int:
    with socket.create_connection(("127.0.0.1", PORT), timeout=2) as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").readline().decode().strip()
    print(answer)
    return 0 if answer.startswith("HTTP/1.1 200 ") else 1
