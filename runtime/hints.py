"""What to do about errors that an app has in this container and not elsewhere, once each, behind its own words."""

import logging
import os
import re
import sys

from . import lines

# Of whatever Postgres.
HINTS = {
    r"Read-only file system": (
        "The container's file system is read-only but for /tmp: a variable in app.env may lead the app there."
    ),
    r"No module named 'psycopg2?'|The loaded 'psycopg2?' is not async": (
        "SQLAlchemy takes psycopg for a postgresql:// URL. For asyncpg write into app.env: "
        "DATABASE_URL=postgresql+asyncpg://{rest}"
    ),
    r"cannot import name '\w+' from '\w+' \([^)]*/lib/python[\d.]+/\w+\.py\)": (
        "That is Python's own module. A file of the app's with that name is found once its folder has an __init__.py, "
        "as a part of it: from app.profile import …"
    ),
    # Poetry keeps its environments in a cache, unless it is told otherwise.
    r"No module named 'fastapi'": (
        "The image's Python, {python}, has no FastAPI. If your packages are in a virtual environment, name it in the "
        "Dockerfile: ENV VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:$PATH. For Poetry put a line before it installs: "
        "ENV POETRY_VIRTUALENVS_IN_PROJECT=1."
    ),
}
# Of the stack's own alone: another's roles and databases have names of their own.
OWN = {
    r"permission denied for (?:schema|database)|must be owner of": (
        "The role app may not change the schema. Put whatever changes it, such as create_all, into the migration: "
        "set MIGRATE in .env."
    ),
    r"Peer authentication failed": (
        "Postgres knows this container as the role {role}: leave the user out of the URL, or connect to "
        "127.0.0.1:5432, where any will do."
    ),
    r'no pg_hba\.conf entry .*database "(?!app")|database "(?!app")[^"]*" does not exist': (
        "The one database is called app."
    ),
    r"Can't locate revision identified by": (
        "The database is at a revision that this code does not have: deploy the code that has it. Only if the data "
        "may be lost, as the sample's: `docker compose down --volumes` deletes the database and its backups."
    ),
}
told: "set[str]" = set()


def say(words: str) -> None:
    """Print the hints to what these words say, those that were not printed before."""
    own = not (os.environ.get("STACK_DATABASE_URL") or os.environ.get("STACK_DATABASE_URL_FILE"))
    named = {"role": os.environ.get("STACK_ROLE", "app"), "rest": "app:x@127.0.0.1:5432/app" if own else "…"}
    named["python"] = sys.executable
    for pattern, hint in (HINTS | OWN if own else HINTS).items():
        if hint not in told and re.search(pattern, words):
            told.add(hint)
            lines.say(hint.format(**named))


class Handler(logging.Handler):
    """Prints them behind what Uvicorn logs of an app that can't start, or of a request that failed."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:
            self.handleError(record)
