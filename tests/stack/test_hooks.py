"""The user's own programs around a migration and a deploy: hooks/."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.backups import ok
from tests.stack.stacks import Repository

HOOK = """\
#!/bin/sh
echo "$(basename "$0") $1 ${RELEASE-none} ${RELEASE_BEFORE-none}" >> %s
echo "said by $(basename "$0")"
[ ! -e %s ] || exit 4
"""
CRASH = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("as planned")
    yield
app = FastAPI(lifespan=lifespan)
"""


class Hooked(Repository):
    """`fail` makes each of its hooks fail while it is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "hooks")
        self.log, self.fail = folder.parent / "hooks.log", folder.parent / "fail"
        self.log.touch()
        (folder / "hooks").mkdir()
        for name in ("before-migrate", "after-deploy", "after-failed-deploy"):
            (folder / "hooks" / name).write_text(HOOK % (self.log, self.fail))
            (folder / "hooks" / name).chmod(0o755)
        self.first = self.commit()

    def ran(self) -> list[str]:
        """The hooks that ran since this was asked last."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines

    def ids(self) -> dict[str, str]:
        return {service: one["Id"] for service, one in self.containers().items()}


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooked]:
    made = Hooked(tmp_path_factory.mktemp("hooks") / "stack")
    made.remove()
    try:
        yield made
    finally:
        made.remove()


def test_first_up(hooked: Hooked) -> None:
    """Before the migration, and once all is up; when nothing changes, nothing runs."""
    done = hooked.stack("up")
    ok(done)
    assert hooked.ran() == [f"before-migrate up {hooked.first} ", f"after-deploy up {hooked.first} "]
    assert "said by before-migrate\n" in done.stderr
    ok(hooked.stack("up"))
    assert hooked.ran() == []


def test_deploy_and_rollback(hooked: Hooked) -> None:
    """With the release and the one before; a rollback has no migration. One that fails afterwards is only said."""
    second = hooked.commit()
    ok(hooked.stack("deploy"))
    assert hooked.ran() == [
        f"before-migrate deploy {second} {hooked.first}",
        f"after-deploy deploy {second} {hooked.first}",
    ]
    hooked.fail.touch()
    done = hooked.stack("rollback")
    hooked.fail.unlink()
    ok(done)
    assert hooked.ran() == [f"after-deploy rollback {hooked.first} {second}"]
    assert "hooks/after-deploy failed, with exit code 4.\n" in done.stderr
    assert hooked.releases() == dict.fromkeys(("app-1", "app-2"), hooked.first)


def test_one_that_fails_before_stops_the_deploy(hooked: Hooked) -> None:
    """Nothing is touched: no container, and no migration."""
    third, before = hooked.commit(), hooked.ids()
    hooked.fail.touch()
    done = hooked.stack("deploy")
    hooked.fail.unlink()
    assert done.returncode == 1
    assert "hooks/before-migrate failed, with exit code 4.\nNothing was replaced. Serving now: app-1 (" in done.stderr
    assert hooked.ids() == before
    assert hooked.ran() == [
        f"{name} deploy {third} {hooked.first}" for name in ("before-migrate", "after-failed-deploy")
    ]


def test_release_that_is_broken(hooked: Hooked) -> None:
    """The last hook runs once the release before serves again."""
    broken = hooked.commit(**{"app__crash.py": CRASH})
    done = hooked.stack("deploy", APP="app.crash:app")
    assert done.returncode == 1
    assert hooked.ran() == [
        f"{name} deploy {broken} {hooked.first}" for name in ("before-migrate", "after-failed-deploy")
    ]
    assert hooked.releases() == dict.fromkeys(("app-1", "app-2"), hooked.first)
    assert done.stderr.index("Back to ") < done.stderr.index("said by after-failed-deploy")


def test_image_that_cannot_be_built(hooked: Hooked) -> None:
    """The release has no name yet."""
    text = (hooked.folder / "Dockerfile").read_text()
    hooked.commit(Dockerfile=f"{text}RUN exit 9\n")
    assert hooked.stack("deploy").returncode == 1
    assert hooked.ran() == [f"after-failed-deploy deploy none {hooked.first}"]
