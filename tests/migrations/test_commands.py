"""What may migrate: any command, with whatever it needs, and nothing."""

import re
import time
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database
from tests.migrations.runs import WHOLE, bare, build

# A command that knows nothing of Alembic.
SCRIPT = """\
echo "to stdout: $1"
echo "to stderr" >&2
printf 'no UTF-8: \\377\\n'
exit {code}
"""
# From a command of the same role.
END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database() AND usename = current_user"
)


def test_any_command(empty: Database, tmp_path: Path) -> None:
    """Its output and its exit code are passed on."""
    app = bare(tmp_path, empty)
    for code in (0, 7):
        (tmp_path / "prestart.sh").write_text(SCRIPT.format(code=code))
        found, said = app.run(MIGRATE="sh prestart.sh 'two words'", MIGRATE_DEADLINE="20")
        assert found == code
        lines = said.splitlines()
        assert lines[:3] == ["to stdout: two words", "to stderr", "no UTF-8: \ufffd"]
        assert lines[-1] == ("Failed: sh prestart.sh 'two words'." if code else "The migration's command ran.")


def test_timeouts_reach_every_libpq(empty: Database, tmp_path: Path) -> None:
    """Beside what PGOPTIONS says already."""
    (tmp_path / "show.py").write_text(
        "import os, psycopg\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as connection:\n"
        "    for name in ('lock_timeout', 'statement_timeout', 'work_mem'):\n"
        "        print(name, connection.execute(f'SHOW {name}').fetchone()[0])\n"
    )
    app = bare(tmp_path / "app", empty)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGOPTIONS", "-c work_mem=5MB")
        code, said = app.run(MIGRATE=f"python {tmp_path}/show.py", MIGRATE_DEADLINE="20")
    assert (code, said.splitlines()[:3]) == (0, ["lock_timeout 1s", "statement_timeout 20s", "work_mem 5MB"])


def test_command_that_a_signal_ended(empty: Database, tmp_path: Path) -> None:
    """It has failed."""
    (tmp_path / "end.sh").write_text("kill -9 $$\n")
    code, said = bare(tmp_path / "app", empty).run(MIGRATE=f"sh {tmp_path}/end.sh")
    assert (code, said) == (1, f"Failed: sh {tmp_path}/end.sh.\n")


def test_command_that_is_not_there(empty: Database, tmp_path: Path) -> None:
    """It is a wrong setting, and one sentence."""
    found = bare(tmp_path, empty).run(MIGRATE="alembik upgrade head")
    assert found == (2, "MIGRATE=alembik upgrade head is wrong: alembik: No such file or directory.\n")


@pytest.mark.parametrize("setting", [{"MIGRATE": "none"}, {}], ids=["none", "no configuration"])
def test_nothing_to_migrate(empty: Database, tmp_path: Path, setting: dict[str, str]) -> None:
    """`none`, or an app without Alembic: a success, which needs no database."""
    app = bare(tmp_path, empty)
    app.url = "postgresql://nowhere.invalid/none"
    assert app.run(**setting) == (0, "There is no migration: MIGRATE names a command.\n")


def test_wrong_setting_is_one_sentence(empty: Database, tmp_path: Path) -> None:
    """2, as for a slot."""
    found = bare(tmp_path, empty).run(MIGRATE_DEADLINE="soon")
    assert found == (2, "MIGRATE_DEADLINE=soon is wrong: it must be a number from 0.1 to 86400.\n")


def test_database_whose_name_is_not_known_yet(empty: Database, tmp_path: Path) -> None:
    """It is waited for as one that is away, until MIGRATE_DEADLINE, and the reason is said."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.url = "postgresql://owner@nowhere.invalid/app"
    begun = time.monotonic()
    code, said = app.run(MIGRATE_DEADLINE="2")
    waiting, failure = said.splitlines()
    assert (code, waiting) == (1, "Waiting for the database.")
    assert failure.startswith("The database can't be reached: ")
    assert "nowhere.invalid" in failure
    assert time.monotonic() - begun >= 2


def test_database_that_is_away_is_waited_for(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """A Postgres that starts later than the migration."""
    if not empty.server:
        pytest.skip("needs a server of our own")
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    owner.close()
    empty.server.stop()
    try:
        run = app.start()
        run.wait_for("Waiting for the database.")
    finally:
        empty.server.start()
    assert run.said().endswith("The schema went from the base to a.\n")
    assert run.returncode == 0


def test_database_that_stays_away(empty: Database, tmp_path: Path) -> None:
    """At the deadline it is a failure with the reason."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.url = f"postgresql://owner@/app?host={tmp_path}/nowhere"
    code, said = app.run(MIGRATE_DEADLINE="1")
    assert code == 1
    waiting, failed = said.splitlines()
    assert waiting == "Waiting for the database."
    assert failed.startswith("The database can't be reached: ")
    assert "No such file or directory" in failed


