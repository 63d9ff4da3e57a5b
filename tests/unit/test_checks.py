import os
import socket
from pathlib import Path

import pytest

from ops import dotenv
from ops.machine import checks
from ops.run import Stop
from runtime import environment
from runtime.settings import Settings
from tests import configs
from tests.conftest import REPO

# Set too where they are missing, and nobody's database: nothing is said of them.
FOLDERS = {"HOME", "TMPDIR", "PATH", *environment.CACHES}


def test_misspelt_setting_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in .env that is no setting would otherwise do nothing and say nothing."""
    monkeypatch.setattr(checks, "HERE", tmp_path)
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    (tmp_path / ".env.example").write_text((REPO / ".env.example").read_text())
    assert checks.unknown_settings() == []
    (tmp_path / ".env").write_text("# WORKRES=3\nWORKERS=3\nDRAIN_SECOND=1\nCOMPOSE_PROJECT_NAME=x\n")
    assert checks.unknown_settings() == ["DRAIN_SECOND"]
    (tmp_path / "compose.override.yaml").write_text("services: {redis: {image: '${DRAIN_SECOND:-redis}'}}\n")
    assert checks.unknown_settings() == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checks, "HERE", tmp_path)
    monkeypatch.setattr(dotenv, "FILE", tmp_path / ".env")
    (tmp_path / ".env.example").write_text((REPO / ".env.example").read_text())
    return tmp_path


def test_value_of_several_lines(folder: Path) -> None:
    """Compose would take the first line of a key and pass over the others without a word."""
    checks.check_app_env()
    (folder / "app.env").write_text(f"# A comment\n\nKEY=one line\nEMPTY=\nKEY={'a1B/' * 22}==\nb=\n")
    checks.check_app_env()
    # base64 wraps after 76 characters, OpenSSL after 64; the end of what it prints may look like a variable.
    full = "a1B+" * 16
    for cut in ("-\nMIIEvQ", "-\nITYWq+pw0xQ==", "-\nexport KEY=1", f"{full}\npw0xQ==", f"{full}\npw0x="):
        (folder / "app.env").write_text(f"KEY={cut}\n")
        with pytest.raises(Stop, match=r"^app\.env, line 2, sets no variable: NAME=value\.") as stop:
            checks.check_app_env()
        assert stop.value.code == 2


def test_oddities(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wins without a word, and what everybody can read, is said."""
    monkeypatch.setenv("WORKERS", "3")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    (folder / ".env").write_text("WORKERS=2\n")
    (folder / "app.env").write_text("PGHOST=elsewhere\n")
    (folder / ".env").chmod(0o644)
    (folder / "app.env").chmod(0o644)
    assert checks.oddities() == [
        "app.env sets PGHOST, so that the app does not get the stack's own.",
        "This shell sets LOG_LEVEL=debug, which .env does not: it ends with this shell.",
        "This shell sets WORKERS=3, which wins over 2 in .env.",
        "Everybody on this machine can read app.env: chmod 600 app.env",
    ]
    monkeypatch.setenv("WORKERS", "2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@one.test/app")
    (folder / ".env").write_text("WORKERS=2\nDATABASE_URL=postgresql://app:hunter2@db.test/app\n")
    told = (
        "This shell sets DATABASE_URL=postgresql://…@one.test/app, which wins over postgresql://…@db.test/app in .env."
    )
    assert told in checks.oddities()
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("LOG_LEVEL")
    (folder / "app.env").chmod(0o600)
    (folder / "app.env").write_text("")
    (folder / ".env").write_text("WORKERS=2\nDATABASE_URL=postgresql://app:x@db.test/app\n")
    assert checks.oddities() == ["Everybody on this machine can read .env: chmod 600 .env"]


def test_ports_are_looked_for_where_they_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on another address is in nobody's way. One on all addresses is."""
    monkeypatch.setattr(checks, "published", lambda _: set())
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    with socket.create_server(("127.0.0.2", 0)) as other:
        ports = (number, other.getsockname()[1])
        checks.check_ports(configs.config(ports=ports, addresses=("127.0.0.1", "127.0.0.4")))
        for addresses in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")):
            with pytest.raises(Stop, match=f"Port {ports[1]} is taken by another program.* HTTPS_PORT"):
                checks.check_ports(configs.config(ports=ports, addresses=addresses))
        with pytest.raises(Stop, match=r"HTTPS_PORT=192\.0\.2\.1:.* this machine has no such address"):
            checks.check_ports(configs.config(ports=ports, addresses=("127.0.0.1", "192.0.2.1")))


def test_what_app_env_may_hide_is_what_the_app_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that `./stack` warns of are those that the container sets: else one would be hidden in silence."""
    monkeypatch.setattr(os, "environ", {})
    environment.prepare(Settings(), "app")
    handed = os.environ.keys() - FOLDERS
    assert {name for name in handed if not name.startswith("STACK_")} == set(checks.HANDED_OVER)


def test_what_app_env_hides_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app would get otherwise, and the stack's own names; nothing else."""
    monkeypatch.setattr(checks, "HERE", tmp_path)
    assert checks.handed_over() == []
    (tmp_path / "app.env").write_text("# PGHOST=no\nPGUSER=me\nSECRET=x\nSTACK_APP=y\nDATABASE_URL_RO=z\n")
    assert checks.handed_over() == ["PGUSER", "STACK_APP"]


def test_quotes_that_are_part_of_a_value_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an app's own .env.example has them; not those inside of a value."""
    monkeypatch.setattr(checks, "HERE", tmp_path)
    assert checks.in_quotes() == []
    lines = ["DATA='./data'", 'KEY="a b"', 'ORIGINS=["x", "y"]', "NAME=O'Hara's", "# OLD='x'", 'EMPTY=""', "PLAIN=x"]
    (tmp_path / "app.env").write_text("\n".join(lines))
    assert checks.in_quotes() == ["DATA", "KEY", "EMPTY"]
