"""Certificates from a real ACME server, Pebble, which asks Traefik for the challenge as Let's Encrypt would."""

import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import REPO
from tests.stack.acme import Secured
from tests.stack.stacks import CLEAN, run, wait_until
from tests.stack.tools import tool


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    clone = Secured(
        tmp_path_factory.mktemp("secured"),
        DOMAIN="app.test,www.app.test",
        CERTIFICATE_RETRY_SECONDS="4",
        DRAIN_SECONDS="0",
    )
    try:
        clone.prepare()
        yield clone
    finally:
        clone.remove()


@pytest.fixture
def secured(clone: Secured) -> Secured:
    """The stack and the authority, both running, with certificates for both names."""
    clone.start_authority()
    clone.recreate()
    if not clone.trusted("app.test", "www.app.test"):
        clone.compose("up", "--detach", "--wait")
        wait_until(lambda: clone.trusted("app.test", "www.app.test"), 90)
    return clone


def test_authority_away_at_first_start(clone: Secured) -> None:
    """The app answers at once, with Traefik's own certificate; the trusted one comes once the authority is there."""
    clone.compose("up", "--detach", "--wait", "traefik", "app-1", "app-2")
    wait_until(lambda: clone.get(trusting=False).status == 200)
    clone.start_authority()
    wait_until(lambda: clone.trusted("app.test", "www.app.test"), 90)
    assert clone.issued() == 2


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_issued_certificate(secured: Secured, version: str) -> None:
    """The chain leads to the authority's root for the domain's name, in both versions of HTTP."""
    with httpx2.Client(verify=secured.context(), http2=version == "HTTP/2") as client:
        answer = client.get(secured.address, headers={"Host": "app.test"}, extensions={"sni_hostname": "app.test"})
    assert answer.status_code == 200
    assert answer.http_version == version
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


def test_each_name_has_a_certificate(secured: Secured) -> None:
    """One name that can't be certified would not keep the other from its certificate."""
    for name in ("app.test", "www.app.test"):
        assert secured.certificate(name)["subjectAltName"] == (("DNS", name),)


def test_further_names_lead_to_the_first(secured: Secured) -> None:
    """The first name is canonical, the others redirect to it, path and query kept."""
    answer = secured.get("/items/5?q=a%20b", name="www.app.test")
    assert answer.status in (301, 308)
    assert answer.headers["Location"] == f"https://app.test:{secured.https_port}/items/5?q=a%20b"
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_further_names_may_serve_too(secured: Secured) -> None:
    """With ALIASES=serve each name answers by itself, under its own certificate."""
    secured.recreate(ALIASES="serve")
    wait_until(lambda: secured.get("/items/5", name="www.app.test").status == 200)
    assert secured.get("/items/5").status == 200
    assert secured.get("/", Host="other.test").status == 421


def test_strict_about_names(secured: Secured) -> None:
    """A handshake for another name, or for none, gets no certificate; a request for another name is misdirected."""
    for name in ("other.test", None):
        context = secured.context(trusting=False)
        with socket.create_connection(("127.0.0.1", secured.https_port), 5) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname=name)
    for name in ("other.test", "localhost", "127.0.0.1"):
        assert secured.get("/", Host=name).status == 421


def test_up_says_how_long_certificates_last(secured: Secured) -> None:
    """Days left are in what `./stack up` says."""
    done = secured.trusting_up()
    assert done.returncode == 0, done.stderr
    for name in ("app.test", "www.app.test"):
        assert f"The certificate of {name} lasts for 90 days and renews itself." in done.stderr
        assert f"{name} has no address: add an A record" in done.stderr


def test_up_says_why_there_is_no_certificate(secured: Secured) -> None:
    """A name without DNS and one whose port 80 is closed are told apart; the name with a certificate is served."""
    done = secured.trusting_up(DOMAIN="app.test,nowhere.test,closed.test")
    assert done.returncode == 1
    assert "nowhere.test has no address in public DNS" in done.stderr
    assert "It can't reach port 80 of closed.test" in done.stderr
    assert "The certificate of app.test lasts for 90 days" in done.stderr
    assert secured.get().status == 200


