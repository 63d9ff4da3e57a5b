"""The runtime installed into a folder of a machine's, where there is no container."""

import os
import subprocess
import sys
from pathlib import Path

from runtime import install
from tests.conftest import REPO


def install_into(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(REPO / "runtime/install.py"), str(folder)]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def test_folder_that_is_there_already(tmp_path: Path) -> None:
    """One for each release: a release that serves is never written over, and the image's place is the image's."""
    for taken in (tmp_path, install.IMAGE):
        done = install_into(taken)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{taken} is there already, or is an image's: ")


def test_installation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """It can be tried again under the same name."""
    away = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = install_into(tmp_path / "stack", **away)
    assert done.returncode == 1
    assert done.stderr.startswith("The stack's packages can't be installed for ")
    assert not (tmp_path / "stack").exists()
