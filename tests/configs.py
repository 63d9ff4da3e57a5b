"""What Compose resolves compose.yaml to, for tests that need no engine."""

import ipaddress
from dataclasses import replace
from typing import Any

from ops.config import Config, Service

MIB = 2**20


def service(name: str, memory: int = 0, cpus: float = 0, **environment: str) -> Service:
    """`memory` in MiB."""
    return Service(f"shop-{name}", environment, {}, memory * MIB, cpus, {}, 1)


PLAIN = Config(
    project="shop",
    services={"traefik": service("traefik", DOMAIN="localhost")},
    volumes={"postgres-data": "shop_postgres-data", "backup": "shop_backup"},
    edge="shop_edge",
    ipv6=True,
    subnets=[ipaddress.ip_network("10.213.80.0/28"), ipaddress.ip_network("fd5b:6c0a:213::/64")],
    ports=(80, 443),
    deploy_timeout=120,
    hook_timeout=600,
    app_test="pytest",
    workers=None,
    worker_memory=None,
    pool_size=None,
    max_connections=None,
    body_limit=None,
    tmp_size="",
)


def config(**changes: Any) -> Config:
    """The default, but for these."""
    return replace(PLAIN, **changes)


def for_domain(domain: str, **changes: Any) -> Config:
    return config(services={"traefik": service("traefik", DOMAIN=domain)}, **changes)
