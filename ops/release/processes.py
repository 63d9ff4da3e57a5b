"""Your app's processes beside the web, and other services of compose.override.yaml; what runs once; static files.

A process runs the release's image: it is replaced after the slots, and goes back with them. Any other service is an
accessory, a Redis say: it is started first, and a deploy leaves it alone.
"""

from __future__ import annotations

import sys
import time

from ops.config import OF_THE_STACK, ROLE, Config
from ops.release import slots
from ops.release.slots import Container
from ops.run import GONE, Stop, compose, docker, inspect, last_lines, remove_container, running, step

NOT_PLACED = "The static files can't be put in place:"


def start_accessories(config: Config, names: list[str]) -> None:
    """Start them, and wait until they are healthy. Raises Stop; one that served before is back then, as it was."""
    if not names:
        return
    before = {one.id: one.restarts for one in slots.containers(config.project)}
    try:
        with step(f"Start {', '.join(names)}"):
            compose("up", "--detach", "--no-deps", *names)
            for name in names:
                wait_until_healthy(config, name, config.deploy_timeout, before)
    except (Stop, KeyboardInterrupt):
        if back := sorted(slots.served_services().keys() & {*names}):
            with step(f"Go back to {', '.join(back)} as before"):
                compose(*slots.AS_SERVED, "up", "--detach", "--no-deps", *back, check=False)
        raise


def missing(config: Config) -> list[str]:
    """The accessories that don't run: a deploy starts no other."""
    found = {one.service for one in slots.containers(config.project) if one.running}
    return [name for name in config.accessories if name not in found]


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


def run_once(project: str, service: str, failed: str, files: tuple[str, ...] = ()) -> str | None:
    """Run a service that ends; return what it said, None where that is gone. Raises Stop, which begins with `failed`.

    `files` as for `replace_process`.
    """
    compose(*files, "up", "--detach", "--no-deps", "--no-build", service)
    for found in inspect(*running(project, service, ended=True)):
        try:
            code = docker("wait", found["Id"], despite=GONE).stdout.strip()
        except KeyboardInterrupt:
            docker("stop", found["Id"])
            raise
        log = docker("logs", "--since", found["State"]["StartedAt"], found["Id"], despite=GONE)
        said = log.stdout + log.stderr
        if code and code != "0":
            raise Stop("\n".join([failed, *said.splitlines()[-20:]]))
        if code:
            return None if log.returncode else said
    # Somebody's prune took it: nobody knows how it ended, and it may run again.
    return run_once(project, service, failed, files)


def bring_files(config: Config) -> None:
    """Make the static files of the release readable, beside those that serve. Raises Stop."""
    if not config.files:
        return
    with step("Bring the static files"):
        name = f"{config.project}-bring"
        # One that was killed may have left it.
        remove_container(name)
        done = compose("run", "--rm", "--name", name, "--no-deps", "-T", *config.files, "--next", check=False)
        if done.returncode:
            # Of one that was killed, for want of memory say, there is nothing but the code.
            failed = [] if done.returncode == 2 else [f"{NOT_PLACED} exit code {done.returncode}."]
            older = "A release from before them can serve once STATIC_DIR is out of .env."
            raise Stop("\n".join([*failed, *last_lines(done.stderr), older]), 2 if done.returncode == 2 else 1)


def remove_others(config: Config, accessories: bool = False) -> None:
    """Remove the processes that compose.override.yaml has no more: they would go on with an old release.

    And the file server and its files, where STATIC_DIR is set no more. `accessories`: those too, unless a profile that
    isn't chosen has them: somebody started them by hand.
    """
    known, off = {*OF_THE_STACK, *config.services}, set()
    filters = [f"--filter=label=com.docker.compose.{one}" for one in (f"project={config.project}", "oneoff=False")]
    if accessories:
        # Traefik has the same settings now.
        off = {"static", "static-files"} - {*config.accessories, *config.files}
    else:
        filters.append(f"--filter=label={ROLE}")
    said = '{{.ID}} {{.Label "com.docker.compose.service"}}'
    listed = [line.split() for line in docker("ps", "--all", *filters, "--format", said).stdout.splitlines()]
    if any(name not in known for _, name in listed):
        # Once more, of all profiles: that is a call of Compose.
        known.update(compose("--profile", "*", "config", "--services").stdout.split())
    for one, name in listed:
        if name not in known - off:
            print(f"No setting and no file of Compose's has {name} any more: it is ended.", file=sys.stderr)
            docker("stop", one)
            docker("rm", one)
