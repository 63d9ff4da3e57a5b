from pathlib import Path

import pytest
from app.settings import Settings
from app.supervisor import AT_ONCE

from app import limits, serve, worker

ROUTE = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010012AC	0003	0	0	0	00000000	0	0	0
eth0	000012AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth1	0000A8C0	00000000	0001	0	0	0	00F0FFFF	0	0	0
"""


def test_own_networks(tmp_path: Path) -> None:
    """The networks that the container is on, not the way out of them."""
    (tmp_path / "route").write_text(ROUTE)
    assert serve.own_networks(tmp_path) == ["172.18.0.0/16", "192.168.0.0/20"]


def test_no_network(tmp_path: Path) -> None:
    """A container without a network trusts nobody."""
    (tmp_path / "route").write_text(ROUTE.splitlines(keepends=True)[0])
    assert serve.own_networks(tmp_path) == []


def test_what_is_left_open_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers from the container's limits, trust in the container's networks, the head of the migrations."""
    monkeypatch.setattr(limits, "cpu_limit", lambda: 3.0)
    monkeypatch.setattr(limits, "memory_limit", lambda: None)
    monkeypatch.setattr(serve, "own_networks", lambda: ["172.18.0.0/16", "192.168.0.0/20"])
    completed = serve.complete(Settings())
    assert (completed["WORKERS"], completed["POOL_SIZE"]) == ("3", "5")
    assert completed["FORWARDED_ALLOW_IPS"] == "172.18.0.0/16,192.168.0.0/20"
    assert completed["SCHEMA_HEAD"]


def test_what_is_set_stays() -> None:
    """A setting names other proxies, and another number of workers."""
    completed = serve.complete(Settings(forwarded_allow_ips="10.0.0.0/8", workers=7))
    assert completed["WORKERS"] == "7"
    assert completed["FORWARDED_ALLOW_IPS"] == "10.0.0.0/8"


def test_uvicorn_stops_before_docker_kills() -> None:
    """Drain, graceful shutdown and the supervisor's last second end before the grace period does."""
    chosen = Settings(drain_seconds=5, stop_grace_seconds=30)
    graceful = worker.config(chosen).timeout_graceful_shutdown
    assert graceful
    assert chosen.drain_seconds + graceful + AT_ONCE < 30


def test_proxies_in_front_are_no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What TRUSTED_PROXIES names is passed over, beside the container's own network, in the search for the client."""
    monkeypatch.setattr(serve, "own_networks", lambda: ["172.18.0.0/16"])
    completed = serve.complete(Settings(trusted_proxies="192.0.2.0/24", workers=1))
    assert completed["FORWARDED_ALLOW_IPS"] == "172.18.0.0/16,192.0.2.0/24"
