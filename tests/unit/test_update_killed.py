"""`./stack update` killed by kill -9: no file is left half-way."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.clones import CLEAN, Folder

# `./stack update` that ends, once it has all that it needs, before the nth thing that it does to the disk or asks git.
KILLED = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
begun = False
COUNTED = "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "subprocess.Popen"
def count(event, arguments):
    global begun, left
    begun = begun or event == "os.mkdir" and str(arguments[0]).endswith("update.new")
    if begun and event in COUNTED:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
sys.argv = ["stack", "update", "--yes", "--to", "1.1.0"]
runpy.run_path("stack", run_name="__main__")
"""


@pytest.mark.parametrize("each", [pytest.param(5, id="some"), pytest.param(1, id="every", marks=pytest.mark.long)])
def test_killed_at_any_moment(clone: Folder, tmp_path: Path, each: int) -> None:
    """The next `./stack`, whatever it is asked for, finds the old files or makes them the new ones, all of them."""
    clone.write({"app/main.py": "# mine\n"})
    old = clone.state()
    updated = Folder(tmp_path / "updated")
    shutil.copytree(clone.path, updated.path)
    updated.update("--to", "1.1.0")
    files, tree = updated.files(), updated.git("rev-parse", "HEAD^{tree}")
    found = set()
    for moment in range(1, 1000, each):
        folder = Folder(tmp_path / "killed")
        shutil.copytree(clone.path, folder.path)
        argv = [sys.executable, "-c", KILLED, str(moment)]
        done = subprocess.run(argv, cwd=folder.path, env=CLEAN, capture_output=True, text=True)
        mixed = folder.files() not in (old[0], files)
        assert folder.stack("--help").returncode == 0
        new = folder.git("rev-parse", "HEAD") != old[1]
        found.add((new, mixed))
        if new:
            assert folder.files() == files
            assert folder.git("rev-parse", "HEAD^{tree}") == tree
            assert folder.git("status", "--short") == " M app/main.py"
        else:
            assert folder.state() == old
            folder.update("--to", "1.1.0")
            assert folder.files() == files
        shutil.rmtree(folder.path)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            break
    # Before and after; and that some were seen that a kill left half-way.
    assert found == {(False, False), (True, False), (True, True)}
