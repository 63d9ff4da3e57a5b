"""The whole of compose.yaml on the real engine, under a name, ports and volumes of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import room
from tests.stack.backups import listing, ok
from tests.stack.echo import Echo
from tests.stack.stacks import Clone, Repository, Stack, wait_until


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and Path(__file__).parent in item.path.parents:
            item.add_marker("docker")
            if elsewhere := {"stack", "echo"} & set(item.fixturenames) - {room(item.nodeid)}:
                raise pytest.UsageError(f"{item.nodeid} shares {elsewhere}: SHARED in tests/conftest.py lacks its file")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as a fresh clone starts it, on ports of its own, but for one limit."""
    # Tests of pools send more at one time than one client may.
    stack = Stack("main", tmp_path_factory.mktemp("stack") / "env", CLIENT_IN_FLIGHT_LIMIT="500")
    stack.remove()
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("clone"), request.path.stem.removeprefix("test_").replace("_", "-"))
    clone.remove()
    yield clone
    clone.remove()


@pytest.fixture(scope="module")
def backed_up(clone: Clone) -> Clone:
    """A stack whose first full backup is there, and whose slots drain for as short as they may."""
    with clone.env_file.open("a") as dotenv:
        dotenv.write("DRAIN_SECONDS=2\n")
    ok(clone.stack("up"))
    wait_until(lambda: bool(listing(clone)))
    return clone


@pytest.fixture
def stopped(clone: Clone) -> Clone:
    clone.compose("down", "--timeout", "3")
    return clone


@pytest.fixture
def serving(clone: Clone) -> Clone:
    """The clone's stack, started unless a test before left it running."""
    if not clone.compose("ps", "--quiet"):
        started = clone.stack("up")
        assert started.returncode == 0, started.stderr
    return clone


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Repository]:
    """A clone with a history, whose first release serves."""
    repository = Repository(tmp_path_factory.mktemp("repository"), request.path.stem.removeprefix("test_"))
    repository.remove()
    try:
        started = repository.stack("up")
        assert started.returncode == 0, started.stderr
        yield repository
    finally:
        repository.remove()


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    """A stack whose app says what reached it."""
    echo = Echo(tmp_path_factory.mktemp("echo"))
    echo.remove()
    try:
        echo.up()
        yield echo
    finally:
        echo.remove()
