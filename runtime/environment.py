"""What the app finds in its environment and on its path, whatever its image is."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from .settings import SOCKET_FOLDER, Settings

# The folder that runtime/install.py made, by this file's own place.
STACK = Path(__file__).parents[2]
# Elsewhere a supervisor of the machine's runs what is here: docs/supervisors.md.
IN_IMAGE = Path("/opt/stack") == STACK
# Where what is found nowhere else may be written: the container's root is read-only.
WRITABLE = "/tmp"  # noqa: S108 - a tmpfs of the container
# Who a program is to Postgres, by the number that it runs as: postgres/Dockerfile.
OWNER, OWNER_UID = "owner", 10002
CACHES = {"XDG_CACHE_HOME": ".cache", "HF_HOME": ".cache/huggingface", "MPLCONFIGDIR": ".cache/matplotlib"}


def prepare(chosen: Settings, role: str) -> None:
    """Hand over the database as this role, and folders that can be written to. What is set already stays."""
    os.environ.setdefault("DATABASE_URL", chosen.url(role))
    if not chosen.database_url:
        for name, value in (("PGHOST", SOCKET_FOLDER), ("PGUSER", role), ("PGDATABASE", "app")):
            os.environ.setdefault(name, value)
    # For the way to Postgres by TCP.
    os.environ["STACK_ROLE"] = role
    if not os.access(os.environ.get("HOME", "/nowhere"), os.W_OK):
        os.environ["HOME"] = WRITABLE
    os.environ.setdefault("TMPDIR", WRITABLE)
    for name, folder in CACHES.items():
        os.environ.setdefault(name, f"{os.environ['HOME']}/{folder}")
    # The app's own programs, Alembic among them, beside its Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"


def role() -> str:
    """The role that this process connects as: the schema's owner's for a migration's user, else the app's."""
    return OWNER if os.getuid() == OWNER_UID else "app"


def libpq_url() -> str:
    """The app's database for the stack's own connections: without a driver's name, which SQLAlchemy alone reads."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", os.environ["DATABASE_URL"])


def find_libraries() -> None:
    """Put the stack's own behind all of the app's on the path: where both have one, the app's is used.

    Uvicorn alone, where the app's is too old, comes before it: runtime/install.py.
    """
    sys.path.append(str(STACK / "lib"))
    if (STACK / "first").exists():
        sys.path.insert(1, str(STACK / "first"))


def unread(error: Exception) -> str:
    """What libpq says of a URL that it can't read, without what it quotes of it: a password may be there."""
    return re.sub(r'".*[@%].*"', "…", " ".join(str(error).split()))


def migrations() -> dict[str, Any]:
    """What Alembic knew of the app's revisions when the image was built; {} without Alembic.

    `heads`: their names; `graph`: each revision's parents, by its name; `versions`: the folder, from the working
    directory on.
    """
    file = STACK / "migrations.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def show() -> int:
    """Print what `migrations` gives, for `./stack`."""
    print(json.dumps(migrations()))
    return 0
