"""A clone with an app in a folder of its own beside it, as most users have theirs."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from tests.conftest import REPO
from tests.stack.backups import ok
from tests.stack.stacks import Clone, run

Some = TypeVar("Some", bound=Clone)


@contextlib.contextmanager
def brought_up(made: Some) -> Iterator[Some]:
    """The stack after its first `./stack up`; of one that was there before, and of this one after, nothing stays."""
    made.remove()
    try:
        ok(made.stack("up"))
        yield made
    finally:
        made.remove()


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
