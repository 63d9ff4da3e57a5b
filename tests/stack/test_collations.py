"""How text is sorted: by rules of Postgres's own, and a change of any other's is seen."""

import shlex
import threading

from tests.stack.backups import ok
from tests.stack.stacks import Clone, wait_until

SPOILED = (
    "UPDATE pg_catalog.pg_database SET datcollversion = '0' WHERE datname = 'app'",
    "UPDATE pg_catalog.pg_collation SET collversion = '0' WHERE collname IN ('de-x-icu', 'en-x-icu')",
)


# Holds a lock that REINDEX waits for, longer than the role `owner` waits for one.
HELD = "BEGIN; INSERT INTO sorted VALUES ('held'); SELECT pg_sleep(3); COMMIT"
IS_HELD = "SELECT count(*) FROM pg_locks WHERE relation = 'sorted'::regclass AND mode = 'RowExclusiveLock'"


def mend(clone: Clone, said: str) -> None:
    """Run the commands that the sentences end with."""
    for line in said.splitlines():
        for command in line.split(" && "):
            if command.strip().startswith("docker compose "):
                clone.compose("exec", "-T", *shlex.split(command)[3:])


def test_new_cluster_needs_no_library(backed_up: Clone) -> None:
    """Every database of a new stack has the builtin rules, and its text is UTF-8."""
    found = backed_up.psql("SELECT DISTINCT datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database")
    assert found == "b|C.UTF-8|UTF8"


def test_other_rules_are_found(backed_up: Clone) -> None:
    """`up` and `verify` name the database, `verify` also a collation that a column has; their commands mend it.

    Beside a transaction that is open too: the commands wait for its end.
    """
    backed_up.psql('CREATE TABLE sorted (word text COLLATE "de-x-icu" PRIMARY KEY)')
    for statement in SPOILED:
        backed_up.psql(statement, "postgres")
    try:
        up, verified = ok(backed_up.stack("up")), backed_up.stack("verify")
        assert "Text in the database app was sorted by version 0 of its rules, and this image has 1: " in up
        assert verified.returncode == 0
        assert verified.stderr.count("Text in the database app ") == 1
        assert 'Text with COLLATE pg_catalog."de-x-icu" was sorted by version 0 of its rules' in verified.stderr
        assert "en-x-icu" not in verified.stderr
        held = threading.Thread(target=backed_up.psql, args=(HELD,))
        held.start()
        wait_until(lambda: backed_up.psql(IS_HELD) != "0")
        mend(backed_up, verified.stderr)
        held.join()
        assert backed_up.psql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"
        assert "was sorted by" not in ok(backed_up.stack("up"))
        assert "was sorted by" not in backed_up.stack("verify").stderr
    finally:
        backed_up.psql("DROP TABLE sorted")