def test_database_that_refuses(empty: Database, tmp_path: Path) -> None:
    """A role that is not there, a password that is wrong: no wait changes it, and the reason is Postgres's own."""
    if not empty.server:
        pytest.skip("needs a server of our own")
    app = bare(tmp_path, empty)
    app.url = empty.server.url("nobody")
    begun = time.monotonic()
    code, said = app.run(MIGRATE="true", MIGRATE_DEADLINE="30")
    assert time.monotonic() - begun < 20
    assert code == 1
    assert said.startswith("The database can't be reached: ")
    assert "no pg_hba.conf entry" in said


def test_database_that_goes_away_meanwhile(empty: Database, tmp_path: Path) -> None:
    """The revision is named all the same, and no traceback is the wrapper's own."""
    if not empty.server:
        pytest.skip("needs a server of our own")
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT pg_sleep(3600)"))
    run = app.start()
    run.wait_for("-> a")
    empty.server.stop()
    try:
        said = run.said()
    finally:
        empty.server.start()
    assert run.returncode == 1
    assert said.endswith("Failed: upgrade -> a. The schema is at the last whole revision: the database is away.\n")
    assert "runtime/migrate.py" not in said


def test_connection_that_ends_while_the_command_runs(empty: Database, tmp_path: Path) -> None:
    """The wrapper's own was idle, and is cut off: the migration has succeeded, and what it did is written down."""
    app = build(tmp_path, empty, a=WHOLE.format("a", END_OTHERS))
    code, said = app.run()
    assert (code, said.splitlines()[-1]) == (0, "The schema went from the base to a.")
    with psycopg.connect(empty.owner_url) as connection:
        row = connection.execute("SELECT obj_description('alembic_version'::regclass, 'pg_class')").fetchone()
    assert row == ("Contains the revisions a",)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://me:secret@db/shop?ssl=require", 'invalid URI query parameter: "ssl"'),
        ("postgresql://me:sec%zzret@db/shop", "invalid percent-encoded token: …"),
        ("postgresql://me:secret@[::1/shop", "end of string reached when looking for matching …"),
    ],
)
def test_url_that_libpq_cannot_read(empty: Database, tmp_path: Path, url: str, why: str) -> None:
    """One sentence, with no password in it."""
    app = bare(tmp_path, empty)
    app.url = url
    assert app.run(MIGRATE="true") == (2, f"DATABASE_URL is wrong: libpq can't read it: {why}.\n")


def test_url_with_a_driver_of_sqlalchemys(empty: Database, tmp_path: Path) -> None:
    """The app's own DATABASE_URL is the migration's too."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.url = empty.owner_url.replace("postgresql:", "postgresql+psycopg:")
    app.migrate()


def test_several_heads(empty: Database, owner: psycopg.Connection, tmp_path: Path) -> None:
    """All of them are migrated to."""
    app = build(tmp_path, empty, a='op.execute("CREATE TABLE a (id int)")')
    text = (tmp_path / "migrations/versions/a.py").read_text()
    (tmp_path / "migrations/versions/b.py").write_text(re.sub(r"\ba\b", "b", text))
    assert app.run(call="install.record_revisions()") == (0, "")
    code, said = app.run()
    assert (code, said.splitlines()[-1]) == (0, "The schema went from the base to a, b.")


def test_program_in_the_environment_of_a_migration(empty: Database, tmp_path: Path) -> None:
    """`alembic current`, `python -m shop.seed`: it becomes that, as the owner, and without a lock."""
    app = build(tmp_path, empty, a=WHOLE.format("a", "SELECT 1"))
    app.migrate()
    run = app.start("alembic", "current", call="migrate.run()")
    assert run.communicate(timeout=60)[0] == "a (head)\n"
    assert run.returncode == 0
    assert app.run("alembik", call="migrate.run()") == (2, "alembik can't be run: No such file or directory.\n")
