"""A clone with an app in a folder of its own beside it, as most users have theirs."""

import shutil
import time
from pathlib import Path

from tests.conftest import REPO
from tests.stack.stacks import Clone, run


class Beside(Clone):
    """`app` is one of tests/apps; `own` goes into app.env."""

    def __init__(self, folder: Path, name: str, app: str, own: str = "", **settings: str) -> None:
        self.app = folder.parent / app
        shutil.copytree(REPO / "tests/apps" / app, self.app)
        # The load is one client, and many requests wait at one time on a busy machine.
        super().__init__(folder, name, CLIENT_IN_FLIGHT_LIMIT="500", **settings)
        (folder / "app.env").write_text(own)
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        run("git", *who, *arguments, cwd=self.app)

    def commit(self) -> None:
        """A release of the app."""
        (self.app / "release.txt").write_text(f"{time.time_ns()}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A release")
