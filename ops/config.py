"""What Compose resolved: compose.yaml with its settings filled in. Read once a verb, and passed on as a `Config`.

A value that Compose takes as it comes, and that a verb would fail over half-way, is refused here.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from ops import dotenv
from ops.allowed import NUMBER, URLS, check_values, refused
from ops.run import Stop, compose, last_line

# Where the stack's own Postgres listens.
OWN_SOCKET = "host=/var/run/postgresql"
# What compose.yaml has; any other service is of compose.override.yaml.
OF_THE_STACK = (
    *("traefik", "app-1", "app-2", "user", "migrate", "postgres", "backup"),
    *("maintenance", "static", "static-files"),
)
# Whose value says that a service is a process of the app's: process.yaml. And that two may never run at once.
ROLE, SINGLETON = "stack.role", "stack.singleton"
CRON = "cron"
# How many connections each of its containers opens.
CONNECTIONS = "stack.connections"
# Bytes that any container needs.
LEAST = 32 * 2**20
# How a port is reached from this machine that is published on all of its addresses.
ON_ALL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens there


@dataclass(frozen=True)
class Service:
    image: str
    environment: dict[str, str]
    # What it is built with.
    arguments: dict[str, str]
    # Bytes and CPUs that it may have; 0 is no limit.
    memory: int
    cpus: float
    labels: dict[str, str] = field(default_factory=dict)
    # How many containers.
    replicas: int = 1
    # How its image is built, as Compose has it.
    build: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    project: str
    services: dict[str, Service]
    # What they are called on this machine.
    volumes: dict[str, str]
    # The clients' network: whether it has IPv6, and its addresses.
    edge: str
    ipv6: bool
    subnets: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
    # On this machine, of HTTP and HTTPS.
    ports: tuple[int, int]
    # Seconds that a new slot may take.
    deploy_timeout: int
    # Seconds that a program of hooks/ may take.
    hook_timeout: int
    # The command that runs the app's own tests.
    app_test: str
    # None where the setting is empty: runtime/limits.py has the default.
    workers: int | None
    worker_memory: int | None
    pool_size: int | None
    max_connections: int | None
    body_limit: int | None
    # As it stands there: 64m, or nothing.
    tmp_size: str
    # By which this machine reaches the two ports.
    addresses: tuple[str, str] = ("127.0.0.1", "127.0.0.1")

    @property
    def processes(self) -> list[str]:
        """The app's processes beside the web."""
        return [name for name, one in self.services.items() if name not in OF_THE_STACK and one.labels.get(ROLE)]

    @property
    def crons(self) -> list[str]:
        """Those of them that run a crontab."""
        return [name for name in self.processes if self.services[name].labels[ROLE] == CRON]

    @property
    def accessories(self) -> list[str]:
        """The other services of compose.override.yaml, and the file server."""
        ours = {*OF_THE_STACK} - {"static"}
        found = (name for name, one in self.services.items() if name not in {*ours, *self.processes} and one.replicas)
        return list(found)

    @property
    def files(self) -> list[str]:
        """What brings the static files of a release, where there are any: STATIC_DIR."""
        return [name for name, one in self.services.items() if name == "static-files" and one.replicas]

    @property
    def names(self) -> list[str]:
        """The host names of DOMAIN, the canonical one first."""
        return self.services["traefik"].environment["DOMAIN"].split(",")

    @property
    def own_certificates(self) -> list[str]:
        """Those of them whose certificates are files of the user's."""
        return list(filter(None, self.services["traefik"].environment.get("OWN_CERTIFICATES", "").split(",")))

    @property
    def public(self) -> bool:
        return self.names != ["localhost"]

    @property
    def address(self) -> str:
        return f"https://{self.names[0]}" + ("" if self.ports[1] == 443 else f":{self.ports[1]}")


def parse(text: str) -> Config:
    """From what `docker compose config --format json` printed. Raises Stop with 2 for the first wrong setting."""
    found = json.loads(text)
    services = {name: service(one) for name, one in found["services"].items()}
    front = found["services"].get("traefik", {})
    doors = [one for one in front.get("ports", ()) if one.get("published")]
    ports, addresses = [str(one["published"]) for one in doors], [one.get("host_ip", "") for one in doors]
    if len(ports) < 2:  # Or the engine chose one, and nobody here knows it.
        way = "Publish both." if front else "docs/proxies.md is for who has none."
        raise Stop(f"./stack needs `traefik`, with HTTP_PORT and HTTPS_PORT. {way}", 2)
    slot, migration = services["app-1"].environment, services["migrate"].environment
    own = {
        "DEPLOY_TIMEOUT": str(found["x-deploy"]["timeout"]),
        "HOOK_TIMEOUT": str(found["x-deploy"]["hook"]),
        **dict(zip(("HTTP_PORT", "HTTPS_PORT"), ports)),
        **{name: migration[f"STACK_{name}"] for name in ("MIGRATE", "MIGRATE_DEADLINE", "TMP_SIZE")},
        **dict(zip(URLS, (slot["STACK_DATABASE_URL"], migration["STACK_DATABASE_URL"]))),
        "APP_ENTRYPOINT": services["migrate"].build.get("target", "keep"),
    }
    if ports[0] == ports[1]:
        raise Stop(f"HTTP_PORT={ports[0]} is wrong: HTTPS_PORT is the same.", 2)
    check_values({**services["traefik"].environment, **services["postgres"].environment, **own})
    check_sizes_of(services)
    if OWN_SOCKET in own["DATABASE_URL"]:
        raise Stop("DATABASE_URL is wrong: it names the stack's own Postgres, which is there without it. Remove it.", 2)
    if not own["DATABASE_URL"] and dotenv.chosen(URLS[1]):
        raise Stop(f"{URLS[1]} is nothing without {URLS[0]}: the app would have the stack's own Postgres.", 2)
    check_processes(services)
    edge = found["networks"]["edge"]
    return Config(
        project=found["name"],
        services=services,
        volumes={name: one["name"] for name, one in found["volumes"].items()},
        edge=edge["name"],
        ipv6=bool(edge.get("enable_ipv6")),
        subnets=[subnet(place, one["subnet"]) for place, one in enumerate(edge.get("ipam", {}).get("config") or [])],
        ports=(int(ports[0]), int(ports[1])),
        deploy_timeout=int(own["DEPLOY_TIMEOUT"]),
        hook_timeout=int(own["HOOK_TIMEOUT"]),
        app_test=found["x-deploy"]["test"],
        workers=whole("WORKERS", slot),
        worker_memory=whole("WORKER_MEMORY", slot),
        pool_size=whole("POOL_SIZE", slot),
        max_connections=whole("MAX_CONNECTIONS", slot),
        body_limit=whole("BODY_LIMIT", slot),
        tmp_size=slot["STACK_TMP_SIZE"],
        addresses=(ON_ALL.get(addresses[0], addresses[0]), ON_ALL.get(addresses[1], addresses[1])),
    )


