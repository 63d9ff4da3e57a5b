"""The CIS Docker Benchmark (1.8) for images and containers, item by item, against the running stack."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import REPO
from tests.stack.stacks import Stack, inspect, run
from tests.stack.tools import tool

Inspected = dict[str, Any]
DEFAULT_NETWORKS = ("host", "bridge", "default")
SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/run/docker.sock")


def binds(container: Inspected) -> list[str]:
    return [mount["Source"] for mount in container["Mounts"] if mount["Type"] == "bind"]


def published(container: Inspected) -> set[str]:
    return set(container["HostConfig"]["PortBindings"] or {})


def own_network(container: Inspected) -> bool:
    return container["HostConfig"]["NetworkMode"] not in DEFAULT_NETWORKS


def health_checked(container: Inspected) -> bool:
    """Or over when its work is done."""
    return bool(container["Config"].get("Healthcheck")) or container["HostConfig"]["RestartPolicy"]["Name"] == "no"


# Item, what it asks for, and whether a container is so. Not here: 5.1, 5.3, 5.23, 5.24 and 5.28 are the host's and the
# operator's; 5.12, CPU priority, is equal on purpose, but for the backups, which come last; 5.14, one interface, is not
# what a public server has; 5.15 would have five restarts, and a server that stays down after the fifth. 4.8, programs
# with the setuid bit, is the base images'; 5.4 and 5.26 keep them from working.
ITEMS: dict[str, Callable[[Inspected], bool]] = {
    "4.1 a user of its own": lambda one: one["Config"]["User"] not in ("", "0", "root"),
    "4.6, 5.27 a health check": health_checked,
    "5.2 AppArmor not switched off": lambda one: "unconfined" not in str(one["HostConfig"]["SecurityOpt"]),
    "5.4 no capability": lambda one: one["HostConfig"]["CapDrop"] == ["ALL"] and not one["HostConfig"]["CapAdd"],
    "5.5 not privileged": lambda one: not one["HostConfig"]["Privileged"],
    "5.6 no directory of the system": lambda one: not set(binds(one)) & set(SENSITIVE),
    "5.7 no sshd": lambda one: "22/tcp" not in (one["Config"].get("ExposedPorts") or {}),
    "5.8 no low port but 80 and 443": lambda one: published(one) <= {"80/tcp", "443/tcp"},
    "5.9 only the ports it needs": lambda one: published(one) in (set(), {"80/tcp", "443/tcp"}),
    "5.10, 5.30 not the host's network, nor docker0": lambda one: (
        one["HostConfig"]["NetworkMode"] not in DEFAULT_NETWORKS
    ),
    "5.11 a limit of memory": lambda one: one["HostConfig"]["Memory"] > 0,
    "5.13 a read-only root": lambda one: one["HostConfig"]["ReadonlyRootfs"],
    "5.16 not the host's processes": lambda one: one["HostConfig"]["PidMode"] != "host",
    "5.17 not the host's IPC": lambda one: one["HostConfig"]["IpcMode"] != "host",
    "5.18 no device": lambda one: not one["HostConfig"]["Devices"],
    "5.19 the engine's ulimits": lambda one: not one["HostConfig"]["Ulimits"],
    "5.20 no shared mount": lambda one: not [mount for mount in one["Mounts"] if mount.get("Propagation") == "shared"],
    "5.21 not the host's names": lambda one: one["HostConfig"]["UTSMode"] != "host",
    "5.22 the default seccomp": lambda one: "seccomp" not in str(one["HostConfig"]["SecurityOpt"]),
    "5.25 no other cgroup": lambda one: not one["HostConfig"]["CgroupParent"],
    "5.26 no new privileges": lambda one: "no-new-privileges:true" in one["HostConfig"]["SecurityOpt"],
    "5.29 a limit of processes": lambda one: one["HostConfig"]["PidsLimit"] > 0,
    "5.31 not the host's users": lambda one: one["HostConfig"]["UsernsMode"] != "host",
    "5.32 not the engine's socket": lambda one: not [path for path in binds(one) if "docker.sock" in path],
}


@pytest.fixture(scope="module")
def containers(stack: Stack) -> dict[str, Inspected]:
    return stack.containers()


@pytest.mark.parametrize("item", ITEMS)
def test_container(containers: dict[str, Inspected], item: str) -> None:
    """Every container of the stack keeps it."""
    assert [name for name, container in containers.items() if not ITEMS[item](container)] == []


def test_images_hold_no_secret(stack: Stack) -> None:
    """4.10: nothing that looks like one in an image's environment or in the steps that made it."""
    suspect = re.compile(r"(?i)(password|secret|token|api_?key)=\S")
    for container in stack.containers().values():
        image = container["Image"]
        assert not [line for line in inspect(image)["Config"]["Env"] or [] if suspect.search(line)]
        assert not suspect.search(run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image))


def test_no_add_in_dockerfiles() -> None:
    """4.9: COPY, which fetches nothing and unpacks nothing."""
    for dockerfile in REPO.glob("**/Dockerfile"):
        if ".venv" not in dockerfile.parts:
            assert not re.search(r"^ADD ", dockerfile.read_text(), re.MULTILINE), dockerfile


def test_shellcheck() -> None:
    """ShellCheck has nothing to say about any script."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=REPO).splitlines()
    scripts = [
        path for path in listed if (REPO / path).read_bytes().partition(b"\n")[0].endswith((b"/sh", b" bash", b"/bash"))
    ]
    assert "postgres/tune" in scripts
    done = tool("shellcheck", *scripts, options=("--volume", f"{REPO}:/repo:ro", "--workdir", "/repo"))
    assert done.returncode == 0, done.stdout
