"""The command of a slot: checks the settings, completes them, and becomes the workers' supervisor (`app.worker`)."""

import ipaddress
import os
import sys
from pathlib import Path

from alembic.script import ScriptDirectory

from app import settings

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def own_networks(proc: Path = Path("/proc/net")) -> list[str]:
    """The IPv4 networks that this container is on: Traefik's, whatever addresses Docker chose for it."""
    networks = []
    for line in (proc / "route").read_text().splitlines()[1:]:
        _, destination, gateway, *_, mask, _, _, _ = line.split()
        if gateway == "00000000" and destination != "00000000":
            network, netmask = (ipaddress.IPv4Address(bytes.fromhex(word)[::-1]) for word in (destination, mask))
            networks.append(str(ipaddress.IPv4Network(f"{network}/{netmask}")))
    return networks


def schema_head() -> str:
    """The head revision of this code's migrations; several, if they branch, with spaces between."""
    return " ".join(sorted(ScriptDirectory(str(MIGRATIONS)).get_heads()))


def complete(chosen: settings.Settings) -> dict[str, str]:
    """What was left open, as environment variables: sizes from the container's limits, trust in its networks."""
    sizes = settings.sizes_or_exit(chosen)
    return {
        "WORKERS": str(sizes.workers),
        "POOL_SIZE": str(sizes.pool_size),
        "FORWARDED_ALLOW_IPS": chosen.forwarded_allow_ips
        or ",".join(filter(None, [*own_networks(), chosen.trusted_proxies])),
        # Here, because Alembic, which knows it, would cost each worker 7 MB.
        "SCHEMA_HEAD": schema_head(),
    }


def main() -> None:
    os.environ.update(complete(settings.load_or_exit()))
    # Becoming another program, rather than calling it, gives back the memory that this took.
    os.execv(sys.executable, [sys.executable, "-m", "app.worker"])


if __name__ == "__main__":
    main()
