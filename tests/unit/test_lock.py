"""Whose a file is that `./stack` may not use."""

import os
from pathlib import Path

from ops.lock import denied, user_name


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """The folder is named where it would be."""
    me = user_name(os.geteuid())
    said = f"{tmp_path} belongs to {me}, and {me} may not read or write it. Run this as {me}."
    assert str(denied(tmp_path / "migrations/0002.py")) == said
