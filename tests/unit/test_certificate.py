import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from ops.allowed import ACME
from ops.door import certificate
from ops.door.certificate import Certificate, acme_errors, check_names, lasts
from tests.configs import for_domain
from tests.conftest import REPO

DAY = 86400


def lasting(days: float, left: float) -> Certificate:
    now = time.time()
    return Certificate(now - (days - left) * DAY, now + left * DAY)


@pytest.mark.parametrize(
    ("days", "left", "late"),
    [(90, 29, False), (90, 17, True), (45, 9.9, False), (45, 8, True), (6.7, 1.9, False), (6.7, 1, True)],
)
def test_late_below_a_fifth(days: float, left: float, late: bool) -> None:
    """With fewer than a fifth of its time left a certificate should have been renewed, however long it is."""
    assert lasting(days, left).late() == late
    assert lasts("app.test", lasting(days, left)).startswith("Warning: ") == late


def test_says_what_is_left() -> None:
    """Days, and hours where days would be too coarse."""
    assert "lasts for 60 days" in lasts("app.test", lasting(90, 60.2))
    assert "ends in 24.0 hours" in lasts("app.test", lasting(6, 1))


def test_renews_only_what_is_stored() -> None:
    """Traefik renews what is in its store, and nothing else."""
    assert lasts("app.test", lasting(90, 60)).endswith("renews itself.")
    assert "does not renew itself" in lasts("app.test", lasting(90, 60), renews=False)


LINE = (
    '{"level":"error","providerName":"acme.acme","domains":["%s"],"error":"one or more domains had a problem: '
    'acme: error: 400 :: urn:ietf:params:acme:error:%s :: what it said","message":"Unable to obtain ACME certificate"}'
)


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("dns", "app.test has no address in public DNS"),
        ("connection", "can't reach port 80 of app.test"),
        ("unauthorized", "Another machine answers for app.test"),
        ("invalidContact", "It refuses ACME_EMAIL"),
        ("rateLimited", "too many requests for app.test"),
        ("caa", "CAA record"),
        ("somethingNew", "what it said"),
    ],
)
def test_remedy(monkeypatch: pytest.MonkeyPatch, problem: str, remedy: str) -> None:
    """What the authority had against a name becomes what to do about it, with its own words; others' names do not."""
    log = "\n".join([LINE % ("app.test", problem), LINE % ("www.app.test", "somethingElse"), "no JSON"])
    done = subprocess.CompletedProcess([], 0, log, "")
    monkeypatch.setattr(certificate, "compose", lambda *_argv, check: done)
    errors = acme_errors(["app.test"], "0")
    assert list(errors) == ["app.test"]
    assert remedy in errors["app.test"]
    assert "what it said" in errors["app.test"]


def test_localhost_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a domain nothing is looked up."""
    check_names(for_domain("localhost"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("own", "here", "said"),
    [
        (["198.51.100.9", None], False, ""),  # an address that is not global: behind a router
        (["8.8.4.4", None], False, "app.test leads to 8.8.8.8, and this machine is 8.8.4.4."),
        (["8.8.4.4", None], True, ""),
    ],
)
def test_name_that_leads_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: list[str | None], here: bool, said: str
) -> None:
    """A machine with a public address knows whether a name leads to it; one behind a router doesn't."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *_argv, **_more: [(0, 0, 0, "", ("8.8.8.8", 80))])
    monkeypatch.setattr(certificate, "way_out", dict(zip(("192.0.2.1", "2001:db8::1"), own, strict=True)).get)
    monkeypatch.setattr(certificate, "is_here", lambda _address: here)
    check_names(for_domain("app.test"))
    assert capsys.readouterr().err.strip() == said


def forget(store: Path, authority: str = "https://one.test/directory", **given: str) -> str:
    """What Traefik's container does with its certificates before it starts; return what it says."""
    given = {
        "OWN_CERTIFICATES": "",
        "ACME_DNS": "",
        **given,
        f"{ACME}STORAGE": str(store),
        f"{ACME}CASERVER": authority,
    }
    argv = ["sh", str(REPO / "traefik/forget"), "true"]
    return subprocess.run(
        argv, env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True, check=True
    ).stderr


def test_store_is_of_one_authority(tmp_path: Path) -> None:
    """Certificates of a staging server stayed after ACME_CA had become another authority of one's own."""
    store = tmp_path / "acme-other.json"
    store.write_text("{}")
    for authority, there in (("one", True), ("one", True), ("", True), ("one", True), ("two", False)):
        if not authority:
            # As a kill or a full disk may leave it.
            (tmp_path / "acme-other.json.authority").write_text("")
            continue
        said = forget(store, f"https://{authority}.test/directory", DOMAIN="app.test")
        assert store.exists() == there
        assert ("asked for again, from https://two.test/directory" in said) != there


@pytest.mark.parametrize(
    ("domain", "dns", "left"),
    [
        ("app.test,*.app.test", "rfc2136", {"app.test", "www.test"}),
        ("app.test,www.test", "rfc2136", {"app.test", "www.test"}),
        ("app.test,www.test", "", {"www.test"}),
        ("www.test", "", {"www.test"}),
    ],
)
def test_store_has_what_can_be_renewed(tmp_path: Path, domain: str, dns: str, left: set[str]) -> None:
    """One whose name left DOMAIN goes, and so does that of a wildcard, which nobody can prove without DNS."""
    names = [{"main": "app.test", "sans": ["*.app.test"]}, {"main": "www.test"}]
    domain += "" if "www.test" in domain else ",www.test"
    listed = [{"domain": name, "certificate": "AA==", "key": "AA==", "Store": "default"} for name in names]
    store = tmp_path / "acme.json"
    # As Traefik writes it.
    store.write_text(json.dumps({"acme": {"Account": {"Email": ""}, "Certificates": listed}}, indent=2))
    said = forget(store, DOMAIN=domain, ACME_DNS=dns)
    kept = json.loads(store.read_text())["acme"]["Certificates"]
    assert {one["domain"]["main"] for one in kept} == left
    assert ("The certificate of app.test leaves the store" in said) == ("app.test" not in left)
