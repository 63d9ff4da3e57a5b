"""Whether text is still sorted as it was when it was written: a newer base image may bring other rules."""

from collections.abc import Callable

Ask = Callable[[str], list[list[str]]]
DATABASES = """
SELECT pg_catalog.quote_ident(datname), pg_catalog.pg_get_userbyid(datdba), datcollversion, now FROM
    (SELECT *, pg_catalog.pg_database_collation_actual_version(oid) AS now FROM pg_catalog.pg_database) AS databases
WHERE datallowconn AND datcollversion <> now ORDER BY 1
"""
# Those that a column or an index of somebody's names.
NAMED = """
SELECT pg_catalog.format('%I.%I', nspname, collname), collversion, pg_catalog.pg_collation_actual_version(c.oid)
FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = collnamespace
WHERE collversion <> pg_catalog.pg_collation_actual_version(c.oid)
    AND EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attcollation = c.oid AND attrelid >= 16384) ORDER BY 1
"""
WORDS = (
    "was sorted by version {} of its rules, and this image has {}: an index on text may miss rows. Mend it with:\n   "
)
# It ends at the first error, or an index that was not made anew would count as good. The role `owner` waits for a lock
# for a second; here it waits for every transaction that is open.
PSQL = "docker compose exec -u {} postgres psql -v ON_ERROR_STOP=1 {} -c 'SET lock_timeout = 0'"


def databases(ask: Ask) -> list[str]:
    """A sentence for each database whose own rules have changed, with the command that mends it."""
    return [
        f"Text in the database {name} {WORDS.format(was, now)} {PSQL.format(role, name)} "
        f"-c 'REINDEX DATABASE CONCURRENTLY {name}' -c 'ALTER DATABASE {name} REFRESH COLLATION VERSION'"
        for name, role, was, now in ask(DATABASES)
    ]


def named(ask: Ask) -> list[str]:
    """The same for the collations that the database `app` names."""
    return [
        f"Text with COLLATE {name} {WORDS.format(was, now)} {PSQL.format('owner', 'app')} "
        f"-c 'REINDEX DATABASE CONCURRENTLY app' && {PSQL.format('postgres', 'app')} "
        f"-c 'ALTER COLLATION {name} REFRESH VERSION'"
        for name, was, now in ask(NAMED)
    ]
