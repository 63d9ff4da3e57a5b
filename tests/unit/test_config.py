"""What Compose resolved, typed, and what it takes as it comes and is wrong all the same."""

import json
import os
import re
import subprocess

import pytest

from ops import config
from ops.config import Config
from ops.run import Stop
from tests.conftest import REPO


def resolved(**settings: str) -> str:
    """compose.yaml with these settings, as Compose reads it."""
    argv = ["docker", "compose", "--env-file", "/dev/null", "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings}
    done = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def configured(**settings: str) -> Config:
    return config.parse(resolved(**settings))


@pytest.mark.docker
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DOMAIN", "https://example.com"),
        ("DOMAIN", "203.0.113.5"),
        ("DOMAIN", "app.example.com, www.example.com"),
        ("ALIASES", "both"),
        ("ACME_EMAIL", "you"),
        ("ACME_CA", "http://ca"),
        ("HEADER_LIMIT", "32k"),
        ("IN_FLIGHT_LIMIT", "0"),
        ("CLIENT_IN_FLIGHT_LIMIT", "none"),
        ("RATE_LIMIT", "0"),
        ("READ_TIMEOUT", "60s"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CERTIFICATE_HOURS", "two"),
        ("DEPLOY_TIMEOUT", "2m"),
        ("DEPLOY_TIMEOUT", "0"),
        ("HTTP_PORT", "8080-8081"),
        ("HTTP_PORT", "0"),
        ("HTTPS_PORT", "0"),
        ("HTTPS_PORT", "8443-8444"),
        ("EDGE_SUBNET", "10.213.80.0/99"),
        ("EDGE_SUBNET", "abc"),
        ("EDGE_SUBNET_IPV6", "fd5b::/129"),
        ("WORKERS", "many"),
        ("WORKER_MEMORY", "-1"),
        ("APP_MEMORY", "512"),
        ("APP_MEMORY", "0"),
        ("APP_CPUS", "100"),
        ("APP_CPUS", "-1"),
        ("MIGRATE_DEADLINE", "inf"),
        ("MIGRATE_DEADLINE", "5m"),
        ("MIGRATE", "alembic 'upgrade"),
        ("MIGRATE", 'echo "\\"'),
        ("APP_ENTRYPOINT", "maybe"),
        ("TMP_SIZE", "abc"),
        ("TMP_SIZE", "0"),
        ("BODY_LIMIT", "10m"),
        ("DATABASE_URL", "mysql://app@db/app"),
        ("DATABASE_URL", "postgresql://app:a@b@db/app"),
        ("DATABASE_URL", "postgresql://app@localhost/app?host=/var/run/postgresql"),
        ("POSTGRES_MEMORY", "1"),
        ("STATEMENT_TIMEOUT", "2m"),
        ("STATEMENT_TIMEOUT", "9999999"),
        ("LOCK_TIMEOUT", "-1"),
        ("MAX_CONNECTIONS", "1e3"),
        ("STATIC_DIR", "dist"),
        ("STATIC_PATH", "/static/"),
        ("API_PATHS", "/api, /ws"),
        ("STATIC_POLICY", 'default-src "self"'),
    ],
)
def test_wrong_setting(setting: str, value: str) -> None:
    """What Compose hands over as it stands is refused before anything is touched: the setting, and what is allowed."""
    with pytest.raises(Stop, match=rf"^{setting}.* is wrong: ") as stop:
        configured(**{setting: value})
    assert stop.value.code == 2


