import pytest

from offline import engine

DEBIAN_12 = "docker.io:\n  Candidate: 20.10.24+dfsg1-1+deb12u1\ndocker-compose:\n  Candidate: 1.29.2-3\n"
DEBIAN_13 = """docker.io:
  Candidate: 26.1.5+dfsg1-9+b9
docker-compose:
  Candidate: 2.26.1-4
docker-cli:
  Candidate: 26.1.5+dfsg1-9+b9
"""
UBUNTU_24 = """docker.io:
  Installed: (none)
  Candidate: 28.2.2-0ubuntu1~24.04.1
docker-compose-v2:
  Candidate: 2.37.1+ds1-0ubuntu2~24.04.1
docker-compose:
  Candidate: 1.29.2-6ubuntu1
docker-cli:
  Candidate: (none)
"""


@pytest.mark.parametrize(
    ("policy", "packages"),
    [
        (DEBIAN_12, []),
        (DEBIAN_13, []),
        ("", []),
        (UBUNTU_24, ["docker.io", "docker-buildx", "docker-compose-v2"]),
    ],
    ids=["Debian 12", "Debian 13", "none", "Ubuntu 24.04"],
)
def test_distribution_packages_are_taken_when_new_enough(
    monkeypatch: pytest.MonkeyPatch, policy: str, packages: list[str]
) -> None:
    """The distribution's engine only with a Compose that is new enough too."""
    monkeypatch.setattr(engine, "run", lambda *_: policy)
    assert engine.distribution_packages() == packages


def test_version() -> None:
    """An epoch is no part of it."""
    assert engine.version("28.5.2+dfsg4") == (28, 5)
    assert engine.version("1:2.40.3-3") == (2, 40)


def test_mirror_is_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what apt knows Debian's archive, neither its security archive nor anybody else's."""
    known = "Docker CE https://docker.test/debian/\nDebian-Security http://mirror.test/security/\n"
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(engine, "run", lambda *_: known)
    with pytest.raises(OSError, match="set DEBIAN_MIRROR"):
        engine.mirror()
    monkeypatch.setattr(engine, "run", lambda *_: known + "Debian http://mirror.test/debian/\n")
    assert engine.mirror() == "http://mirror.test/debian"
    monkeypatch.setenv("DEBIAN_MIRROR", "http://other.test/debian")
    assert engine.mirror() == "http://other.test/debian"