def check_sizes_of(services: dict[str, Service]) -> None:
    """Raises Stop with 2 for what no container could live with, which the engine would take."""
    for name, prefix in (("app-1", "APP"), ("postgres", "POSTGRES")):
        memory, cpus = services[name].memory, services[name].cpus
        # POSTGRES_MEMORY=0 is no limit, and so is a Postgres that doesn't run.
        if memory < LEAST and (memory or prefix == "APP"):
            raise Stop(f"{prefix}_MEMORY is wrong: {memory} bytes. With a unit it is megabytes or more, like 512m.", 2)
        if not 0 <= cpus <= (os.cpu_count() or 1):
            raise Stop(f"{prefix}_CPUS={cpus:g} is wrong: this machine has {os.cpu_count()}; 0 is no limit.", 2)


def check_processes(services: dict[str, Service]) -> None:
    """Raises Stop with 2 when there would be two of what must be alone."""
    for name, one in services.items():
        if one.labels.get(SINGLETON) == "true" and one.replicas > 1:
            raise Stop(f"{name} has {SINGLETON}, and {one.replicas} replicas: it can have one.", 2)
        if not re.fullmatch(r"\d{1,4}", one.labels.get(CONNECTIONS, "0")):
            raise Stop(f"The label {CONNECTIONS} of {name} is wrong: a whole number.", 2)


def service(found: dict[str, Any]) -> Service:
    built = found.get("build") or {}
    given = (found.get("environment"), built.get("args"))
    environment, arguments = ({name: value or "" for name, value in (one or {}).items()} for one in given)
    # Compose has either form of each, and one container where neither is said.
    deploy = found.get("deploy") or {}
    limits = deploy.get("resources", {}).get("limits", {})
    memory = int(found.get("mem_limit") or limits.get("memory") or 0)
    cpus = float(found.get("cpus") or limits.get("cpus") or 0)
    replicas = found.get("scale", deploy.get("replicas", 1))
    labels = {name: str(value) for name, value in (found.get("labels") or {}).items()}
    command = tuple(found.get("command") or ())
    return Service(found.get("image", ""), environment, arguments, memory, cpus, labels, int(replicas), built, command)


def subnet(place: int, value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    setting, like = ("EDGE_SUBNET_IPV6", "fd5b:6c0a:213::/64") if place else ("EDGE_SUBNET", "10.213.80.0/28")
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        found = None
    # The gateway, Traefik, and the one that takes its place.
    if not found or found.num_addresses < 8:
        raise Stop(f"{setting}={value} is wrong: a network of at least 8 addresses, like {like}.", 2)
    return found


def whole(name: str, slot: dict[str, str]) -> int | None:
    value = slot.get(f"STACK_{name}")
    if value and not re.fullmatch(NUMBER, value):
        raise Stop(f"{name}={value} is wrong: a whole number, 1 or more.", 2)
    return int(value) if value else None


def load() -> Config:
    """Read it, and pass on what Compose warns of. Raises Stop with 2 when a setting is wrong."""
    done = config_now()
    if done.returncode:
        raise Stop(refused(last_line(done.stderr)), 2)
    # Of a `$` in a value, for one.
    print(done.stderr, end="", file=sys.stderr)
    return parse(done.stdout)


def resolved() -> str:
    """What Compose reads at this moment, as JSON, the release that `override` named included. Raises Stop."""
    done = config_now()
    if done.returncode:
        raise Stop(done.stderr.strip())
    return done.stdout


def config_now() -> subprocess.CompletedProcess[str]:
    """`docker compose config`, asked again only when .env, or what `override` sets, has changed since."""
    return config_of(dotenv.text(), dotenv.chosen("RELEASE"), dotenv.chosen("POSTGRES_VOLUME"))


@functools.lru_cache(maxsize=1)
def config_of(*_settings: str | None) -> subprocess.CompletedProcess[str]:
    return compose("config", "--format", "json", check=False)


def project_name() -> str:
    """For a verb that needs nothing else, and works whatever the other settings are. Raises Stop."""
    return str(json.loads(resolved())["name"])


def override(setting: str, value: str | None) -> None:
    """What Compose reads for RELEASE or POSTGRES_VOLUME from now on, whatever .env has; None: what .env has.

    .env says what serves, for a plain `docker compose` beside this one too. What is only about to serve is for the
    Compose commands of this verb alone, which take it from nowhere but their environment: nothing else is left there.
    """
    os.environ.pop(setting, None)
    if value is not None:
        os.environ[setting] = value
