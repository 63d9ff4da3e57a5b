"""What a client sees while maintenance is on: one page, whatever was asked for. Traefik makes a 503 of it."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# The folder is mounted, not the file, so that another page takes its place at once.
PAGE = Path("/page/index.html")
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Retry-After": "10",
    "Cache-Control": "no-store",
    # The page is one file: its styles and images are within it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class Answer(BaseHTTPRequestHandler):
    # Seconds for a request to arrive.
    timeout = 5

    def do_GET(self) -> None:
        page = PAGE.read_bytes()
        self.send_response(200)
        for name, value in {**HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Traefik logs the requests."""


def main() -> None:
    ThreadingHTTPServer(("", 8000), Answer).serve_forever()
