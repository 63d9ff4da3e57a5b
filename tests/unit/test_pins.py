"""The pinned packages can be had on other processors."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

PLATFORMS = [f"manylinux{version}_aarch64" for version in ("2014", "_2_17", "_2_24", "_2_27", "_2_28")]
WHEELS = ("--no-deps", "--only-binary", ":all:", "--python-version", "3.14", "--implementation", "cp")


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    ["runtime/lib.txt", "runtime/db.txt", "runtime/pip.txt", "backup/requirements.txt", "offline/requirements.txt"],
)
def test_aarch64(path: str, tmp_path: Path) -> None:
    """Each has a wheel for it, whose hash is among the pinned ones."""
    platforms = [word for one in PLATFORMS for word in ("--platform", one)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", *WHEELS, *platforms]
    argv += ["--dest", str(tmp_path), "--requirement", path]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
