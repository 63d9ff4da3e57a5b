"""DATABASE_URL: the app's database is another Postgres, and the stack's own has nothing to do with it."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.stack.backups import ok
from tests.stack.load import Load
from tests.stack.stacks import Clone, base_images, run, wait_until

USED = {"traefik", "app-1", "app-2"}


@pytest.fixture(scope="module")
def elsewhere(clone: Clone) -> Iterator[str]:
    """A Postgres that is reached by TCP, beside a stack that serves with its own; its URL."""
    ok(clone.stack("up"))
    name = f"{clone.project}-elsewhere"
    options = {
        "network": f"{clone.project}_web",
        "network-alias": "elsewhere",
        "user": "postgres",
        "tmpfs": "/var/lib/postgresql:mode=1777",
        "env": "POSTGRES_HOST_AUTH_METHOD=trust",
    }
    given = [f"--{option}={value}" for option, value in options.items()] + ["--env=POSTGRES_DB=app"]
    command = (base_images()["POSTGRES_IMAGE"], "postgres", "-c", "listen_addresses=*")
    run("docker", "run", "--detach", "--rm", "--name", name, *given, *command)
    try:
        asked = ("docker", "exec", name, "psql", "-XqAt", "-h", "127.0.0.1", "-U", "postgres", "-c", "SELECT 1", "app")
        wait_until(lambda: run(*asked, check=False) == "1\n", 60)
        # The official image lets everybody in by itself.
        access = 'echo "host all all all trust" >> "$PGDATA/pg_hba.conf"; pg_ctl reload'
        run("docker", "exec", name, "sh", "-c", access)
        yield "postgresql://postgres@elsewhere/app"
    finally:
        run("docker", "rm", "--force", "--volumes", name)


def use(clone: Clone, url: str | None) -> None:
    text = re.sub(r"(?m)^DATABASE_URL=.*\n", "", clone.env_file.read_text())
    clone.env_file.write_text(text + (f"DATABASE_URL={url}\n" if url else ""))


def running(clone: Clone) -> dict[str, str]:
    return {name: one["Id"] for name, one in clone.containers().items() if one["State"]["Running"]}


def written(clone: Clone, text: str) -> list[str]:
    """Write a note; the texts of all that are there."""
    with clone.client() as client:
        assert client.post("/notes", json={"text": text}).status_code == 201
        return [one["text"] for one in client.get("/notes").json()]


@pytest.mark.timeout(600)
def test_another_postgres(clone: Clone, elsewhere: str) -> None:
    """Tried before anything is replaced. Then it alone is used, the backups' verbs refuse, and there is a way back."""
    before = running(clone)
    assert written(clone, "here") == ["here"]
    for verb in ("up", "deploy"):
        use(clone, "postgresql://postgres@nowhere.invalid/app")
        done = clone.stack(verb)
        assert (done.returncode, running(clone)) == (2, before)
        assert "DATABASE_URL is wrong: the database can't be used: " in done.stderr

    use(clone, elsewhere)
    with Load(clone.address, paths=("/",)) as load:
        done = clone.stack("up")
        wait_until(lambda: len(load.samples) > 100)
    assert "Backups: DATABASE_URL names another Postgres" in ok(done)
    assert not load.failed, load.failed
    assert written(clone, "there") == ["there"]
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
    ok(clone.stack("up"))
    assert written(clone, "here again") == ["here again", "here"]
    assert set(running(clone)) == {*USED, "postgres", "backup"}
