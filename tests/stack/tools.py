"""Debian's programs in a container on the host's network, which reaches the stack at 127.0.0.1 as a stranger would."""

import subprocess

from offline.images import BASE, build_base, exists
from tests.conftest import REPO

IMAGE = "stack-offline/test-tools:forky"


def tool(*argv: str, options: tuple[str, ...] = (), network: str = "host") -> "subprocess.CompletedProcess[str]":
    """Run a program of tests/stack/tools/Dockerfile; `options` are docker's."""
    if not exists(BASE):
        build_base()
    build = ["docker", "build", "--quiet", "--build-arg", f"BASE={BASE}", "--tag", IMAGE, "tests/stack/tools"]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True, timeout=300)
    run = ["docker", "run", "--rm", "--network", network, *options, IMAGE, *argv]
    return subprocess.run(run, cwd=REPO, capture_output=True, text=True, timeout=280)
