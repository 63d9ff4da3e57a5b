"""`./stack update` on a running stack under load: from an older version to this checkout's, and back."""

from collections.abc import Iterator

import pytest

from tests.conftest import REPO
from tests.stack.load import Load, none_fails
from tests.stack.stacks import Repository, wait_until

OLDER, BROKEN = "0.9.0", "99.0.0"
NEWEST = (REPO / "VERSION").read_text().strip()
# What is another file in the older version, and where it is in the container of a service that has it.
PLACES = {
    "runtime/__init__.py": ("/opt/stack/code/stack_runtime/__init__.py", "app-1", "app-2"),
    "backup/__init__.py": ("/opt/backup/stack/backup/__init__.py", "backup"),
}
MARK = f"# of {OLDER}\n"
MINE = "\n# mine, and not committed\n"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A running clone of an older version, made from this checkout's by changes in each of what a stack is made of.

    Its remote `stack` has that version, this checkout's, and one that does not start.
    """
    folder, upstream = tmp_path_factory.mktemp("older"), tmp_path_factory.mktemp("upstream")
    repository = Repository(folder, "update")
    repository.remove()
    newest = repository.first
    (folder / "runtime/serve.py").write_text("raise RuntimeError('as planned')\n")
    (folder / "VERSION").write_text(f"{BROKEN}\n")
    repository.git("tag", f"v{BROKEN}", repository.commit())

    repository.git("checkout", "--quiet", "--orphan", "older", newest)
    for path in PLACES:
        with (folder / path).open("a") as file:
            file.write(MARK)
    # Traefik's routes in another file, which goes, while the newest version brings its own.
    headers, server = folder / "traefik/dynamic/headers.yaml", '          Server: ""\n'
    text = headers.read_text()
    assert server in text
    headers.with_name("head.yaml").write_text(text.replace(server, f"{server}          X-Of: {OLDER}\n"))
    headers.unlink()
    (folder / "VERSION").write_text(f"{OLDER}\n")
    repository.git("tag", f"v{OLDER}", repository.commit())
    child = repository.git("commit-tree", f"{newest}^{{tree}}", "-p", "HEAD", "-m", "The newest")
    repository.git("tag", f"v{NEWEST}", child)
    repository.git("clone", "--quiet", "--mirror", str(folder), str(upstream))
    repository.git("remote", "add", "stack", f"file://{upstream}")
    with (folder / "app/main.py").open("a") as main:
        main.write(MINE)
    try:
        started = repository.stack("up")
        assert started.returncode == 0, started.stderr
        yield repository
    finally:
        repository.remove()


@pytest.fixture
def load(older: Repository) -> Iterator[Load]:
    """Load of which nothing may fail."""
    with none_fails(older.address) as load:
        yield load


def parts_of_older(stack: Repository) -> set[str]:
    """What serves of the older version: the services with its files, and `routes` where Traefik has its routes."""
    found = set()
    for place, *services in PLACES.values():
        found |= {one for one in services if MARK in stack.compose("exec", "-T", one, "cat", place)}
    with stack.client() as client:
        answers = [client.get("/") for _ in range(4)]
    assert {answer.status_code for answer in answers} == {200}
    return found | {"routes" for answer in answers if answer.headers.get("x-of") == OLDER}


EVERYTHING = {"app-1", "app-2", "backup", "routes"}


@pytest.mark.timeout(900)
def test_update_and_back(older: Repository, load: Load) -> None:
    """One command, and slots, routes and backups are the new version's; one more, and they are the old one's again."""
    assert parts_of_older(older) == EVERYTHING
    kept = {service: older.container(service) for service in ("traefik", "postgres")}
    there = older.git("ls-files")

    done = older.stack("update", "--to", NEWEST, "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: parts_of_older(older) == set())
    [release] = set(older.releases().values())
    assert release.startswith(older.git("rev-parse", "--short=12", "HEAD"))
    assert (older.folder / "app/main.py").read_text().endswith(MINE)

    done = older.stack("update", "--back", "--yes")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: parts_of_older(older) == EVERYTHING)
    assert older.git("ls-files") == there
    assert {service: older.container(service) for service in kept} == kept


@pytest.mark.timeout(900)
def test_update_that_does_not_start(older: Repository, load: Load) -> None:
    """What served serves on; the command says how to go back, and that brings everything to one version again."""
    before = older.releases()
    [serving] = set(before.values())
    done = older.stack("update", "--to", BROKEN, "--yes")
    assert done.returncode == 1
    assert "as planned" in done.stderr
    assert f"Serving now: app-1 ({serving}), app-2 ({serving})." in done.stderr
    assert "`./stack update --back`" in done.stderr
    assert older.releases() == before

    done = older.stack("update", "--back", "--yes")
    assert done.returncode == 0, done.stderr
    assert (older.folder / "VERSION").read_text() == f"{OLDER}\n"
    assert parts_of_older(older) == EVERYTHING
