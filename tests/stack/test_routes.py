"""Traefik's own files and settings: what is wrong with them is said, and what serves goes on."""

import json
import os

from tests.stack.echo import Echo
from tests.stack.stacks import CLEAN, inspect, run, wait_until

WRONG = {
    "IN_FLIGHT_LIMIT": "many",
    "RATE_LIMIT": "x",
    "CLIENT_IN_FLIGHT_LIMIT": "-1",
    "DOMAIN": "https://app.test",
    "TRUSTED_PROXIES": "10.0.0.0/8;192.0.2.1",
    "READ_TIMEOUT": "60s",
    "ALIASES": "both",
    "ACME_EMAIL": "you",
    "ACME_CA": "http://ca",
}


def test_wrong_setting_under_plain_compose(echo: Echo) -> None:
    """Traefik does not start: its log names the setting and what is allowed. It starts once that is right."""

    def compose(setting: str, value: str, *argv: str, check: bool) -> str:
        plain = ("docker", "compose", "--env-file", str(echo.env_file), *argv)
        return run(*plain, cwd=echo.folder, env={**CLEAN, setting: value}, check=check)

    for setting, value in WRONG.items():
        said = compose(setting, value, "run", "--rm", "--no-deps", "-T", "traefik", "true", check=False)
        assert f"{setting}={value} is wrong: " in said
    compose("IN_FLIGHT_LIMIT", "many", "up", "--detach", "--no-deps", "traefik", check=True)
    sentence = "IN_FLIGHT_LIMIT=many is wrong: a whole number of requests."
    wait_until(lambda: sentence in run("docker", "logs", echo.container("traefik"), check=False))
    assert inspect(echo.container("traefik"))["State"].get("Health", {}).get("Status") != "healthy"
    echo.recreate("traefik")


def test_routes_that_traefik_may_not_read(echo: Echo) -> None:
    """As git leaves them under umask 027: unhealthy while it serves, told at the next start, mended by `./stack up`."""
    routes, key, mine = (echo.folder / "traefik/dynamic" / name for name in ("app.yaml", "key.pem", "mine.yaml"))
    traefik = echo.container("traefik")
    key.touch(0o600)
    mine.touch(0o600)
    # Traefik's own user.
    os.chown(mine, 10010, 10010)
    try:
        routes.chmod(0o640)
        wait_until(lambda: inspect(traefik)["State"]["Health"]["Status"] == "unhealthy")
        assert echo.both_slots_answer()
        run("docker", "restart", "-t", "1", traefik)
        said = "Traefik can't read ./traefik/dynamic/app.yaml: `./stack up` lets it, or"
        wait_until(lambda: said in run("docker", "logs", traefik, check=False))
        done = echo.stack("up")
        assert done.returncode == 0, done.stderr
        assert echo.both_slots_answer()
        assert [path.stat().st_mode & 0o777 for path in (routes, key, mine)] == [0o644, 0o600, 0o600]
    finally:
        routes.chmod(0o644)
        key.unlink()
        mine.unlink()


def test_routes_with_a_mistake(echo: Echo) -> None:
    """What serves goes on; a Traefik that starts with them has none, and is not healthy."""
    routes = echo.folder / "traefik/dynamic/mine.yaml"
    traefik = echo.container("traefik")
    try:
        routes.write_text("http: {routers: [")
        routes.chmod(0o644)
        wait_until(echo.both_slots_answer)
        run("docker", "restart", traefik)
        wait_until(lambda: "has no routes" in json.dumps(inspect(traefik)["State"]["Health"]["Log"]))
        assert inspect(traefik)["State"]["Health"]["Status"] != "healthy"
        assert "mine.yaml" in run("docker", "logs", traefik, check=False)
    finally:
        routes.unlink()
    wait_until(echo.both_slots_answer)


def test_own_log_of_traefik(echo: Echo) -> None:
    """What Traefik says of itself is in a file without the requests, whose flood pushes it out of Docker's log."""
    traefik, odd = echo.container("traefik"), echo.folder / "traefik/dynamic/odd.yaml"
    said = "odd.yaml: yaml: "
    try:
        odd.write_text("http: {routers: [")
        odd.chmod(0o644)
        wait_until(lambda: said in run("docker", "logs", traefik))
    finally:
        odd.unlink()
    wait_until(echo.both_slots_answer)
    kept = run("docker", "exec", traefik, "cat", "/acme/traefik.log")
    assert said in kept
    assert "RequestPath" in run("docker", "logs", traefik)
    assert "RequestPath" not in kept
