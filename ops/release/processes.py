"""Your app's processes beside the web, and other services of compose.override.yaml.

A process runs the release's image: it is replaced after the slots, and goes back with them. Any other service is an
accessory, a Redis say: it is started first, and a deploy leaves it alone.
"""

from __future__ import annotations

import sys
import time

from ops.config import ROLE, Config
from ops.release import slots
from ops.release.slots import Container
from ops.run import Stop, compose, docker


def start_accessories(config: Config) -> None:
    """Start them, and wait until they are healthy. Raises Stop."""
    if config.accessories:
        compose("up", "--detach", "--wait", "--no-deps", *config.accessories)


def of(config: Config, name: str) -> list[Container]:
    """A process's containers."""
    return [one for one in slots.containers(config.project) if one.service == name]


def replace_process(config: Config, name: str, timeout: int, files: tuple[str, ...] = ()) -> None:
    """Bring a process to what Compose would start, and wait until it runs. Raises Stop.

    Compose ends the old container before it starts the new one, so a process that must be alone is. `files`: Compose's
    options for other files than those here.
    """
    before = of(config, name)
    if len(before) > config.services[name].replicas:
        # What an interrupted Compose left: it would end one while it starts another.
        compose("rm", "--stop", "--force", name)
    compose(*files, "up", "--detach", "--no-deps", "--no-build", name)
    wait_until_healthy(config, name, timeout, {one.id: one.restarts for one in before})


def wait_until_healthy(config: Config, name: str, timeout: int, restarts: dict[str, int]) -> None:
    """Wait until all of its containers run on. Raises Stop when one ends, or is not healthy in time."""
    deadline = time.monotonic() + timeout
    while True:
        found = of(config, name)
        for one in found:
            if one.status == "exited" or one.restarts > restarts.get(one.id, 0):
                log = docker("logs", "--tail", "20", one.id, check=False)
                raise Stop(f"{name} ended:\n{log.stdout}{log.stderr}".rstrip())
        if all(one.healthy for one in found):
            return
        if time.monotonic() > deadline:
            raise Stop(f"{name} was not healthy within DEPLOY_TIMEOUT={timeout} s.")
        time.sleep(0.5)


def remove_others(config: Config) -> None:
    """Remove the processes that compose.override.yaml has no more: they would go on with an old release."""
    ours = f"--filter=label=com.docker.compose.project={config.project}"
    said = '{{.ID}} {{.Label "com.docker.compose.service"}}'
    listed = docker("ps", "--all", ours, f"--filter=label={ROLE}", "--format", said).stdout.splitlines()
    for one, name in map(str.split, listed):
        if name not in config.processes:
            print(f"{name} is in no file of Compose's any more: it is ended.", file=sys.stderr)
            docker("stop", one)
            docker("rm", one)
