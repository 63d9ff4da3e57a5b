import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ops.door import front
from ops.door.front import check_networks
from ops.run import Stop
from ops.settings import check_settings
from tests.conftest import REPO


def configured(**settings: str) -> dict[str, Any]:
    """compose.yaml with these settings, as Compose reads it."""
    argv = ["docker", "compose", "--env-file", "/dev/null", "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings}
    done = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60, check=True)
    config: dict[str, Any] = json.loads(done.stdout)
    return config


@pytest.mark.docker
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DOMAIN", "https://example.com"),
        ("DOMAIN", "app.example.com, www.example.com"),
        ("ALIASES", "both"),
        ("ACME_EMAIL", "you"),
        ("ACME_CA", "http://ca"),
        ("HEADER_LIMIT", "32k"),
        ("IN_FLIGHT_LIMIT", "0"),
        ("CLIENT_IN_FLIGHT_LIMIT", "none"),
        ("RATE_LIMIT", "0"),
        ("READ_TIMEOUT", "60s"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CERTIFICATE_HOURS", "two"),
    ],
)
def test_wrong_setting(setting: str, value: str) -> None:
    """What only Traefik would read is checked before it does: a sentence with the setting and what is allowed."""
    with pytest.raises(Stop, match=rf"^{setting}.* is wrong: ") as stop:
        check_settings(configured(**{setting: value})["services"]["traefik"]["environment"])
    assert stop.value.code == 2


@pytest.mark.docker
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"DOMAIN": "app.example.com,www.example.com", "ALIASES": "serve", "ACME_EMAIL": "you@example.com"},
        {"ACME_PROFILE": "shortlived", "CERTIFICATE_HOURS": "160"},
        {"TRUSTED_PROXIES": "192.0.2.0/24,2001:db8::/32,198.51.100.7", "RATE_LIMIT": "50", "WRITE_TIMEOUT": "0"},
    ],
    ids=str,
)
def test_right_settings(settings: dict[str, str]) -> None:
    """The defaults, and what .env.example shows."""
    check_settings(configured(**settings)["services"]["traefik"]["environment"])


@pytest.mark.docker
def test_profile_and_hours_go_together() -> None:
    """Six-day certificates that are renewed as if they lasted for 90 would end first."""
    with pytest.raises(Stop, match="set CERTIFICATE_HOURS=160"):
        check_settings(configured(ACME_PROFILE="shortlived")["services"]["traefik"]["environment"])


EDGE = {
    "name": "mine_edge",
    "enable_ipv6": True,
    "ipam": {"config": [{"subnet": "10.213.80.0/28"}, {"subnet": "fd5b:6c0a:213::/64"}]},
}


@pytest.mark.parametrize(
    ("name", "subnet", "setting"),
    [
        ("other_edge", "10.213.80.0/28", "EDGE_SUBNET=10.213.80.0/28"),
        ("other_edge", "fd5b:6c0a::/32", "EDGE_SUBNET_IPV6=fd5b:6c0a:213::/64"),
        ("other_edge", "172.18.0.0/16", None),
        ("mine_edge", "10.213.80.0/28", None),
    ],
)
def test_clash_of_networks(monkeypatch: pytest.MonkeyPatch, name: str, subnet: str, setting: str | None) -> None:
    """Addresses that another of Docker's networks has are found before Docker would refuse them."""
    listing = json.dumps([{"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}}])
    monkeypatch.setattr(front, "docker", lambda *_argv, **_more: subprocess.CompletedProcess([], 0, listing, ""))
    config = {"networks": {"edge": EDGE}}
    if setting is None:
        check_networks(config)
        return
    with pytest.raises(Stop, match=f"{setting} is taken by Docker's network other_edge"):
        check_networks(config)


def test_machine_without_ipv6(tmp_path: Path) -> None:
    """Docker can't make the network then: the setting that does without is named."""
    with pytest.raises(Stop, match="set EDGE_IPV6=false"):
        check_networks({"networks": {"edge": EDGE}}, tmp_path / "if_inet6")
