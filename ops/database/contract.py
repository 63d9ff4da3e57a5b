"""What a migration takes away: a table, a column, a name that the release before still uses, which serves beside it."""

from __future__ import annotations

import ast
import re

# What no database runs by itself: comments, what is in quotes, and the body of a function, though not that of DO.
UNREAD = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|(?<!\bDO )(\$\w*\$).*?\1", re.DOTALL)
NAME = r'(?:"[^"]+"|[\w.])+'
MADE = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?({NAME})", re.IGNORECASE)
ON = re.compile(rf"(?:ALTER|DROP) TABLE (?:IF EXISTS )?(?:ONLY )?({NAME})|TRUNCATE (?:TABLE )?({NAME})", re.IGNORECASE)
TAKES = re.compile(
    r"\b(?:DROP (?:TABLE|VIEW|MATERIALIZED VIEW|SCHEMA|TYPE|SEQUENCE)|TRUNCATE)\b"
    r"|\bALTER (?:TABLE|TYPE|VIEW|MATERIALIZED VIEW|SCHEMA|SEQUENCE)\b.*\bRENAME\b"
    r"|\bALTER TABLE\b.*\bDROP (?:COLUMN\b|(?!CONSTRAINT\b|DEFAULT\b|NOT NULL\b|IDENTITY\b|EXPRESSION\b)\w)"
    rf"|\bALTER TABLE\b.*\bALTER (?:COLUMN )?(?!COLUMN\b){NAME} (?:SET NOT NULL|(?:SET DATA )?TYPE)\b"
    # What an older release inserts has no such column.
    r"|\bALTER TABLE\b.*\bADD COLUMN\b(?!.*\b(?:DEFAULT|GENERATED|\w*SERIAL)\b).*(?<!IS )\bNOT NULL\b",
    re.IGNORECASE | re.DOTALL,
)
# What Alembic calls the same.
CALLS = {"drop_table", "drop_column", "rename_table"}
ARGUMENTS = {"type_", "new_column_name"}


def taken_away(sql: str) -> list[str]:
    """Of these statements those that take something away from who uses what is there before them."""
    read = UNREAD.sub(lambda it: "''" if it[0][0] in "'$" else " ", sql)
    statements = [" ".join(one.split()) for one in read.split(";")]
    made = {name for one in statements for name in MADE.findall(one)}
    found = []
    for one in statements:
        on = ON.search(one)
        if TAKES.search(one) and not (on and (on[1] or on[2]) in made):
            found.append(one)
    return found


def calls_that_take_away(revision: str) -> list[str]:
    """The same of a revision's upgrade(), as Alembic writes it: op.drop_table('notes')."""
    functions = [one for one in ast.parse(revision).body if isinstance(one, ast.FunctionDef) and one.name == "upgrade"]
    calls = [node for one in functions for node in ast.walk(one) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if takes(call)]


def takes(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", "")
    named = {one.arg: one.value for one in call.keywords}
    required = isinstance(named.get("nullable"), ast.Constant) and ast.unparse(named["nullable"]) == "False"
    return name in CALLS or (name == "alter_column" and (required or bool(ARGUMENTS & named.keys())))
