"""A volume has one server, and a project one folder: whatever is started beside them is refused."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.database.volumes import holds_database
from ops.run import Stop, forget_opened
from tests.stack.backups import stored
from tests.stack.ledger import FOREVER, Ledger
from tests.stack.stacks import Clone, inspect, run, wait_until


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A stack whose .env names the volume, as a restore or an upgrade leaves it."""
    clone = Clone(tmp_path_factory.mktemp("clone"), "one-server")
    clone.remove()
    volume = f"{clone.project}_postgres-20261101000000"
    labels = (f"com.docker.compose.project={clone.project}", "com.docker.compose.volume=postgres-data")
    run("docker", "volume", "create", *(f"--label={label}" for label in labels), volume)
    first = f"{clone.project}-first"
    try:
        clone.compose("build", "--quiet", "postgres")
        given = ("--volume", f"{volume}:/var/lib/postgresql", "--env", "POSTGRES_DB=app", "--env", "PROJECT=first")
        trust = ("--env", "POSTGRES_HOST_AUTH_METHOD=trust", f"{clone.project}-postgres")
        run("docker", "run", "--detach", "--name", first, "--network", "none", *given, *trust)
        wait_until(lambda: "accepting connections" in run("docker", "exec", first, "healthy", check=False), 60)
        run("docker", "stop", first)
        run("docker", "rm", first)
        with (clone.folder / ".env").open("a") as env:
            env.write(f"POSTGRES_VOLUME={volume}\n")
        done = clone.stack("up")
        assert done.returncode == 0, done.stderr
        yield clone
    finally:
        run("docker", "rm", "--force", first, check=False)
        clone.remove()


def kill(clone: Clone, service: str) -> None:
    """End the service's container as the kernel would, and wait until Docker has it back."""
    container = clone.container(service)
    before = inspect(container)["RestartCount"]
    os.kill(inspect(container)["State"]["Pid"], signal.SIGKILL)
    wait_until(lambda: inspect(container)["RestartCount"] > before)
    wait_until(lambda: inspect(container)["State"].get("Health", {}).get("Status") == "healthy")


def test_migration_keeps_off_the_running_database(moved: Clone) -> None:
    """`./stack migration` starts a Postgres on a volume of its own: no write is lost, no id given twice."""
    with Ledger(moved) as ledger:
        ledger.wait_for_writes(10)
        done = moved.stack("migration", "nothing")
        assert "There is nothing to write" in done.stderr
        ledger.wait_for_writes(50)
        ledger.pause()
        assert ledger.refused == 0
        # What it has in memory is right, whatever another server did to its files: it has to read them.
        kill(moved, "postgres")
        assert ledger.wrong(ledger.epochs[0], FOREVER, FOREVER) is None
    assert run("docker", "volume", "ls", "-q", "--filter", f"name={moved.project}-throwaway") == ""
    log = moved.compose("logs", "postgres")
    assert "data directory lock file is invalid" not in log


@pytest.mark.parametrize(
    ("service", "command"),
    [("postgres", ()), ("traefik", ()), ("backup", ("serve",)), ("backup", ("restore", "latest"))],
)
def test_second_server_is_refused(moved: Clone, service: str, command: tuple[str, ...]) -> None:
    """It says which container of which project holds the volume; the one that runs goes on."""
    container = moved.container(service)
    before = inspect(container)["State"]
    said = moved.compose("run", "--rm", "--no-deps", "-T", service, *command, check=False)
    assert f"container {container[:12]} of the project {moved.project}, since 20" in said
    assert "Two would destroy what it holds." in said
    assert inspect(container)["State"]["StartedAt"] == before["StartedAt"]


def test_another_project_on_the_volume_is_refused(moved: Clone) -> None:
    """POSTGRES_VOLUME in a copied .env: the two servers would not see each other's processes."""
    other = ("--project-name", f"{moved.project}-other")
    try:
        said = moved.compose(*other, "up", "--build", "--detach", "--wait", "postgres", check=False)
        assert "is unhealthy" in said or "exited" in said
        log = moved.compose(*other, "logs", "postgres")
        assert f"of the project {moved.project}, since 20" in log
    finally:
        # Never its volumes: one of them is not its own.
        moved.compose(*other, "down", "--timeout", "1")
        run("docker", "volume", "rm", f"{moved.project}-other_postgres-socket")
    with moved.client() as client:
        wait_until(lambda: client.get("/health").json()["database"] == "ok")


