"""What `./stack volumes` says of each volume."""

import subprocess

import pytest

from ops import dotenv
from ops.database import volumes
from tests import configs


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "shop_old was in use before: "),
        (1, "shop_old: no server has run on it"),
        (125, "shop_old can't be looked into: docker: Error response from daemon: No such image"),
    ],
)
def test_what_docker_could_not_look_into(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    """Docker's own failure is no answer: it does not mean that no server has run there."""
    found = dict.fromkeys(("shop_postgres-data", "shop_old"), volumes.DataVolume("shop", "2026-11-22T03:00:00+00:00"))
    reason = "docker: Error response from daemon: No such image: shop-postgres\n\nRun 'docker run --help' for more\n"
    ended = subprocess.CompletedProcess("", code, "", reason)
    monkeypatch.setattr(volumes, "volumes", lambda: found)
    monkeypatch.setattr(volumes, "volume_table", lambda _: "")
    monkeypatch.setattr(volumes, "in_volume", lambda *_: ended)
    monkeypatch.setattr(dotenv, "own_postgres", lambda: True)
    config = configs.config(services={"postgres": configs.service("postgres")})
    volumes.show_volumes(config, None, False)
    lines = capsys.readouterr().out.splitlines()
    assert "shop_postgres-data is in use." in lines
    assert lines[-1].startswith(said)
