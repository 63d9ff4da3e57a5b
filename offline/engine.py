"""Docker Engine and Compose where Docker's own repository can't be reached.

The distribution's packages are taken when they are new enough, as Ubuntu's are. Debian 12's (20.10, Compose v1) and
13's (26.1, Compose 2.26) are not: there a later suite's .deb files, which need only glibc 2.34, are unpacked beside the
system, and `start()` starts the daemon, as a service where systemd runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

SUITE = "forky"
ROOT = Path("/opt/docker-offline")
LOG = Path("/var/log/docker-offline.log")
UNIT = Path("/etc/systemd/system/docker.service")
PLUGINS = Path("/usr/local/lib/docker/cli-plugins")
# runc and iptables are Debian 12's own: the suite's runc needs glibc 2.38.
UNPACKED = ["docker.io", "docker-cli", "containerd", "docker-buildx", "docker-compose", "tini-static"]
SYSTEM = ["runc", "iptables", "ca-certificates", "xz-utils", "libseccomp2", "libsystemd0"]
# start_interval in health checks.
MINIMUM_ENGINE = (25, 0)
# env_file's `format: raw`; and before 2.29.3 `up` and `up --no-deps` took turns in recreating the same container
# (https://github.com/docker/compose/pull/12072).
MINIMUM_COMPOSE = (2, 30)


def run(*argv: str, **options: Any) -> str:
    """Run argv; a failure carries what it printed, because apt explains itself on standard output."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(argv, text=True, errors="replace", **pipes, **options)
    if done.returncode:
        raise OSError(f"`{' '.join(argv[:4])} …` failed:\n{done.stdout[-2000:]}")
    return str(done.stdout)


def apt(*argv: str, **options: Any) -> str:
    """Run apt-get without a question, waiting for another apt's lock."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", *argv, env=quiet, **options)


def version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version: (28, 5) of 28.5.2+dfsg4, and of Debian's 1:28.5 as well."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition(":")[2] or text)[:2])


def mirror() -> str:
    """DEBIAN_MIRROR, or the mirror that this machine's own apt uses. Raises OSError where that is not Debian's."""
    chosen = os.environ.get("DEBIAN_MIRROR")
    if not chosen:
        targets = run("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
        found = [line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")]
        if not found:
            raise OSError("apt knows no Debian mirror here: set DEBIAN_MIRROR to one.")
        chosen = found[0]
    return chosen.rstrip("/")


def distribution_packages() -> list[str]:
    """The distribution's package names, or [] when its engine or its Compose is too old."""
    policy = run("apt-cache", "policy", "docker.io", "docker-compose-v2", "docker-compose", "docker-cli")
    candidates = {}
    for line in policy.splitlines():
        if line and not line.startswith(" "):
            name = line.rstrip(":")
        elif "Candidate:" in line and "(none)" not in line:
            candidates[name] = line.split()[-1]
    compose = "docker-compose-v2" if "docker-compose-v2" in candidates else "docker-compose"
    for package, minimum in (("docker.io", MINIMUM_ENGINE), (compose, MINIMUM_COMPOSE)):
        if version(candidates.get(package, "0")) < minimum:
            return []
    return ["docker.io", "docker-buildx", compose, *(["docker-cli"] if "docker-cli" in candidates else [])]


def install() -> None:
    """Install the engine, Buildx and Compose. Raises OSError with what apt printed when that can't be done."""
    apt("update")
    packages = distribution_packages()
    if packages:
        apt("install", "--yes", "--no-install-recommends", "iptables", *packages)
        return
    apt("install", "--yes", "--no-install-recommends", *SYSTEM)
    with tempfile.TemporaryDirectory() as scratch:
        sources = Path(scratch, "sources.list")
        keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
        sources.write_text(f"deb [signed-by={keyring}] {mirror()} {SUITE} main\n")
        for folder in ("lists/partial", "archives/partial"):
            Path(scratch, folder).mkdir(parents=True)
        options = [
            f"Dir::Etc::SourceList={sources}",
            "Dir::Etc::SourceParts=-",
            f"Dir::State::Lists={scratch}/lists",
            f"Dir::Cache={scratch}",
            "APT::Sandbox::User=root",
            # A mirror that lags serves a Release file past its date; the signature is checked all the same.
            "Acquire::Check-Valid-Until=false",
        ]
        flags = [word for option in options for word in ("-o", option)]
        apt(*flags, "update")
        apt(*flags, "download", *UNPACKED, cwd=scratch)
        for package in sorted(Path(scratch).glob("*.deb")):
            run("dpkg", "-x", str(package), str(ROOT))
    link_client()


def link_client() -> None:
    """Put the client and its plugins where a shell and `docker` look, next to nothing that is there already."""
    PLUGINS.mkdir(parents=True, exist_ok=True)
    for plugin in (ROOT / "usr/libexec/docker/cli-plugins").iterdir():
        link(PLUGINS / plugin.name, plugin)
    if not shutil.which("docker"):
        link(Path("/usr/local/bin/docker"), ROOT / "usr/bin/docker")


def link(name: Path, target: Path) -> None:
    if not name.exists():
        name.unlink(missing_ok=True)
        name.symlink_to(target)


def start(seconds: int = 60) -> None:
    """Start the installed daemon and wait until it answers. Raises OSError with the end of its log when it doesn't."""
    unpacked = (ROOT / "usr/sbin/dockerd").exists()
    if Path("/run/systemd/system").is_dir():
        if unpacked:
            shutil.copy(Path(__file__).parent / UNIT.name, UNIT)
        run("systemctl", "enable", "--now", "docker")
    else:
        path = f"{ROOT}/usr/sbin:{ROOT}/usr/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        with LOG.open("ab") as log:
            # A session of its own: the daemon outlives this command and the terminal.
            subprocess.Popen(
                ["dockerd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )
    deadline = time.monotonic() + seconds
    while subprocess.run(["docker", "info"], capture_output=True).returncode:
        if time.monotonic() > deadline:
            log_end = LOG.read_text(errors="replace")[-1500:] if LOG.exists() else "see `journalctl -u docker`"
            raise OSError(f"dockerd did not answer within {seconds} s: {log_end}")
        time.sleep(0.3)
