"""What Compose resolved: compose.yaml with its settings filled in."""

from __future__ import annotations

from typing import Any


def published(config: dict[str, Any]) -> list[int]:
    """The host's ports for HTTP and HTTPS."""
    return [int(port["published"]) for port in config["services"]["traefik"]["ports"]]
