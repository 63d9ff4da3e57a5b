"""The page of maintenance, as the container that shows it does."""

import http.client
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime import page


def test_one_page_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes as they are, whatever is asked for, and another page at once."""
    monkeypatch.setattr(page, "PAGE", tmp_path / "index.html")
    server = ThreadingHTTPServer(("127.0.0.1", 0), page.Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for content in (b"<p>one", b"\xff\x00 no UTF-8"):
            page.PAGE.write_bytes(content)
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
            connection.request("GET", "/../any?thing", headers={"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, content)
            assert answer.headers["Retry-After"] == "10"
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
