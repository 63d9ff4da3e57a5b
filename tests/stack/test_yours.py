"""The app in this checkout, or where .env says it is: yours, whichever it is."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import dotenv
from ops.machine.images import APP_SETTINGS
from tests.conftest import REPO
from tests.stack.backups import ok
from tests.stack.beside import brought_up
from tests.stack.load import Load
from tests.stack.stacks import Clone, wait_until


class Yours(Clone):
    """A clone with the app, and with what .env says of it; app.env is the app's own."""

    with_app_of_tests = False

    def __init__(self, folder: Path) -> None:
        said = {name: os.environ.get(name) or dotenv.read(name) for name in APP_SETTINGS}
        settings = {name: value for name, value in said.items() if value}
        if "APP_DIR" in settings:
            settings["APP_DIR"] = str((REPO / settings["APP_DIR"]).resolve())
        super().__init__(folder, "yours", **settings)
        if (REPO / "app.env").exists():
            (folder / "app.env").write_bytes((REPO / "app.env").read_bytes())


@pytest.fixture(scope="module")
def yours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yours]:
    with brought_up(Yours(tmp_path_factory.mktemp("yours"))) as made:
        yield made


def test_serves(yours: Yours) -> None:
    """It comes up, and has what its migrations make."""
    with yours.client() as client:
        health = client.get("/health")
        assert health.status_code == 200, health.text
        assert health.json().get("at_head") is not False
        assert client.get("/").status_code < 500


def test_plain_compose_changes_nothing(yours: Yours) -> None:
    """`docker compose up` would start just what runs."""
    before = {name: one["Id"] for name, one in yours.containers().items()}
    yours.compose("up", "--detach", "--wait")
    assert {name: one["Id"] for name, one in yours.containers().items()} == before


def test_deploy_drops_no_request(yours: Yours) -> None:
    """Under load on /health, which every app has here."""
    with Load(yours.address, paths=("/health",)) as load:
        ok(yours.stack("deploy", LOG_LEVEL="warning"))
        wait_until(lambda: len(load.samples) > 100)
    # On a busy machine Postgres may take longer than the second that /health gives it: that is an answer.
    dropped = [one for one in load.failed if '"database":"away"' not in one.failure]
    assert not dropped, dropped
    assert json.loads(yours.stack("releases", "--json").stdout)
