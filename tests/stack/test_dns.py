"""ACME_DNS: certificates by a record in DNS, on a real DNS server that takes updates."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.acme import Secured
from tests.stack.backups import ok

CHALLENGE = "TRAEFIK_CERTIFICATESRESOLVERS_ACME_ACME_DNSCHALLENGE_"
# What a user writes into traefik.env; the test's server is nobody's resolver, so Traefik must not look elsewhere.
OURS = f"""
RFC2136_NAMESERVER=dns:53
RFC2136_TSIG_ALGORITHM=hmac-sha256.
RFC2136_TSIG_KEY=stack.
{CHALLENGE}RESOLVERS=dns:53
{CHALLENGE}PROPAGATION_DISABLECHECKS=true
"""
# In tests/stack/pebble/named.conf, and another one.
KEY, WRONG_KEY = "RFC2136_TSIG_SECRET=c3RhY2stdGVzdHM=\n", "RFC2136_TSIG_SECRET=c3RhY2stb3RoZXI=\n"


class ByRecord(Secured):
    name = "dns"

    def write(self, key: str) -> None:
        path: Path = self.folder / "traefik.env"
        path.write_text(OURS + key)
        path.chmod(0o600)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByRecord]:
    clone = ByRecord(
        tmp_path_factory.mktemp("dns"),
        COMPOSE_FILE="compose.yaml:tests/stack/pebble/compose.yaml:tests/stack/pebble/dns.yaml",
        DOMAIN="app.test,*.app.test",
        ACME_DNS="rfc2136",
        ALIASES="serve",
        DRAIN_SECONDS="0",
    )
    with clone.with_authority():
        yield clone


def test_provider_that_refuses(clone: ByRecord) -> None:
    """A record that can't be set is said, with where to look."""
    clone.write(WRONG_KEY)
    done = clone.trusting_up()
    assert done.returncode == 1
    for name in ("app.test", "*.app.test"):
        said = f"{name}: ACME_DNS's provider could not set the record: see its variables in traefik.env."
        assert said in done.stderr


def test_certificates_by_dns(clone: ByRecord) -> None:
    """The domain and the wildcard have theirs, though nobody asked on port 80, and both serve."""
    clone.write(KEY)
    done = clone.trusting_up()
    ok(done)
    assert "The certificate of *.app.test lasts for 90 days and renews itself." in done.stderr
    for name in ("app.test", "shop.app.test", "another.app.test"):
        assert set(clone.certificate(name)["subjectAltName"]) == {("DNS", "app.test"), ("DNS", "*.app.test")}
        assert clone.get("/items/5", name=name).status == 200
    # `healthy` asks for nothing more, and a restart forgets nothing.
    clone.recreate()
    assert set(clone.store()) == {"app.test"}
    assert clone.issued() == 1
    # One label, and of this domain.
    assert not clone.trusted("a.b.app.test")
    assert not clone.trusted("shop.app-test")
    assert "Nothing changed" in ok(clone.trusting_up())


@pytest.mark.long
def test_wildcard_that_is_for_the_first_name(clone: ByRecord) -> None:
    """It serves, and is not redirected to itself, whichever of the two routes Traefik comes to first; it renews."""
    dotenv = clone.env_file.read_text()
    others = {"DOMAIN=app.test,*.app.test": "DOMAIN=www.app.test,*.app.test", "ALIASES=serve": "ALIASES=redirect"}
    for before, now in others.items():
        assert before in dotenv
        dotenv = dotenv.replace(before, now)
    clone.env_file.write_text(dotenv)
    done = clone.trusting_up()
    ok(done)
    assert "does not renew itself" not in done.stderr
    for _ in range(8):
        # It orders routes of one priority by chance, each time that it reads them.
        clone.recreate()
        assert clone.get("/items/5", name="www.app.test").status == 200
    assert clone.get("/items/5", name="shop.app.test").status in (301, 308)
