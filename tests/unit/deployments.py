"""What each deployment says of the app and its migration, whatever its form: compose.yaml, and what is in deploy/."""

import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPO

MIGRATE, RUN = "/opt/stack/bin/migrate", "/opt/stack/bin/run"
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass
class Runs:
    """One container or unit: `settings` by their names there; `facts` that its form can say, in compose.yaml's terms.

    The role is app, migrate, or process: another one of the app's own.
    """

    where: str
    role: str
    settings: dict[str, str]
    facts: dict[str, Any]
    # What asks it: a path and a port for each purpose.
    probes: dict[str, tuple[str, str]] = field(default_factory=dict)


def size(text: str) -> int:
    """Bytes of 512m, 512M or 512Mi."""
    found = re.fullmatch(r"(\d+)([kmg]?)i?b?", text.lower())
    assert found, text
    return int(found[1]) * UNITS[found[2]]


def seconds(text: str) -> float:
    """Of 30, 30s, 30.0s or 2m."""
    found = re.fullmatch(r"(\d+)(?:\.0)?(m?)s?", text)
    assert found, text
    return int(found[1]) * (60 if found[2] else 1)


def defaults(text: str) -> str:
    """A file of Compose's with what it says where nothing is set."""
    while text != (text := re.sub(r"\$\{\w+(?::?-([^${}]*)|:?\+[^${}]*)?\}", r"\1", text)):
        pass
    return text


def tmpfs(service: dict[str, Any]) -> "list[tuple[str, int]]":
    """What can be written to, and how much: the short form, or the one that a Swarm takes."""
    short = [one.partition(":") for one in service.get("tmpfs", [])]
    found = [(path, size(options.rpartition("size=")[2])) for path, _, options in short]
    mounts = [one for one in service.get("volumes", []) if isinstance(one, dict) and one.get("type") == "tmpfs"]
    return found + [(one["target"], size(str(one["tmpfs"]["size"]))) for one in mounts]


def pairs(given: Any) -> dict[str, str]:
    """An `environment` in either form."""
    listed = given if isinstance(given, dict) else dict(one.partition("=")[::2] for one in given or [])
    return {name: "" if value is None else str(value) for name, value in listed.items()}


def of_service(where: str, service: dict[str, Any]) -> Runs:
    """A service of a Compose file or of a Swarm's."""
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    command = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
    role = "migrate" if MIGRATE in command else "process" if RUN in command else "app"
    facts = {
        "user": service.get("user"),
        "memory": size(str(service.get("mem_limit") or limits.get("memory"))),
        "processes": service.get("pids_limit") or limits.get("pids"),
        "capabilities": service.get("cap_drop"),
        "read-only root": service.get("read_only"),
        "writable": tmpfs(service),
    }
    if role == "app":
        facts["grace"] = seconds(str(service.get("stop_grace_period")))
        facts["start"] = seconds(str(service["healthcheck"].get("start_period")))
        facts["check"] = service["healthcheck"]["test"]
    return Runs(where, role, pairs(service.get("environment")), facts)


def compose() -> dict[str, Runs]:
    """compose.yaml's, by role; the settings as a slot gets them without any set."""
    found: Any = yaml.safe_load(defaults((REPO / "compose.yaml").read_text()))
    runs = (of_service("compose.yaml", found["services"][name]) for name in ("app-1", "migrate"))
    return {one.role: one for one in runs}


def swarm(folder: Path) -> Iterator[Runs]:
    for file in sorted(folder.glob("*.yml")):
        services = yaml.safe_load(defaults(file.read_text()))["services"]
        for name, service in services.items():
            if any(one.startswith("STACK_") for one in pairs(service.get("environment"))):
                yield of_service(f"{file.relative_to(REPO)}: {name}", service)


def pods(document: Any) -> "Iterator[tuple[dict[str, Any], dict[str, Any]]]":
    """Each container anywhere in it, patches included, with its pod's."""
    if isinstance(document, str) and "containers:" in document.lower():
        yield from pods(yaml.safe_load(document))
    elif isinstance(document, list):
        for one in document:
            yield from pods(one)
    elif isinstance(document, dict):
        for name, value in document.items():
            if name in ("containers", "initContainers"):
                yield from ((document, one) for one in value)
            else:
                yield from pods(value)


def settings_file(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("settings.env")):
        lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
        found |= dict(line.partition("=")[::2] for line in lines)
    return found


def kubernetes(folder: Path) -> Iterator[Runs]:
    named = settings_file(folder)
    for file in sorted(folder.rglob("*.yaml")):
        for pod, one in pods(list(yaml.safe_load_all(file.read_text()))):
            command = [*one.get("command", []), *one.get("args", [])]
            role = "migrate" if MIGRATE in command else "process" if RUN in command else "app"
            security = {**pod.get("securityContext", {}), **one["securityContext"]}
            ports = {port["name"]: str(port["containerPort"]) for port in one.get("ports", [])}
            probes = {name.removesuffix("Probe"): one[name] for name in one if name.endswith("Probe")}
            volumes = {volume["name"]: volume["emptyDir"] for volume in pod.get("volumes", [])}
            facts = {
                "user": f"{security['runAsUser']}:{security['runAsGroup']}",
                "memory": size(one["resources"]["limits"]["memory"]),
                "capabilities": security["capabilities"]["drop"],
                "privileges": security["allowPrivilegeEscalation"],
                "read-only root": security["readOnlyRootFilesystem"],
            }
            if volumes:
                mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
                facts["writable"] = [(mounts[name], size(one["sizeLimit"])) for name, one in volumes.items()]
            if role == "app":
                facts["grace"] = float(pod["terminationGracePeriodSeconds"])
                facts["start"] = float(probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"])
            asked = {
                name: (probe["httpGet"]["path"], ports[probe["httpGet"]["port"]]) for name, probe in probes.items()
            }
            own = {entry["name"]: "" for entry in one.get("env", [])}
            yield Runs(f"{file.relative_to(REPO)}: {one['name']}", role, named | own, facts, asked)


def systemd(folder: Path) -> Iterator[Runs]:
    for file in sorted(folder.glob("*.service")):
        lines = [line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#")]
        says = {name: value for name, _, value in lines}
        role = "migrate" if says["ExecStart"].endswith("/bin/migrate") else "app"
        variables = " ".join(value for name, _, value in lines if name == "Environment").split()
        facts: dict[str, Any] = {"memory": size(says["MemoryMax"]), "processes": int(says["TasksMax"])}
        facts["capabilities"] = says["CapabilityBoundingSet"].split() or ["ALL"]
        if role == "app":
            facts |= {"grace": seconds(says["TimeoutStopSec"]), "start": seconds(says["TimeoutStartSec"])}
        yield Runs(str(file.relative_to(REPO)), role, pairs(variables), facts)


def supervisor(folder: Path) -> Iterator[Runs]:
    for file in sorted(folder.glob("*.conf")):
        read = configparser.RawConfigParser(inline_comment_prefixes=(";",))
        read.read_string(file.read_text())
        for section in read.sections():
            program = read[section]
            role = "migrate" if program["command"].endswith("/bin/migrate") else "app"
            variables = dict(re.findall(r'(\w+)="([^"]*)"', program.get("environment", "")))
            facts: dict[str, Any] = {"grace": seconds(program["stopwaitsecs"])} if role == "app" else {}
            yield Runs(f"{file.relative_to(REPO)}: {section}", role, variables, facts)


# By the folder in deploy/.
FORMS = {"kubernetes": kubernetes, "swarm": swarm, "systemd": systemd, "supervisor": supervisor}