def test_up_finds_a_store_that_traefik_would_not_use(secured: Secured) -> None:
    """A store that others may read is found before Traefik would start without it, and what runs serves on."""
    volume = f"{secured.project}_acme"
    shell = ("docker", "run", "--rm", "--user", "root", "--volume", f"{volume}:/acme", "--entrypoint", "sh")
    in_volume = (*shell, f"{secured.project}-traefik", "-c")
    run(*in_volume, "chmod 644 /acme/acme-other.json")
    done = secured.trusting_up()
    assert done.returncode == 1
    assert (
        f"can't use its store of certificates, /acme/acme-other.json in the volume {volume}: its mode is 644"
        in done.stderr
    )
    assert secured.trusted()
    run(*in_volume, "chmod 600 /acme/acme-other.json")


@pytest.fixture
def without_www(secured: Secured) -> Iterator[dict[str, str]]:
    """What the store had for www.app.test, which DOMAIN no longer has."""
    before = secured.store()
    secured.recreate(DOMAIN="app.test")
    yield before["www.app.test"]
    (secured.folder / "traefik/dynamic/mine.yaml").unlink(missing_ok=True)


def test_removed_name_leaves_the_store(secured: Secured, without_www: dict[str, str]) -> None:
    """Traefik would renew it for ever. `./stack up` says "renews itself" of what is in the store alone."""
    assert set(secured.store()) == {"app.test"}
    issued, kept = secured.issued(), secured.certificate()
    # As a user may have one: a file of Traefik's that names it.
    mine = {"certFile": without_www["certificate"], "keyFile": without_www["key"]}
    text = {name: base64.b64decode(value).decode() for name, value in mine.items()}
    path = secured.folder / "traefik/dynamic/mine.yaml"
    path.write_text(json.dumps({"tls": {"certificates": [text]}}))
    done = secured.trusting_up()
    assert done.returncode == 0, done.stderr
    assert "The certificate of app.test lasts for 90 days and renews itself." in done.stderr
    assert "The certificate of www.app.test ends in 90 days, and does not renew itself" in done.stderr
    assert (secured.issued(), secured.certificate()) == (issued, kept)
    assert set(secured.store()) == {"app.test"}


def test_mozilla_intermediate(secured: Secured) -> None:
    """sslyze finds nothing that Mozilla's intermediate configuration would not have."""
    address = f"127.0.0.1:{secured.https_port}"
    argv = [sys.executable, "-m", "sslyze", "--mozilla_config", "intermediate", "--sni", "app.test", address]
    done = subprocess.run(
        [*argv, "--certinfo_ca_file", str(secured.root)], capture_output=True, text=True, timeout=120, env=CLEAN
    )
    verdict = done.stdout.partition("COMPLIANCE")[2]
    findings = re.findall(r"^ +\* (\w+): (.*)", verdict, re.MULTILINE)
    # What is Pebble's and not ours: how long its certificates last, and that it is nobody's authority.
    assert [
        one for one in findings if one[0] not in ("maximum_certificate_lifespan", "certificate_path_validation")
    ] == []
    assert address in verdict


@pytest.mark.long
def test_testssl(secured: Secured) -> None:
    """testssl.sh finds nothing above informational but the test authority's own."""
    flags = ("--quiet", "--warnings", "off", "--severity", "LOW", "--jsonfile", "/dev/stderr", "--ip", "127.0.0.1")
    options = ("--add-host", "app.test:127.0.0.1", "--volume", f"{secured.root}:/root.pem:ro")
    done = tool("testssl", *flags, "--add-ca", "/root.pem", f"app.test:{secured.https_port}", options=options)
    found = dict(re.findall(r'"id" +: "(.+?)".*?"finding" +: "(.*?)"', done.stderr, re.DOTALL))
    # Pebble's certificates name no list of revoked ones, no OCSP and no log, and its root is in no browser, which alone
    # makes the grade; the name is in no DNS; and the tool has no engine for Russian ciphers.
    own = ("cert_chain_of_trust", "cert_revocation", "cert_crlDistributionPoints", "cert_ocspURL", "DNS_CAArecord")
    tool_s = ("overall_grade", "grade_cap_reason", "engine_problem")
    assert {name: finding for name, finding in found.items() if not name.startswith((*own, *tool_s))} == {}
    assert "Done" in done.stdout


