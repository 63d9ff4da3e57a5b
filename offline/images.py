"""Stand-ins for the official base images, built from Debian's and PyPI's packages under names of their own.

debootstrap makes the base, `offline/Dockerfile` the images. What is there is never built again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from offline.engine import SUITE, apt, mirror, run

HERE = Path(__file__).parent
OURS = "stack-offline/"
BASE = f"{OURS}debian:{SUITE}"
# Setting that chooses a base image: (its stand-in, the target in offline/Dockerfile).
STAND_INS = {
    "PYTHON_IMAGE": (f"{OURS}python:3.14-slim", "python"),
    "POSTGRES_IMAGE": (f"{OURS}postgres:18-{SUITE}", "postgres"),
    "TRAEFIK_IMAGE": (f"{OURS}traefik:v3.7.15", "traefik"),
    "REDIS_IMAGE": (f"{OURS}redis:8-{SUITE}", "redis"),
    "NGINX_IMAGE": (f"{OURS}nginx:1.30-{SUITE}", "nginx"),
}
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# With which debootstrap checks what it fetches.
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def exists(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def build(setting: str) -> str:
    """Build the stand-in for one base-image setting unless it is there; return its name. Raises OSError."""
    image, target = STAND_INS[setting]
    if not exists(image):
        if not exists(BASE):
            build_base()
        run("docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--target", target, "--tag", image, str(HERE))
    return image


def build_base(suite: str = SUITE, image: str = BASE) -> None:
    """A minimal Debian of the suite. It trusts what this machine trusts: its network may inspect TLS."""
    if not shutil.which("debootstrap") or not KEYS.exists():
        apt("update")
        # On Ubuntu nothing else brings the keys.
        apt("install", "--yes", "--no-install-recommends", "debootstrap", "debian-archive-keyring")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        # The script by name: an older debootstrap doesn't know the suite.
        script = "/usr/share/debootstrap/scripts/sid"
        checked = ("--force-check-gpg", "--variant=minbase", "--include=ca-certificates")
        run("debootstrap", *checked, suite, str(root), mirror(), script)
        # A mirror that lags serves a Release file past its date; the signature is checked all the same.
        Path(root, "etc/apt/apt.conf.d/90lagging-mirror").write_text('Acquire::Check-Valid-Until "false";\n')
        if BUNDLE.exists():
            shutil.copyfile(BUNDLE, Path(root, *BUNDLE.parts[1:]))
        for cache in Path(root, "var/cache/apt/archives").glob("*.deb"):
            cache.unlink()
        archive = Path(scratch, "root.tar")
        run("tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), ".")
        trust = f"ENV PIP_CERT={BUNDLE} SSL_CERT_FILE={BUNDLE}"
        run("docker", "import", "--change", trust, str(archive), image)
