"""The command of a slot: checks the settings, completes them, and becomes the workers' supervisor (`app.worker`).

What takes long to import is imported where it is used: `main` must see to the signals first.
"""

import ipaddress
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.supervisor import SIGNALS

if TYPE_CHECKING:
    from app.settings import Settings

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
    from alembic.script import ScriptDirectory

    return " ".join(sorted(ScriptDirectory(str(MIGRATIONS)).get_heads()))


def complete(chosen: "Settings") -> dict[str, str]:
    """What was left open, as environment variables: sizes from the container's limits, trust in its networks."""
    from app import settings

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
    # The kernel drops a signal that PID 1 does not handle yet: Docker would wait, and then kill a slot that serves by
    # now. Blocked, a signal waits, over the change of program too, until the supervisor handles it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from app import settings

    os.environ.update(complete(settings.load_or_exit()))
    # Becoming another program, rather than calling it, gives back the memory that this took.
    os.execv(sys.executable, [sys.executable, "-m", "app.worker"])


if __name__ == "__main__":
    main()
