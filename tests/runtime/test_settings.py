import re
import shutil
import tempfile
from pathlib import Path

import pytest

from runtime.limits import Wrong
from runtime.settings import Settings, check_room, load, program, read


def test_defaults_are_right() -> None:
    """No setting is needed, and an empty one counts as not set."""
    assert read({}) == Settings()
    assert read({"STACK_WORKERS": "", "STACK_DATABASE_URL": "", "STACK_DRAIN_SECONDS": ""}) == Settings()


def test_only_the_stacks_own_are_read() -> None:
    """A variable of the app's that has a setting's name, without the prefix, is the app's."""
    assert read({"WORKERS": "many", "RELEASE": "7", "STACK_RELEASE": "8"}) == Settings(release="8")


def test_settings_are_typed() -> None:
    """Numbers are numbers, and what is no number is text."""
    found = read({"STACK_WORKERS": "3", "STACK_DRAIN_SECONDS": "0.5", "STACK_MIGRATE": "none", "STACK_APP": "a.b:c"})
    assert found == Settings(workers=3, drain_seconds=0.5, migrate="none", app="a.b:c")


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("WORKERS", "many", "it must be a whole number from 1 to 64."),
        ("WORKERS", "0", "it must be a whole number from 1 to 64."),
        ("WORKERS", "65", "it must be a whole number from 1 to 64."),
        ("WORKERS", "1.5", "it must be a whole number from 1 to 64."),
        ("DRAIN_SECONDS", "-1", "it must be a number from 0 to 600."),
        ("DRAIN_SECONDS", "nan", "it must be a number from 0 to 600."),
        ("STOP_GRACE_SECONDS", "8", "DRAIN_SECONDS=5 needs at least 9."),
        ("LOG_LEVEL", "loud", "it must be one of critical, error, warning, info, debug."),
        ("APP", "app/main.py", "it must be module:attribute, like main:app."),
        ("APP", "main:", "it must be module:attribute, like main:app."),
        ("LOG_FORMAT", "xml", "it must be text or json."),
        ("HOST", "localhost", "it must be an address of this machine, or 0.0.0.0, or :: for IPv6 too."),
        ("READINESS_PORT", "8000", "PORT is the same."),
        (
            "FORWARDED_ALLOW_IPS",
            "10.0.0.5/8",
            "it must be addresses and networks, with commas, like 10.0.0.0/8, or * for everybody.",
        ),
        ("TRUSTED_PROXIES", "10.1.2.3/8", "it must be addresses and networks, with commas, like 10.0.0.0/8."),
        ("TRUSTED_PROXIES", "*", "it must be addresses and networks, with commas, like 10.0.0.0/8."),
        ("TMP_SIZE", "much", "it must be a size like 64m."),
        ("POOL_SIZE", "1001", "it must be a whole number from 1 to 1000."),
        ("MAX_CONNECTIONS", "20", "it must be a whole number from 24 to 10000."),
        ("MIGRATE", "alembic 'upgrade", "it must be a command, each quote closed, or none."),
    ],
)
def test_wrong_setting_is_one_sentence(setting: str, value: str, allowed: str) -> None:
    """It names the setting, its value, and what is allowed."""
    with pytest.raises(Wrong) as wrong:
        read({f"STACK_{setting}": value})
    assert str(wrong.value) == f"{setting}={value} is wrong: {allowed}"


@pytest.mark.parametrize("url", ["mysql://app:hunter2@db/app", "postgresql//app:hunter2"])
def test_wrong_database_url_keeps_its_password(url: str) -> None:
    """The sentence about DATABASE_URL does not print it: it may hold a password."""
    with pytest.raises(Wrong, match=re.escape("DATABASE_URL=… is wrong")) as wrong:
        read({"STACK_DATABASE_URL": url})
    assert "hunter2" not in str(wrong.value)


def test_database_url_by_file(tmp_path: Path) -> None:
    """As an engine hands over a secret. One that can't be read, or that holds nothing, is a sentence with its name."""
    file = tmp_path / "url"
    variable = {"STACK_DATABASE_URL_FILE": str(file)}
    with pytest.raises(Wrong, match=f"^DATABASE_URL_FILE={file} is wrong: No such file or directory.$"):
        read(variable)
    file.write_text("\n")
    with pytest.raises(Wrong, match=f"^DATABASE_URL_FILE={file} is wrong: nothing is in it.$"):
        read(variable)
    file.write_text("postgresql://me:hunter2@db/shop\n")
    assert read(variable).database_url == "postgresql://me:hunter2@db/shop"
    other = "postgresql://me@other/shop"
    assert read({**variable, "STACK_DATABASE_URL": other}).database_url == other
    for url in ("mysql://me:hunter2@db/shop", "postgresql://me:p@hunter2@db/shop", "postgresql://me:p/hunter2@db/shop"):
        file.write_text(f"{url}\n")
        with pytest.raises(Wrong, match=re.escape("DATABASE_URL=… is wrong")) as wrong:
            read(variable)
        assert "hunter2" not in str(wrong.value)
    for url in (
        "postgres://me@[::1],db:5433/shop?host=/run/a@b",
        "postgresql:///shop?user=me",
        "postgresql://me:%40#?@db/a",
    ):
        assert read({"STACK_DATABASE_URL": url}).database_url == url


def test_wrong_setting_ends_the_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With 2, after one line on standard error."""
    monkeypatch.setenv("STACK_WORKERS", "many")
    load.cache_clear()
    assert program(lambda: int(bool(load())))() == 2
    load.cache_clear()
    assert capsys.readouterr().err == "WORKERS=many is wrong: it must be a whole number from 1 to 64.\n"


def test_database_is_the_roles() -> None:
    """The stack's own Postgres is reached as each role; another one by its URL alone, in the form that all take."""
    assert Settings().url("owner") == "postgresql://owner@localhost/app?host=/var/run/postgresql"
    found = read({"STACK_DATABASE_URL": "postgres://me:x@db.example:5432/shop?sslmode=require"})
    # SQLAlchemy does not know the short form.
    assert found.url("owner") == "postgresql://me:x@db.example:5432/shop?sslmode=require"


def test_uploads_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body limit that /tmp can't hold twice would be 400 for a large upload, and nothing in any log."""
    there = shutil.disk_usage("/tmp")._replace(total=64 * 2**20)  # noqa: S108
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: there)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108
    check_room(Settings(body_limit=32 * 2**20))
    with pytest.raises(Wrong) as wrong:
        check_room(Settings(body_limit=300_000_000))
    assert str(wrong.value) == (
        "BODY_LIMIT=300000000 is wrong: /tmp, where uploads are kept, has 64 MiB. "
        "Set TMP_SIZE=573m, and APP_MEMORY 509 MiB higher, for it is memory."
    )


def test_uploads_in_a_folder_of_the_apps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With TMPDIR on a volume that is what must have room, and not /tmp."""
    sizes = {str(tmp_path): 2**30, "/tmp": 64 * 2**20}  # noqa: S108
    whole = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: whole._replace(total=sizes[folder]))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    check_room(Settings(body_limit=300_000_000))
    with pytest.raises(
        Wrong, match=r"uploads are kept, has 1024 MiB\. It must have 1145 MiB, or TMPDIR name another\."
    ):
        check_room(Settings(body_limit=600_000_000))
