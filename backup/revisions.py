"""Whether the code that is here knows the schema of a database."""

import re
from pathlib import Path

FOLDER = Path("/revisions")


def unknown(revision: str | None) -> list[str]:
    """A warning when the code in migrations/ doesn't know the revision; none when it can't be read."""
    try:
        texts = [path.read_text() for path in FOLDER.glob("*.py")]
    except OSError:
        return []
    known = {name for text in texts for name in re.findall(r'^revision(?:: str)? = ["\'](\w+)', text, re.MULTILINE)}
    if not revision or not known or set(revision.split()) <= known:
        return []
    return [
        f"The schema is at revision {revision}, which the code in migrations/ doesn't know: "
        "deploy the release that it is of, or a newer one."
    ]
