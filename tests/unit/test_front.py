import json
import subprocess
from pathlib import Path

import pytest

from ops.door import front
from ops.door.front import check_networks
from ops.run import Stop
from tests.configs import PLAIN


@pytest.mark.parametrize(
    ("name", "subnet", "setting"),
    [
        ("other_edge", "10.213.80.0/28", "EDGE_SUBNET=10.213.80.0/28"),
        ("other_edge", "fd5b:6c0a::/32", "EDGE_SUBNET_IPV6=fd5b:6c0a:213::/64"),
        ("other_edge", "172.18.0.0/16", None),
        ("shop_edge", "10.213.80.0/28", None),
    ],
)
def test_clash_of_networks(monkeypatch: pytest.MonkeyPatch, name: str, subnet: str, setting: str | None) -> None:
    """Addresses that another of Docker's networks has are found before Docker would refuse them."""
    listing = json.dumps([{"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}}])
    monkeypatch.setattr(front, "docker", lambda *_argv, **_more: subprocess.CompletedProcess([], 0, listing, ""))
    if setting is None:
        check_networks(PLAIN)
        return
    with pytest.raises(Stop, match=f"{setting} is taken by Docker's network other_edge"):
        check_networks(PLAIN)


def test_machine_without_ipv6(tmp_path: Path) -> None:
    """Docker can't make the network then: the setting that does without is named."""
    with pytest.raises(Stop, match="set EDGE_IPV6=false"):
        check_networks(PLAIN, tmp_path / "if_inet6")
