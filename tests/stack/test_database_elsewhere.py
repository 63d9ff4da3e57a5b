"""Another Postgres than the stack's own, over TLS and with passwords: as a managed one is reached."""

from collections.abc import Iterator

import pytest

from tests.stack.backups import ok
from tests.stack.stacks import Clone, run, wait_until

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


def urls(host: str) -> dict[str, str]:
    """What a user writes into .env; the authority's certificate is in the app's image."""
    rest = f"{host}/shop?sslmode=verify-full&sslrootcert=/code/app/authority.pem"
    return {
        "DATABASE_URL": f"postgresql://shop:of-the-app@{rest}",
        "MIGRATION_DATABASE_URL": f"postgresql://shop_owner:of-the-owner@{rest}",
    }


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


def health(clone: Clone) -> object:
    with clone.client() as client:
        return client.get("/health").json().get("at_head")


@pytest.fixture
def moved(elsewhere: Clone) -> Iterator[Clone]:
    """The stack after `./stack up` with the other one in .env."""
    before = elsewhere.env_file.read_text()
    with elsewhere.env_file.open("a") as env:
        env.write("".join(f"{name}={value}\n" for name, value in urls("elsewhere").items()))
    ok(elsewhere.stack("up"))
    yield elsewhere
    elsewhere.env_file.write_text(before)


def test_another_postgres_over_tls(moved: Clone) -> None:
    """It is migrated and served from, by the roles of its URLs, each over TLS; a deploy does so, too."""
    assert health(moved) is True
    with moved.client() as client:
        assert client.post("/notes", json={"text": "elsewhere"}).status_code == 201
        assert [note["text"] for note in client.get("/notes").json()] == ["elsewhere"]
    assert (
        ask(moved, "SELECT text, tableowner FROM notes, pg_tables WHERE tablename = 'notes'") == "elsewhere|shop_owner"
    )
    encrypted = "SELECT DISTINCT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename ~ 'shop'"
    assert ask(moved, encrypted) == "shop|t"
    ok(moved.stack("deploy"))
    assert health(moved) is True


@pytest.mark.parametrize("verb", ["up", "deploy"])
def test_another_postgres_whose_certificate_is_wrong(moved: Clone, verb: str) -> None:
    """It is said before anything is replaced, and what served goes on."""
    done = moved.stack(verb, **urls("other"))
    assert done.returncode == 2
    assert 'server certificate for "elsewhere" does not match host name "other"' in done.stderr
    assert "of-the-app" not in done.stderr
    assert health(moved) is True