def test_volume_of_a_mistyped_name(moved: Clone) -> None:
    """Under plain Compose it is made, empty: the server does not begin there."""
    with (moved.folder / ".env").open("a") as env:
        env.write(f"POSTGRES_VOLUME={moved.project}_mistyped\n")
    other = ("--project-name", f"{moved.project}-other")
    try:
        moved.compose(*other, "up", "--build", "--detach", "--wait", "postgres", check=False)
        sentence = f"POSTGRES_VOLUME={moved.project}_mistyped names a volume that holds no database"
        assert sentence in moved.compose(*other, "logs", "postgres")
    finally:
        moved.compose(*other, "down", "--volumes", "--timeout", "1")
        run("docker", "image", "rm", f"{moved.project}-other-postgres")
        text = (moved.folder / ".env").read_text()
        (moved.folder / ".env").write_text(text.replace(f"POSTGRES_VOLUME={moved.project}_mistyped\n", ""))


def test_volume_that_nobody_can_look_into(moved: Clone) -> None:
    """Docker's own failure, as on a full disk, is not taken for a volume without a database."""
    name = f"{moved.project}_postgres-20261101000000"
    with pytest.raises(Stop, match=f"The volume {name} can't be looked into: "):
        holds_database(name, "localhost:1/nosuch")


def test_container_that_was_left(moved: Clone) -> None:
    """It goes with the volume that the image declares, which would have no name and no end."""
    name = f"{moved.project}_postgres-20261101000000"
    created = ("docker", "create", "--name", f"{name}-opened", "--volume", f"{name}:/volume")
    mounts = inspect(run(*created, f"{moved.project}-postgres").strip())["Mounts"]
    [declared] = [mount["Name"] for mount in mounts if mount["Name"] != name]
    forget_opened(name)
    assert declared not in run("docker", "volume", "ls", "--quiet").split()


def test_lock_is_free_after_a_kill(moved: Clone) -> None:
    """kill -9 of the server, from outside Docker, frees the lock: the restart policy brings it back."""
    kill(moved, "postgres")
    with moved.client() as client:
        wait_until(lambda: client.get("/health").json()["database"] == "ok")


class Unnamed(Clone):
    """A clone whose project is named after its folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder, "same")
        self.unname()

    def unname(self) -> None:
        env = self.folder / ".env"
        env.write_text(re.sub(r"^COMPOSE_PROJECT_NAME=.*\n", "", env.read_text(), flags=re.MULTILINE))

    def rename(self, folder: Path) -> None:
        self.folder.rename(folder)
        self.folder, self.env_file = folder, folder / ".env"


def test_folders(tmp_path: Path) -> None:
    """Two of one name are two stacks or none; a renamed one keeps its database, or is told where it is."""
    name = Clone(tmp_path / "unused", "same").project
    one, two = Unnamed(tmp_path / "one" / name), Unnamed(tmp_path / "two" / name)
    one.remove()
    try:
        done = one.stack("up")
        assert done.returncode == 0, done.stderr
        with one.client() as client:
            kept = client.post("/notes", json={"text": "kept"}).json()["id"]
        for verb in ("up", "deploy", "backup"):
            done = two.stack(verb)
            assert f"is the stack in {one.folder}" in done.stderr
            assert "COMPOSE_PROJECT_NAME" in done.stderr
            assert done.returncode == 2
        one.compose("down", "--timeout", "3")
        done = two.stack("up")
        assert done.returncode == 2
        assert f"The volume {name}_postgres-data is of the stack in {one.folder}" in done.stderr

        one.rename(tmp_path / "renamed")
        assert f"\nCOMPOSE_PROJECT_NAME={name}\n" in one.env_file.read_text()
        done = one.stack("up")
        assert done.returncode == 0, done.stderr
        assert kept in stored(one)

        # As before the name was kept in .env.
        one.compose("down", "--timeout", "3")
        one.rename(tmp_path / f"{name}-again")
        one.unname()
        done = one.stack("up")
        assert done.returncode == 2
        assert f"  {name}_postgres-data  " in done.stderr
        assert f"COMPOSE_PROJECT_NAME={name}-again" in done.stderr
    finally:
        for one.project in (name, f"{name}-again"):
            one.remove()
