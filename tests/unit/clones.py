"""A repository of the stack's with several versions, and clones of it."""

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPO

WHO = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main")
CLEAN = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
# What `./stack` needs to run, and a file or two of each kind.
COPIED = (
    "stack",
    "ops",
    "offline",
    "runtime",
    "lock",
    "traefik",
    "backup",
    "compose.yaml",
    ".gitignore",
    ".gitattributes",
)
NEWS = """# Changelog

## Unreleased

Nothing yet.

## 1.2.0 - 2027-02-01

### Added
- A thing.

### You must
- Set THING=1 in .env.

## 1.1.0 - 2027-01-01

### Changed
- Another thing.

## 1.0.0 - 2026-11-26

- The first.
"""


@dataclass
class Folder:
    """A repository's folder."""

    path: Path

    def git(self, *argv: str) -> str:
        done = subprocess.run(
            ["git", *WHO, *argv], cwd=self.path, env=CLEAN, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip("\n")

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)

    def commit(self, files: dict[str, str], *removed: str, message: str = "A change") -> str:
        self.write(files)
        for name in removed:
            self.git("rm", "--quiet", name)
        for name in files:
            self.git("add", "--force", name)
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new))

    def stack(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "stack", *arguments]
        done = subprocess.run(argv, cwd=self.path, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        print(*argv, done.stdout, done.stderr, sep="\n")
        return done

    def update(self, *arguments: str) -> str:
        """What an update that succeeds prints."""
        done = self.stack("update", "--yes", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str, code: int = 1) -> str:
        """What an update that fails says; that it changed nothing at all is seen to."""
        before = self.state()
        done = self.stack("update", "--yes", *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert self.state() == before
        return done.stderr

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file that isn't git's or the command's own: its permissions and its content."""
        found = (one for one in self.path.rglob("*") if one.is_file() and not one.is_symlink())
        names = {str(one.relative_to(self.path)): one for one in found}
        return {
            name: (stat.S_IMODE(one.stat().st_mode), one.read_bytes())
            for name, one in names.items()
            if not name.startswith((".git/", ".stack/"))
        }

    def state(self) -> tuple[dict[str, tuple[int, bytes]], str, str, str]:
        return (
            self.files(),
            self.git("rev-parse", "HEAD"),
            self.git("ls-files", "--stage"),
            self.git("status", "--short"),
        )


def make_upstream(path: Path) -> Folder:
    """The stack's repository: 1.0.0, a commit (the branch `between`), 1.1.0, 1.2.0, and a candidate for 2.0.0."""
    folder = Folder(path)
    folder.git("init", "--quiet")
    for name in COPIED:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, folder.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, folder.path / name)
    lines = "".join(f"line {number}\n" for number in range(1, 21))
    folder.write(
        {
            "VERSION": "1.0.0\n",
            "CHANGELOG.md": NEWS.partition("## 1.2.0")[0],
            "docs/lines.md": lines,
            "README.md": "Us\n",
        }
        | {
            "app/main.py": "# the sample\n",
            "requirements.txt": "fastapi\n",
            "docs/old.md": f"old\n{lines}",
            "k/gone": "",
        }
    )
    folder.git("add", "--all")
    folder.git("commit", "--quiet", "--message", "First")
    folder.git("tag", "v1.0.0")
    folder.edit("docs/lines.md", "line 10\n", "line ten\n")
    folder.commit({"docs/lines.md": (folder.path / "docs/lines.md").read_text()})
    folder.git("branch", "between")
    folder.edit("docs/lines.md", "line ten\n", "line TEN\n")
    folder.edit("ops/words.py", '"""Numbers for people."""', '"""Numbers, for people."""')
    old = (folder.path / "docs/old.md").read_text()
    (folder.path / "runtime/limits.py").chmod(0o755)
    folder.commit(
        {
            "VERSION": "1.1.0\n",
            "docs/moved.md": old + "new\n",
            "traefik/dynamic/new.yaml": "http: {}\n",
            "README.md": "We\n",
        }
        | {name: (folder.path / name).read_text() for name in ("docs/lines.md", "ops/words.py", "runtime/limits.py")}
        | {"app/main.py": "# the sample, better\n", "app/new.py": "", "a/new/folder": "x\n", "CHANGELOG.md": NEWS},
        "docs/old.md",
        "k/gone",
    )
    folder.git("tag", "v1.1.0")
    folder.git(
        "tag", "--annotate", "--message", "x", "v1.2.0", folder.commit({"VERSION": "1.2.0\n", "k": "a file now\n"})
    )
    folder.commit({"VERSION": "2.0.0-rc.1\n"})
    folder.git("tag", "v2.0.0-rc.1")
    folder.git("checkout", "--quiet", "--detach", "v1.0.0")
    return folder


def cloned(upstream: Folder, path: Path, *options: str) -> Folder:
    upstream.git("clone", "--quiet", "--branch", "v1.0.0", *options, f"file://{upstream.path}", str(path))
    folder = Folder(path)
    folder.git("switch", "--quiet", "--create", "main")
    return folder
