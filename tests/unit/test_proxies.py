"""The files of deploy/ for other proxies, beside what Traefik has; tests/deploy/ runs them."""

import fnmatch
import re

from tests.conftest import REPO

HEADERS = (REPO / "traefik/dynamic/headers.yaml").read_text()
# What traefik/dynamic/ lets nobody send, and what Traefik replaces by itself.
NAMES = {name.lower() for line in re.findall(r'^  "(.+)"', HEADERS, re.MULTILINE) for name in line.split()}
REPLACED = {f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "server")} | {"x-real-ip"}
# Of an app's own.
PASSING = {"authorization", "x-auth-token", "x-client-version", "x-host-name", "x-api-key", "x-csrf-token", "origin"}


def dropped(program: str) -> set[str]:
    """Those of all these names that the program's file drops or replaces."""
    files = {"caddy": ("Caddyfile", "from-outside"), "nginx": ("headers.conf",), "haproxy": ("haproxy.cfg",)}
    text = "\n".join((REPO / "deploy" / program / name).read_text() for name in files[program]).lower()
    exact = set(re.findall(r"(?:proxy_set_header|set-header|header_up) ([\w-]+)", text))
    patterns = [fnmatch.translate(one) for one in re.findall(r"^request_header -(\S+)$", text, re.MULTILINE)]
    patterns += re.findall(r"del-header (\S+) -m reg", text)
    return {name for name in NAMES | REPLACED | PASSING if name in exact or any(re.search(p, name) for p in patterns)}


def test_one_list_of_names() -> None:
    """Each proxy drops, or says itself, what Traefik does, and nothing of an app's own."""
    assert len(NAMES) > 70
    for program in ("caddy", "nginx", "haproxy"):
        assert dropped(program) == NAMES | REPLACED, program
