import time
from pathlib import Path

import pytest

from ops.config import Config
from ops.door import own
from ops.door.certificate import Certificate
from ops.door.own import Own, check_client_ca, check_own
from ops.run import Stop
from tests.certificates import pair
from tests.configs import config, service

DAY = 86400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own, "CERTIFICATES", tmp_path)
    return tmp_path


def with_own(name: str) -> Config:
    return config(services={"traefik": service("traefik", DOMAIN="app.test", OWN_CERTIFICATES=name)})


def put(folder: Path, certificate: bytes, key: bytes, name: str = "app.test") -> None:
    (folder / f"{name}.crt").write_bytes(certificate)
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.key").chmod(0o600)


def test_pair_that_serves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What its certificate says of its end is read without asking anybody who issued it."""
    put(folder, *pair("app.test"))
    [found] = check_own(with_own("app.test"))
    assert 89 * DAY < found.certificate.left < 90 * DAY
    assert capsys.readouterr().err == ""
    assert check_own(with_own("")) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other key", "the key is another certificate's"),
        ("other name", "other.test"),
        ("over", "certificate has expired"),
        ("early", "certificate is not yet valid"),
        ("password", "the key has a password"),
        ("no PEM", "app.test.key can't serve app.test: "),
    ],
)
def test_pair_that_can_not_serve(folder: Path, name: str, said: str) -> None:
    """One sentence names the files, and why not."""
    certificate, key = pair("app.test")
    wrong = {
        "other key": (certificate, pair("app.test")[1]),
        "other name": pair("other.test"),
        "over": pair("app.test", ends=-1),
        "early": pair("app.test", begins=1),
        "password": pair("app.test", password=b"secret"),
        "no PEM": (b"nothing", key),
    }
    put(folder, *wrong[name])
    with pytest.raises(Stop, match=r"certificates/app\.test\.crt and app\.test\.key can't serve app\.test: ") as stop:
        check_own(with_own("app.test"))
    assert said in str(stop.value) or name == "other name"
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        (["app.test", "www.app.test"], ["www.app.test", "app.test"], "app.test.crt is for www.app.test too"),
        (["app.test"], ["www.app.test", "app.test"], "www.app.test.crt is for app.test too"),
        (["app.test", "*.app.test"], ["www.app.test"], ""),
        (["app.test"], ["www.app.test"], ""),
    ],
)
def test_two_for_one_name(folder: Path, first: list[str], second: list[str], wrong: str) -> None:
    """Traefik would take either: refused, unless it takes that of the name. The same in both places is one."""
    names = ("app.test", "www.app.test")
    for name, made in zip(names, (pair(*first), pair(*second)), strict=True):
        put(folder, *made, name=name)
    if wrong:
        with pytest.raises(Stop, match=f"certificates/{wrong}, and Traefik would serve it") as stop:
            check_own(with_own(",".join(names)))
        assert stop.value.code == 2
        made = pair(*names)
        for name in names:
            put(folder, *made, name=name)
    assert len(check_own(with_own(",".join(names)))) == 2


def with_client_ca(name: str) -> Config:
    return config(services={"traefik": service("traefik", CLIENT_CA=name)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no certificates/cdn.pem: put it there."),
        (b"nothing", "is no certificate in PEM."),
        (pair("app.test", authority=True)[1], "is no certificate in PEM."),
        (pair("app.test")[0], "is no authority's."),
        (pair("CDN", ends=-1, authority=True)[0], "has expired."),
    ],
)
def test_authority_of_clients_that_is_none(folder: Path, content: bytes | None, said: str) -> None:
    """No client could have a certificate of it: one sentence, before the door is shut to all."""
    if content is not None:
        (folder / "cdn.pem").write_bytes(content)
    with pytest.raises(Stop, match=r"CLIENT_CA") as stop:
        check_client_ca(with_client_ca("cdn.pem"))
    assert said in str(stop.value)
    assert stop.value.code == 2


def test_authority_of_clients(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several in one file, as while a CDN changes it. The end of the last one is said ahead of time."""
    check_client_ca(with_client_ca(""))
    old, new = (pair("CDN", ends=ends, authority=True)[0] for ends in (-1, 90))
    (folder / "cdn.pem").write_bytes(old + new)
    check_client_ca(with_client_ca("cdn.pem"))
    assert capsys.readouterr().err == ""
    (folder / "cdn.pem").write_bytes(pair("CDN", ends=20.5, authority=True)[0])
    check_client_ca(with_client_ca("cdn.pem"))
    assert "Warning: certificates/cdn.pem ends in 20 days" in capsys.readouterr().err


def test_files_that_are_not_there(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A missing file, or one that only a link out of the folder leads to, is named."""
    with pytest.raises(Stop, match=r"there is no certificates/app\.test\.crt"):
        check_own(with_own("app.test"))
    put(folder, *pair("app.test"))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "app.test.key"
    (folder / "app.test.key").rename(elsewhere)
    (folder / "app.test.key").symlink_to(elsewhere)
    with pytest.raises(Stop, match=r"certificates/app\.test\.key leads out of its folder"):
        check_own(with_own("app.test"))


def test_link_by_its_whole_path(folder: Path) -> None:
    """The folder has another name in Traefik's container; a relative link is one there, too."""
    put(folder, *pair("app.test"))
    place = (folder / "app.test.crt").rename(folder / "live.crt")
    (folder / "app.test.crt").symlink_to(place)
    with pytest.raises(Stop, match=r"app\.test\.crt leads out of its folder"):
        check_own(with_own("app.test"))
    (folder / "app.test.crt").unlink()
    (folder / "app.test.crt").symlink_to("live.crt")
    assert check_own(with_own("app.test"))


def test_key_that_everybody_can_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, with the command that mends it."""
    put(folder, *pair("app.test"))
    (folder / "app.test.key").chmod(0o644)
    check_own(with_own("app.test"))
    assert "chmod o= certificates/app.test.key" in capsys.readouterr().err


@pytest.mark.parametrize(("days", "left", "warns"), [(90, 60, False), (90, 29, True), (5000, 60, False), (8, 6, False)])
def test_end_is_said_ahead_of_time(days: float, left: float, warns: bool) -> None:
    """In the last third of its time, and the last 30 days."""
    now = time.time()
    one = Own("app.test", Certificate(now - (days - left) * DAY, now + left * DAY), b"")
    assert one.says().startswith("Warning: ") == warns
