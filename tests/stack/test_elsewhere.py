"""DATABASE_URL: another Postgres than the stack's own, over TLS and with passwords, as a managed one is reached."""

import json
import re

import pytest

from tests.stack.backups import ok
from tests.stack.load import Load
from tests.stack.stacks import Clone, run, wait_until

USED = {"traefik", "app-1", "app-2", "elsewhere"}
# Beside the stack, on the network of the slots and the migration; its certificate has not the name `other`.
OVERRIDE = """
services:
  elsewhere:
    image: ${POSTGRES_IMAGE}
    networks: {web: {aliases: [other]}}
    # The certificate's key must be the server's own; who may come is in a file of ours.
    entrypoint: [sh, -c, "install -o postgres -m 600 /given/key.pem /tmp/ &&
      exec setpriv --reuid=postgres --regid=postgres --clear-groups docker-entrypoint.sh \\"$$@\\"", sh]
    command: [postgres, -c, hba_file=/given/hba, -c, listen_addresses=*,
      -c, ssl=on, -c, ssl_cert_file=/given/cert.pem, -c, ssl_key_file=/tmp/key.pem]
    environment: [POSTGRES_HOST_AUTH_METHOD=trust]
    volumes: ["./elsewhere:/given:ro", "./elsewhere/roles.sql:/docker-entrypoint-initdb.d/roles.sql:ro"]
"""
# Whoever comes by the network needs TLS and a password, which never travels.
HBA = "local all all trust\nhostssl all all all scram-sha-256\n"
ROLES = """
CREATE ROLE shop_owner LOGIN PASSWORD 'of-the-owner';
CREATE ROLE shop LOGIN PASSWORD 'of-the-app';
CREATE DATABASE shop OWNER shop_owner;
\\connect shop
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO shop;
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner GRANT USAGE ON SEQUENCES TO shop;
"""


# What else each of two wrong hosts is told.
WRONG = {
    "nowhere.invalid": "DATABASE_URL is wrong: the database can't be used: ",
    "other": 'server certificate for "elsewhere" does not match host name "other"',
}
ENCRYPTED = "SELECT DISTINCT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename ~ 'shop'"


def use(clone: Clone, host: str | None) -> None:
    """Write into .env what a user would; the authority's certificate is in the app's image."""
    text = re.sub(r"(?m)^(MIGRATION_)?DATABASE_URL=.*\n", "", clone.env_file.read_text())
    if host:
        rest = f"{host}/shop?sslmode=verify-full&sslrootcert=/code/app/authority.pem"
        text += f"DATABASE_URL=postgresql://shop:of-the-app@{rest}\n"
        text += f"MIGRATION_DATABASE_URL=postgresql://shop_owner:of-the-owner@{rest}\n"
    clone.env_file.write_text(text)


@pytest.fixture(scope="module")
def elsewhere(clone: Clone) -> Clone:
    """A stack that serves from its own Postgres, and another one that answers."""
    given = clone.folder / "elsewhere"
    given.mkdir()
    subject = ("-subj", "/CN=elsewhere", "-addext", "subjectAltName=DNS:elsewhere")
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(given / "key.pem"))
    run("openssl", "req", "-x509", "-days", "2", *key, "-out", str(given / "cert.pem"), *subject)
    (clone.folder / "app/authority.pem").write_bytes((given / "cert.pem").read_bytes())
    (given / "hba").write_text(HBA)
    (given / "roles.sql").write_text(ROLES)
    run("chmod", "-R", "a+rX", str(given))
    (clone.folder / "compose.override.yaml").write_text(OVERRIDE)
    ok(clone.stack("up"))
    clone.compose("up", "--detach", "elsewhere")
    # Not by its socket, on which the server answers that makes the roles.
    ready = ("exec", "-T", "elsewhere", "pg_isready", "--host=127.0.0.1")
    wait_until(lambda: "accepting" in clone.compose(*ready, check=False), 60)
    return clone


def ask(clone: Clone, statement: str) -> str:
    argv = ("exec", "-T", "-u", "postgres", "elsewhere", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "shop")
    return clone.compose(*argv, "-c", statement).strip()


def running(clone: Clone) -> dict[str, str]:
    return {name: one["Id"] for name, one in clone.containers().items() if one["State"]["Running"]}


def written(clone: Clone, text: str) -> list[str]:
    """Write a note; the texts of all that are there."""
    with clone.client() as client:
        assert client.post("/notes", json={"text": text}).status_code == 201
        assert client.get("/health").json()["at_head"] is True
        return [one["text"] for one in client.get("/notes").json()]


@pytest.mark.timeout(900)
def test_another_postgres(elsewhere: Clone) -> None:
    """Tried before anything is replaced. Then it alone is used, the backups' verbs refuse, and there is a way back."""
    clone, before = elsewhere, running(elsewhere)
    assert written(clone, "here") == ["here"]
    for host, sentence in WRONG.items():
        use(clone, host)
        for verb in ("up", "deploy"):
            done = clone.stack(verb)
            assert (done.returncode, running(clone)) == (2, before)
            assert sentence in done.stderr
            assert "of-the-app" not in done.stderr

    use(clone, "elsewhere")
    with Load(clone.address, paths=("/",)) as load:
        done = clone.stack("up")
        wait_until(lambda: len(load.samples) > 100)
    assert "Backups: DATABASE_URL names another Postgres" in ok(done)
    assert not load.failed, load.failed
    assert written(clone, "there") == ["there"]
    # By the roles of the two URLs, each over TLS.
    assert ask(clone, "SELECT tableowner FROM pg_tables WHERE tablename = 'notes'") == "shop_owner"
    assert ask(clone, ENCRYPTED) == "shop|t"
    assert set(running(clone)) == USED
    volume = f"{clone.project}_postgres-data"
    assert volume in run("docker", "volume", "ls", "--quiet")
    assert f"{volume} was in use before" in ok(clone.stack("volumes"))
    for words in ("backup", "backups", "verify", "restore --to latest --yes", "upgrade-postgres --yes"):
        done = clone.stack(*words.split())
        assert done.returncode == 2, done.stderr
        assert "DATABASE_URL names another Postgres: its backups are made where it runs." in done.stderr
    limits = json.loads(ok(clone.stack("plan", "--json")))["limits"]
    assert (limits["postgres"], limits["backup"]) == (0, 0)

    before = running(clone)
    assert "Nothing changed" in ok(clone.stack("up"))
    ok(clone.stack("deploy"))
    clone.compose("up", "--detach", "--wait")
    assert running(clone) == before

    use(clone, None)
    # Whichever verb comes first.
    [release] = re.findall("(?m)^RELEASE=(.*)$", clone.env_file.read_text())
    ok(clone.stack("rollback", release))
    assert written(clone, "here again") == ["here again", "here"]
    ok(clone.stack("up"))
    assert set(running(clone)) == {*USED, "postgres", "backup"}