@pytest.mark.long
def test_http_observatory(secured: Secured, tmp_path: Path) -> None:
    """MDN's HTTP Observatory finds nothing to mend, and more than it asks for."""
    if not shutil.which("npm"):
        pytest.skip("needs Node.js and npm")
    shutil.copytree(REPO / "tests/observatory", tmp_path / "scan")
    environment = {**CLEAN, "NODE_EXTRA_CA_CERTS": str(secured.root), "npm_config_cache": str(tmp_path / "cache")}
    where: dict[str, Any] = {"cwd": tmp_path / "scan", "env": environment}
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", **where)
    # The list of names that browsers know as HTTPS alone, which its scripts would download.
    (tmp_path / "scan/node_modules/@mdn/mdn-http-observatory/conf/hsts-preload.json").write_text("{}")
    ports = (str(secured.http_port), str(secured.https_port))
    found = json.loads(run("node", "scan.js", "app.test", *ports, **where))
    print(found["scan"]["score"], {name: one["result"] for name, one in found["tests"].items()})
    assert {name: one["result"] for name, one in found["tests"].items() if not one["pass"]} == {}
    assert found["scan"]["score"] >= 110


@pytest.mark.long
def test_renewal_drops_no_request(secured: Secured) -> None:
    """A certificate near its end is replaced while requests go on, each on a connection of its own."""
    # Traefik looks once a minute for those that end within 20, and this one lasts ten seconds more.
    secured.recreate(DOMAIN="other.test", ACME_PROFILE="brief", CERTIFICATE_HOURS="1")
    wait_until(lambda: secured.trusted("other.test"), 90)
    before = secured.certificate("other.test")["serialNumber"]
    started = secured.containers()["traefik"]["State"]["StartedAt"]
    answers: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(secured.get(name="other.test").status)
            over.wait(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_until(lambda: secured.certificate("other.test")["serialNumber"] != before)
        time.sleep(0.5)  # requests after it, too
    finally:
        over.set()
        asking.join()
    assert set(answers) == {200}
    assert len(answers) > 100
    assert secured.containers()["traefik"]["State"]["StartedAt"] == started


def test_stored_certificate_is_used_again(secured: Secured) -> None:
    """After a restart, and after `down` and `up`, the authority sees no second order."""
    # From here on Pebble, which remembers no account over a restart, could give no further certificate.
    before = secured.certificate()
    issued = secured.issued()
    secured.compose("restart", "traefik")
    wait_until(secured.trusted)
    assert secured.certificate() == before
    assert secured.issued() == issued
    secured.compose("down")
    secured.compose("up", "--detach", "--wait")
    wait_until(secured.trusted)
    assert secured.certificate() == before
    assert secured.issued() == 0  # of another Pebble, which remembers nothing


def test_authority_away_later(secured: Secured) -> None:
    """A stored certificate is served, whether the authority is there or not."""
    before = secured.certificate()
    secured.compose("stop", "--timeout", "0", "pebble")
    secured.compose("restart", "traefik")
    wait_until(secured.trusted)
    assert secured.certificate() == before


def test_staging_and_production_keep_apart() -> None:
    """Certificates of another authority than Let's Encrypt's are in a file of their own."""
    stores = set()
    for authority in ("", "https://acme-staging-v02.api.letsencrypt.org/directory"):
        argv = ("docker", "compose", "config", "--format", "json")
        config = json.loads(run(*argv, cwd=REPO, env={"PATH": "/usr/bin:/usr/local/bin:/bin", "ACME_CA": authority}))
        stores.add(config["services"]["traefik"]["environment"]["TRAEFIK_CERTIFICATESRESOLVERS_ACME_ACME_STORAGE"])
    assert len(stores) == 2
