"""hooks/: programs of the user's, before a migration, and after what was put into service or could not be."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from ops.config import Config
from ops.release import releases
from ops.run import HERE, Stop, end, step

FOLDER = HERE / "hooks"
BEFORE, AFTER, FAILED = NAMES = ("before-migrate", "after-deploy", "after-failed-deploy")


class Hooks:
    """Those of one verb. Raises Stop with 2 for one that can't be run; one that nothing would run is said."""

    def __init__(self, config: Config, verb: str) -> None:
        self.verb, self.seconds = verb, config.hook_timeout
        # None until it is known, or where nothing has served.
        self.release: str | None = None
        self.before = releases.current()
        for path in filter(os.path.isfile, sorted(FOLDER.glob("*"))):
            runs = os.access(path, os.X_OK)
            if path.name in NAMES and not runs:
                raise Stop(f"hooks/{path.name} is not executable: chmod +x hooks/{path.name}", 2)
            if path.name not in NAMES and runs:
                print(f"hooks/{path.name} is none of {', '.join(NAMES)}: nothing runs it.", file=sys.stderr)

    def run(self, name: str) -> None:
        """Run it, if there is one, and show what it prints. Raises Stop when it fails or takes too long."""
        program = FOLDER / name
        if not program.is_file():
            return
        # RELEASE as `override` left it may be another's by now.
        given = {one: value for one, value in os.environ.items() if one != "RELEASE"}
        given |= {"RELEASE_BEFORE": self.before or "", **({"RELEASE": self.release} if self.release else {})}
        with step(f"Run hooks/{name}"):
            try:
                process = subprocess.Popen(
                    [str(program), self.verb],
                    cwd=HERE,
                    env=given,
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    text=True,
                    # As docker's commands: a Ctrl-C is for `./stack`.
                    start_new_session=True,
                )
            except OSError as error:
                raise Stop(f"hooks/{name} can't be run: {error.strerror}.") from None
            try:
                code = process.wait(self.seconds)
            except BaseException as failure:
                end(process)
                if isinstance(failure, subprocess.TimeoutExpired):
                    late = f"hooks/{name} did not end within HOOK_TIMEOUT={self.seconds} s, and was ended."
                    raise Stop(late) from None
                raise
            if code:
                raise Stop(f"hooks/{name} failed, with exit code {code}.")

    def run_after(self, name: str = AFTER) -> None:
        """The same, and what goes wrong is only said: what is done is done."""
        try:
            self.run(name)
        except Stop as failure:
            print(failure, file=sys.stderr)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Run the last of them when what is within fails, or is interrupted."""
        try:
            yield
        except BaseException:
            self.run_after(FAILED)
            raise
