"""The stack on an engine with containerd's image store, which is what Engine 29 begins with."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.stack.engine import Abroad, Engine
from tests.stack.stacks import base_images, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine")]
# The same Postgres, that says it is older.
OLD = "stack-test/postgres:17"


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abroad]:
    """A stack that serves, whose Postgres says that it is 17."""
    # On a disk that others fill, it would forget what it has built. What is built anew is another image.
    settings = tmp_path_factory.mktemp("engine") / "daemon.json"
    settings.write_text('{"builder": {"gc": {"enabled": false}}}')
    engine = Engine("containerd", "--feature=containerd-snapshotter=true", f"--config-file={settings}")
    try:
        engine.let_out()
        engine.start()
        assert "io.containerd.snapshotter" in run("docker", "info", env=engine.environment)
        engine.load(*base_images().values())
        lines = f"FROM {base_images()['POSTGRES_IMAGE']}\nENV PG_MAJOR=17\n"
        run("docker", "build", "--quiet", "--tag", OLD, "-", input=lines, env=engine.environment)
        abroad = Abroad(engine, tmp_path_factory.mktemp("containerd"), "containerd", POSTGRES_IMAGE=OLD)
        ok(abroad, "up")
        yield abroad
    finally:
        engine.remove()


def stack(abroad: Abroad, *arguments: str) -> "subprocess.CompletedProcess[str]":
    with abroad.begin(*arguments) as process:
        said, steps = process.communicate(timeout=300)
    print(*arguments, said, steps, sep="\n")
    return subprocess.CompletedProcess(arguments, process.returncode, said, steps)


def ok(abroad: Abroad, *arguments: str) -> str:
    done = stack(abroad, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def containers(abroad: Abroad) -> dict[str, str]:
    return {service: one["Id"] for service, one in abroad.state().items()}


def test_unchanged_up_restarts_nothing(abroad: Abroad) -> None:
    """A build that has nothing to do makes the same image again."""
    before = containers(abroad)
    # Which tells `up` that there is nothing to build.
    (abroad.folder / ".stack/built").unlink()
    assert "Nothing changed" in ok(abroad, "up")
    assert containers(abroad) == before


def test_deploy_and_rollback(abroad: Abroad) -> None:
    """The release is another one, and then the first again; nothing but the slots is replaced."""
    before, first = containers(abroad), abroad.serving()
    main = abroad.folder / "app/main.py"
    main.write_text(main.read_text().replace('"Hello": "World"', '"Hello": "containerd"'))
    ok(abroad, "deploy")
    assert abroad.ask("/") == '{"Hello":"containerd"}'
    assert len(set(abroad.serving().values()) | set(first.values())) == 2
    ok(abroad, "rollback")
    assert abroad.serving() == first
    assert abroad.ask("/") == '{"Hello":"World"}'
    assert {name: one for name, one in containers(abroad).items() if name not in first} == {
        name: one for name, one in before.items() if name not in first
    }


def test_failed_upgrade_goes_back(abroad: Abroad) -> None:
    """The images that ran start again, although others were built under their names."""
    before = {name: one["Image"] for name, one in abroad.state().items()}
    abroad.psql("CREATE TABLE public.by_hand (n int)", "postgres")
    text = abroad.env_file.read_text()
    abroad.env_file.write_text(text.replace(OLD, base_images()["POSTGRES_IMAGE"]))
    done = stack(abroad, "upgrade-postgres", "--yes")
    abroad.env_file.write_text(text)
    assert done.returncode == 1
    assert "these do not belong to owner, so it can't restore them: TABLE public by_hand" in done.stderr
    assert {name: one["Image"] for name, one in abroad.state().items()} == before
    assert '"database":"ok"' in abroad.ask("/health")
    assert "before-upgrade" not in run("docker", "image", "ls", env=abroad.engine.environment)
