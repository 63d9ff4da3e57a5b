"""The front door's network and ports."""

from __future__ import annotations

import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

from ops.config import Config
from ops.run import Stop, compose, docker, last_lines, running, step


def check_networks(config: Config, ipv6: Path = Path("/proc/net/if_inet6")) -> None:
    """The edge network's addresses are free, and the machine has IPv6 if the network wants it. Raises Stop."""
    if config.ipv6 and not (ipv6.exists() and ipv6.read_text()):
        raise Stop(
            "This machine has IPv6 switched off, and Docker can't make a network with it: set EDGE_IPV6=false.", 2
        )
    networks = docker("network", "ls", "--quiet").stdout.split()
    for network in json.loads(docker("network", "inspect", *networks, check=False).stdout or "[]"):
        if network["Name"] == config.edge:
            continue
        for part in network["IPAM"]["Config"] or []:
            taken = ipaddress.ip_network(part["Subnet"], strict=False)
            for subnet in config.subnets:
                if subnet.version == taken.version and subnet.overlaps(taken):
                    setting = "EDGE_SUBNET" if subnet.version == 4 else "EDGE_SUBNET_IPV6"
                    raise Stop(
                        f"{setting}={subnet} is taken by Docker's network {network['Name']} ({taken}): set another.", 2
                    )


def forget_stuck(project: str) -> None:
    """Remove a Traefik that doesn't run: where a change of its network failed, it can't be started again."""
    if not running(project, "traefik"):
        compose("rm", "--stop", "--force", "traefik")


def go_back(project: str, known: dict[str, Any], files: tuple[str, ...], *services: str) -> None:
    """Have these as they are in `known`, what Compose resolved of each; `files` are its options for that."""
    if back := [name for name in services if known.get(name, {"scale": 0}).get("scale", 1)]:
        with step(f"Go back to {', '.join(back)} as before"):
            forget_stuck(project)
            done = compose(*files, "up", "--detach", "--wait", "--no-deps", *back, check=False)
        if done.returncode:
            print("\n".join(["That failed, too:", *last_lines(done.stderr)]), file=sys.stderr)
