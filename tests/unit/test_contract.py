"""What of a migration takes something away from the release before."""

import pytest

from ops.database.contract import calls_that_take_away, taken_away
from tests.conftest import REPO

# As Alembic and people write them.
TAKE = [
    "DROP TABLE notes",
    'drop table if exists "Notes" cascade',
    "ALTER TABLE notes DROP COLUMN text",
    "ALTER TABLE notes DROP text",
    "ALTER TABLE notes RENAME text TO body",
    "ALTER TABLE notes ALTER COLUMN text SET NOT NULL",
    "ALTER TABLE notes ALTER COLUMN id TYPE BIGINT USING id::bigint",
    "ALTER TABLE notes ADD COLUMN done BOOLEAN NOT NULL",
    "ALTER TYPE mood RENAME VALUE '' TO ''",
    "TRUNCATE notes",
    "ALTER TABLE notes ADD done BOOLEAN NOT NULL",
    "ALTER TABLE notes ADD COLUMN a NUMERIC(4, 2) NOT NULL, ADD COLUMN b INT DEFAULT 0",
    "ALTER TABLE notes ADD COLUMN a INT, DROP b",
    'ALTER TABLE "my notes" RENAME TO notes',
    "ALTER TABLE notes SET SCHEMA old",
    "ALTER TYPE mood SET SCHEMA old",
    "DROP DOMAIN mood",
    "DO $$ BEGIN DROP TABLE notes",
]
LEAVE = [
    "CREATE TABLE notes (id SERIAL NOT NULL, text TEXT NOT NULL, PRIMARY KEY (id))",
    "CREATE TABLE b (id INT); ALTER TABLE b ALTER COLUMN id SET NOT NULL; DROP TABLE b",
    "CREATE TABLE b (id INT); CREATE TABLE c (id INT); DROP TABLE b, c",
    "ALTER TABLE notes ADD COLUMN done BOOLEAN",
    "ALTER TABLE notes ADD COLUMN a INT, ADD CONSTRAINT c CHECK (a IS NOT NULL OR f(a, b) IN (1, 2)), ADD b INT",
    "INSERT INTO notes VALUES (E'it\\'s; DROP TABLE notes')",
    "INSERT INTO notes VALUES ($$DROP TABLE notes$$) ON CONFLICT DO NOTHING",
    "ALTER TABLE notes ADD COLUMN done BOOLEAN DEFAULT false NOT NULL",
    "ALTER TABLE notes ADD COLUMN number BIGSERIAL NOT NULL",
    "ALTER TABLE notes ADD CONSTRAINT c CHECK (text IS NOT NULL) NOT VALID; ALTER TABLE notes VALIDATE CONSTRAINT c",
    "ALTER TABLE notes ALTER COLUMN text DROP NOT NULL; ALTER TABLE notes ALTER type DROP DEFAULT",
    "ALTER TABLE notes ALTER COLUMN type SET DEFAULT 1; ALTER TABLE notes DROP CONSTRAINT c; DROP INDEX i",
    "ALTER TYPE mood ADD VALUE 'drop table'",
    "-- DROP TABLE notes\nSELECT 'DROP TABLE notes' /* DROP TABLE notes */",
    "CREATE FUNCTION f() RETURNS trigger AS $f$ BEGIN DROP TABLE notes; END $f$ LANGUAGE plpgsql",
    "UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001'",
]


@pytest.mark.parametrize("statement", TAKE)
def test_statement_that_takes_away(statement: str) -> None:
    """It is given back, in one line, and nothing of what stands around it."""
    [found] = taken_away(
        f"BEGIN;\n\n-- Running upgrade 0001 -> 0002\n\n{statement.replace(' ', chr(10), 1)};\n\nCOMMIT;"
    )
    assert statement.startswith(found)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("INSERT INTO notes VALUES (E'it\\'s'); DROP TABLE notes; SELECT ''", "DROP TABLE notes"),
        ("do\n$do$ BEGIN EXECUTE 'DROP TABLE notes'; END $do$", "do $do$ BEGIN EXECUTE DROP TABLE notes"),
        ("DO $$ BEGIN EXECUTE format('ALTER TABLE %I DROP a', 'notes'); END $$", "DO $$ BEGIN EXECUTE format( ALTER"),
        ("DO LANGUAGE plpgsql $$ BEGIN /* ' */ DROP TABLE notes; END $$", "DO LANGUAGE plpgsql $$ BEGIN DROP TABLE"),
        ("CREATE TABLE b (id INT); DROP TABLE b, notes", "DROP TABLE b, notes"),
    ],
)
def test_statement_that_is_not_alone(sql: str, said: str) -> None:
    """Behind a quote with a backslash, in a block that runs what is in quotes, beside a table that was just made."""
    [found] = taken_away(f"{sql};")
    assert found.startswith(said)


@pytest.mark.parametrize("statement", LEAVE)
def test_statement_that_takes_nothing_away(statement: str) -> None:
    """What is added, or in a comment, a text or a function's body."""
    assert taken_away(f"BEGIN;\n\n{statement};\n\nCOMMIT;") == []


def test_calls_of_a_revision() -> None:
    """In upgrade() alone: each downgrade takes away what its upgrade added."""
    changes = REPO / "tests/migrations/changes"
    assert calls_that_take_away((changes / "02_add_column.py").read_text()) == []
    text = (
        "def upgrade():\n    op.drop_table('notes')\n    op.alter_column('a', 'b', nullable=False)\n"
        "    op.alter_column('a', 'b', nullable=True)\n    with op.batch_alter_table('a') as batch:\n"
        "        batch.drop_column('c')\n    op.add_column('a', sa.Column('b', sa.Integer(), nullable=False))\n"
        "    op.add_column('a', sa.Column('b', sa.Integer(), server_default='1', nullable=False))\n"
        "    op.add_column('a', sa.Column('b', sa.Integer(), sa.Identity(), nullable=False))\n"
        "\ndef downgrade():\n    op.drop_table('d')\n"
    )
    assert calls_that_take_away(text) == [
        "op.drop_table('notes')",
        "op.alter_column('a', 'b', nullable=False)",
        "op.add_column('a', sa.Column('b', sa.Integer(), nullable=False))",
        "batch.drop_column('c')",
    ]
