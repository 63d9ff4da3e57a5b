"""From a bare machine to an engine."""

from __future__ import annotations

import os
import re
import shutil
import sys
import urllib.request
from pathlib import Path

from offline import engine
from ops.run import Stop, engine_facts, step

MINIMUM = {"Docker Engine": engine.MINIMUM_ENGINE, "Docker Compose": engine.MINIMUM_COMPOSE}
MANUAL = "https://docs.docker.com/engine/install/"


def ensure_docker() -> None:
    """An engine that answers and is new enough, installed and started where that is possible."""
    facts = None
    try:
        facts = engine_facts() if shutil.which("docker") else None
    except Stop as stop:
        if "permission denied" in str(stop):
            raise Stop(
                "You may not use Docker here: add yourself to the group `docker`, or run this with sudo."
            ) from None
    if not facts:
        if os.geteuid():
            raise Stop("No Docker engine answers, and it takes root to install or start one: sudo ./stack up")
        try:
            if not (shutil.which("dockerd") or (engine.ROOT / "usr/sbin/dockerd").exists()):
                install_docker()
            with step("Start the engine"):
                engine.start()
        except OSError as error:
            raise Stop(f"Docker can't be had on this machine: {error}\nInstall it by hand: {MANUAL}") from None
        facts = engine_facts()
    plugins = {one["Name"]: one.get("Version") for one in facts["ClientInfo"]["Plugins"] or []}
    found = {"Docker Engine": facts["ServerVersion"], "Docker Compose": plugins.get("compose") or "(none)"}
    for program, text in found.items():
        if engine.version(text) < MINIMUM[program]:
            least = ".".join(map(str, MINIMUM[program]))
            raise Stop(f"{program} {text.strip()} is too old: this needs {least} or newer. {MANUAL}")


def install_docker() -> None:
    if not shutil.which("apt-get"):
        raise OSError("only Debian and Ubuntu, which have apt-get, are known to this command.")
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    address = f"https://download.docker.com/linux/{system['ID']}"
    try:
        key = urllib.request.urlopen(f"{address}/gpg", timeout=20).read()  # noqa: S310 - https, two lines above
    except OSError:
        key = None
    if not key:
        with step("Install Docker from the distribution's packages (Docker's own can't be reached)"):
            return engine.install()
    with step("Install Docker from its own packages"):
        # https://docs.docker.com/engine/install/debian/
        keyring = Path("/etc/apt/keyrings/docker.asc")
        keyring.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        keyring.write_bytes(key)
        sources = Path("/etc/apt/sources.list.d/docker.sources")
        sources.write_text(
            f"Types: deb\nURIs: {address}\nSuites: {system['VERSION_CODENAME']}\n"
            f"Components: stable\nSigned-By: {keyring}\n"
        )
        plugins = ("docker-buildx-plugin", "docker-compose-plugin")
        try:
            engine.apt("update")
        except OSError as error:
            # It has nothing for this release of the system, perhaps, and every `apt update` would say so from now on.
            sources.unlink()
            print(f"Docker's own packages can't be had, so these are the distribution's: {error}", file=sys.stderr)
            return engine.install()
        engine.apt("install", "--yes", "docker-ce", "docker-ce-cli", "containerd.io", *plugins)