@pytest.mark.docker
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"DOMAIN": "app.example.com,www.example.com", "ALIASES": "serve", "ACME_EMAIL": "you@example.com"},
        {"ACME_PROFILE": "shortlived", "CERTIFICATE_HOURS": "160"},
        {"STATEMENT_TIMEOUT": "999999", "TMP_SIZE": "1G", "MIGRATE": """sh -c "echo 'it''s' \\" $$PATH" """},
        {"TRUSTED_PROXIES": "192.0.2.0/24,2001:db8::/32,198.51.100.7", "RATE_LIMIT": "50", "WRITE_TIMEOUT": "0"},
        {"STATIC_DIR": "/app/dist", "API_PATHS": "/api,/ws", "STATIC_POLICY": "default-src 'self'; img-src *"},
    ],
    ids=str,
)
def test_right_settings(settings: dict[str, str]) -> None:
    """The defaults, and what .env.example shows."""
    configured(**settings)


@pytest.mark.docker
def test_migration_needs_the_apps_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would migrate elsewhere, and the app would serve from a database that nothing has migrated."""
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgresql://owner@db/app")
    with pytest.raises(Stop, match=r"^MIGRATION_DATABASE_URL is nothing without DATABASE_URL") as stop:
        configured(MIGRATION_DATABASE_URL="postgresql://owner@db/app")
    assert stop.value.code == 2
    # Which plain Compose holds to, too.
    plain = resolved(MIGRATION_DATABASE_URL="postgresql://owner@db/app")
    assert json.loads(plain)["services"]["migrate"]["environment"]["STACK_DATABASE_URL"] == ""
    secret = {
        "DATABASE_URL": "postgresql://app:hunter2@db/app",
        "MIGRATION_DATABASE_URL": "mysql://owner:hunter2@db/app",
    }
    with pytest.raises(Stop, match=r"^MIGRATION_DATABASE_URL=… is wrong: a URL like"):
        configured(**secret)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("APP_MEMORY", "much"),
        ("APP_CPUS", "many"),
        ("EDGE_IPV6", "maybe"),
        ("HTTPS_PORT", "99999"),
        ("DEPLOY_TIMEOUT", "soon"),
        ("STOP_GRACE_SECONDS", "1:30"),
    ],
)
def test_what_compose_refuses_has_its_setting(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    """Compose says it of a path in compose.yaml, and the setting is nowhere in that."""
    monkeypatch.setenv(setting, value)
    monkeypatch.setenv("COMPOSE_ENV_FILES", "/dev/null")
    config.config_of.cache_clear()
    try:
        with pytest.raises(Stop, match=f"^{setting} is wrong: .*{value}") as stop:
            config.load()
    finally:
        config.config_of.cache_clear()
    assert stop.value.code == 2


@pytest.mark.docker
def test_seconds_may_have_a_unit() -> None:
    """DEPLOY_TIMEOUT=2m under plain Compose: two minutes, and not the 2 ms that `2ms` would be."""
    for value, start in (("2m", "2m0s"), ("90", "1m30s")):
        slot = json.loads(resolved(DEPLOY_TIMEOUT=value))["services"]["app-1"]
        assert slot["healthcheck"]["start_period"] == start


@pytest.mark.docker
def test_without_traefik() -> None:
    """One sentence says what to read: deploy/proxies.yaml leaves it out."""
    with pytest.raises(Stop, match=r"^\./stack needs `traefik`.* docs/proxies\.md ") as stop:
        configured(COMPOSE_FILE="compose.yaml:deploy/proxies.yaml")
    assert stop.value.code == 2


@pytest.mark.docker
def test_profile_and_hours_go_together() -> None:
    """Six-day certificates that are renewed as if they lasted for 90 would end first."""
    with pytest.raises(Stop, match="set CERTIFICATE_HOURS=160"):
        configured(ACME_PROFILE="shortlived")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"BASIC_AUTH_PATHS": "/admin"}, "BASIC_AUTH_PATHS=/admin guards nothing without BASIC_AUTH_FILE"),
        ({"ALLOW_PATHS": "/admin"}, "ALLOW_PATHS=/admin guards nothing without ALLOW_FROM"),
        # Traefik would take it for routes, and everybody could read it.
        ({"BASIC_AUTH_FILE": "users.yaml"}, "BASIC_AUTH_FILE=users.yaml is wrong"),
        # What no request's path looks like by the time that it is compared.
        ({"ALLOW_FROM": "192.0.2.1", "ALLOW_PATHS": "//admin"}, "ALLOW_PATHS=//admin is wrong"),
        ({"ALLOW_FROM": "192.0.2.1", "ALLOW_PATHS": "/x/../admin"}, "ALLOW_PATHS=/x/../admin is wrong"),
    ],
)
def test_guard_that_would_guard_nothing(settings: dict[str, str], said: str) -> None:
    """It is refused, and not taken for one that holds."""
    with pytest.raises(Stop, match=re.escape(said)):
        configured(**settings)


@pytest.mark.docker
def test_wildcard_needs_dns() -> None:
    """No authority proves one on port 80; and the first name is one that can be opened."""
    with pytest.raises(Stop, match="a wildcard needs ACME_DNS"):
        configured(DOMAIN="app.test,*.app.test")
    with pytest.raises(Stop, match=r"DOMAIN=.* is wrong"):
        configured(DOMAIN="*.app.test", ACME_DNS="rfc2136")
    assert configured(DOMAIN="app.test,*.app.test", ACME_DNS="rfc2136").names == ["app.test", "*.app.test"]


@pytest.mark.docker
def test_what_the_command_reads() -> None:
    """Each value is of its type, and what is empty is there all the same."""
    plain = configured()
    assert (plain.ports, plain.deploy_timeout, plain.workers, plain.address) == (
        (80, 443),
        120,
        None,
        "https://localhost",
    )
    assert (plain.edge, plain.ipv6) == (f"{plain.project}_edge", True)
    assert plain.volumes["postgres-data"] == f"{plain.project}_postgres-data"
    assert plain.services["app-1"].memory == 512 * 2**20
    assert plain.services["backup"].environment["BACKUP_S3_BUCKET"] == ""
    assert plain.services["app-1"].environment["STACK_DATABASE_URL"] == ""
    assert plain.services["migrate"].environment["STACK_MIGRATE_DEADLINE"] == ""
    assert plain.services["postgres"].arguments == {"POSTGRES_IMAGE": "postgres:18"}
    own = configured(
        DEPLOY_TIMEOUT="8", HTTPS_PORT="127.0.0.1:8443", DOMAIN="a.test,b.test", APP_CPUS="1.5", WORKERS="3"
    )
    assert (own.deploy_timeout, own.address, own.names) == (8, "https://a.test:8443", ["a.test", "b.test"])
    assert (plain.addresses, own.addresses) == (("127.0.0.1", "127.0.0.1"),) * 2
    one = configured(HTTP_PORT="0.0.0.0:80", HTTPS_PORT="203.0.113.5:443")
    assert (one.ports, one.addresses, one.address) == ((80, 443), ("127.0.0.1", "203.0.113.5"), "https://localhost")
    assert (own.services["app-2"].cpus, own.workers) == (1.5, 3)


@pytest.mark.docker
def test_static_files_are_there_where_they_are_asked_for() -> None:
    """Without STATIC_DIR neither the server nor the files, nor a megabyte or a base image for them."""
    off, on = configured(), configured(STATIC_DIR="/app/dist")
    assert (off.accessories, off.processes, off.files) == ([], [], [])
    assert (off.services["static"].memory, off.services["static"].arguments) == (0, {})
    assert (on.accessories, on.processes, on.files) == (["static"], [], ["static-files"])
    assert on.services["static"].arguments == {"NGINX_IMAGE": "nginx:stable-alpine-slim"}


def test_setting_for_compose_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is about to serve goes before .env, until it serves."""
    monkeypatch.delenv("RELEASE", raising=False)
    config.override("RELEASE", "next")
    assert os.environ["RELEASE"] == "next"
    config.override("RELEASE", None)
    assert "RELEASE" not in os.environ
