"""The security headers of every answer that Traefik routes, its own among them."""

import re

import httpx2
import pytest

from tests.stack.stacks import Stack

STRICT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-site",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/health", 200),
        ("GET", "/no-such-route", 404),
        ("DELETE", "/", 405),
        ("POST", "/notes", 422),
        ("GET", "/ready", 404),  # Traefik's own
    ],
)
def test_every_answer(client: httpx2.Client, method: str, path: str, status: int) -> None:
    """Right or wrong, the app's or Traefik's own: the same headers, and none that names a version."""
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers.items() >= {name.lower(): value for name, value in ALWAYS.items()}.items()
    assert answer.headers["Content-Security-Policy"] == STRICT
    assert "Permissions-Policy" in answer.headers
    assert not re.search(r"\d", answer.headers.get("Server", ""))
    # Browsers would keep it for every other program on localhost.
    assert "Strict-Transport-Security" not in answer.headers


def test_redirect(stack: Stack) -> None:
    """The answer on port 80, too."""
    answer = httpx2.get(f"http://localhost:{stack.http_port}/")
    assert answer.headers.items() >= {name.lower(): value for name, value in ALWAYS.items()}.items()
    assert answer.headers["Content-Security-Policy"] == STRICT


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_documentation_pages(client: httpx2.Client, path: str) -> None:
    """They may load what FastAPI has in them, from where it has it, and nothing else."""
    answer = client.get(path)
    policy = dict(part.split(None, 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["script-src"] == "'self' 'unsafe-inline' https://cdn.jsdelivr.net"
    assert policy["default-src"] == "'none'"
