"""What a migration takes away: a table, a column, a name that the release before still uses, which serves beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

# What no database runs by itself: comments, what is in quotes, and the body of a function. That of DO is run, and what
# it has in quotes may be too.
UNREAD = re.compile(
    r"--[^\n]*|/\*.*?\*/|\be'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"[^\"]*\""
    r"|(?P<do>\bDO\s+(?:LANGUAGE\s+\w+\s+)?)?(\$\w*\$).*?\2",
    re.DOTALL | re.IGNORECASE,
)
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
NAME = r'(?:"[^"]+"|[\w.])+'
TABLES = rf"({NAME}(?: ?, ?{NAME})*)"
MADE = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?({NAME})", re.IGNORECASE)
ON = re.compile(
    rf"(?:ALTER|DROP) TABLE (?:IF EXISTS )?(?:ONLY )?{TABLES}|TRUNCATE (?:TABLE )?(?:ONLY )?{TABLES}", re.IGNORECASE
)
TAKES = re.compile(
    r"\b(?:DROP (?:(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW|SCHEMA|TYPE|DOMAIN|SEQUENCE)|TRUNCATE)\b"
    r"|\bALTER (?:TYPE|DOMAIN|(?:MATERIALIZED )?VIEW|SCHEMA|SEQUENCE)\b.*\b(?:RENAME|SET SCHEMA|DROP ATTRIBUTE)\b",
    re.IGNORECASE,
)
ALTER = re.compile(r'\bALTER (?:FOREIGN )?TABLE (?:IF EXISTS )?(?:ONLY )?(?:"[^"]+"|\S)+ (.*)', re.IGNORECASE)
# Of ALTER TABLE one action.
ACTION = re.compile(
    r"DROP (?!CONSTRAINT\b)|RENAME\b|SET SCHEMA\b"
    rf"|ALTER (?:COLUMN )?(?!COLUMN\b){NAME} (?:SET NOT NULL|(?:SET DATA )?TYPE)\b"
    # What an older release inserts has no such column.
    r"|ADD (?!CONSTRAINT\b|CHECK\b|FOREIGN\b|UNIQUE\b|PRIMARY\b|EXCLUDE (?:USING|\())"
    r"(?!.*\b(?:DEFAULT|GENERATED|\w*SERIAL)\b).*(?<!IS )\bNOT NULL\b",
    re.IGNORECASE,
)
# What Alembic calls the same.
CALLS = {"drop_table", "drop_column", "rename_table"}
ARGUMENTS = {"type_", "new_column_name"}


def taken_away(sql: str) -> list[str]:
    """Of these statements those that take something away from who uses what is there before them."""
    statements = [" ".join(one.split()) for one in UNREAD.sub(readable, sql).split(";")]
    made = {name for one in statements for name in MADE.findall(one)}
    return [one for one in statements if takes(one) and not of_these(one, made)]


def readable(found: re.Match[str]) -> str:
    text = found[0]
    if found["do"]:
        return COMMENT.sub(" ", text).replace("'", " ")
    return text if text[0] == '"' else " " if text[0] in "-/" else "''"


def takes(statement: str) -> bool:
    alter = ALTER.search(statement)
    return bool(TAKES.search(statement) or (alter and any(ACTION.match(one) for one in actions(alter[1]))))


def actions(text: str) -> Iterator[str]:
    """Of an ALTER TABLE, which has commas between them; those within parentheses are another's."""
    depth, one = 0, ""
    for sign in f"{text},":
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            yield one.strip()
            one = ""
        else:
            one += sign


def of_these(statement: str, made: set[str]) -> bool:
    """Whether all that it takes from was made just before."""
    on = ON.search(statement)
    return bool(on and {name.strip() for name in (on[1] or on[2]).split(",")} <= made)


def calls(revision: str) -> list[ast.Call]:
    """All that a revision's upgrade() calls."""
    functions = [one for one in ast.parse(revision).body if isinstance(one, ast.FunctionDef) and one.name == "upgrade"]
    return [node for one in functions for node in ast.walk(one) if isinstance(node, ast.Call)]


def calls_that_take_away(revision: str) -> list[str]:
    """The same of a revision's upgrade(), as Alembic writes it: op.drop_table('notes')."""
    return [ast.unparse(call) for call in calls(revision) if call_takes(call)]


def call_takes(call: ast.Call) -> bool:
    name, named = name_of(call), {one.arg for one in call.keywords}
    if name == "add_column":
        columns = [one for one in call.args if isinstance(one, ast.Call) and name_of(one) == "Column"]
        return any(is_required(one) and not has_default(one) for one in columns)
    return name in CALLS or (name == "alter_column" and (is_required(call) or bool(ARGUMENTS & named)))


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_required(call: ast.Call) -> bool:
    return any(one.arg == "nullable" and ast.unparse(one.value) == "False" for one in call.keywords)


def has_default(column: ast.Call) -> bool:
    """By a value, or because Postgres makes one."""
    made = {name_of(one) for one in column.args if isinstance(one, ast.Call)}
    return bool(made & {"Identity", "Computed"}) or any(one.arg == "server_default" for one in column.keywords)
