"""From this checkout to a release: its image, and what must hold before it is put into service."""

from __future__ import annotations

import json
import re
import subprocess

from ops import dotenv
from ops.config import Config, override
from ops.release import releases, slots
from ops.run import PROGRESS, Stop, compose, docker, running

CHECK = ("/opt/stack/bin/check",)
# What it says first, and last: runtime/serve.py.
BEGUN, FOUND = "Looking for the app.", "The app is "
NOT_RUN = (
    'did not run the command that it was given. It must end with `exec "$@"`. To leave it out: APP_ENTRYPOINT=skip in '
    ".env. It said:"
)


def build(*services: str) -> None:
    """Build the services' images, after Compose's options. Raises Stop with what the step that failed printed."""
    built = compose("--progress", "plain", "build", *services, check=False)
    if not built.returncode:
        return
    lines = (built.stdout + built.stderr).splitlines()
    # `#12 ERROR: …` names the step, `#12 0.345 …` is what it printed.
    failed = next((line.split()[0] for line in lines if re.match(r"#\d+ ERROR", line)), "#")
    printed = [line.split(" ", 2)[-1] for line in lines if re.match(rf"{failed} [\d.]+ ", line)]
    raise Stop("\n".join(["The images can't be built:", *(printed or lines)[-20:]]))


def build_release(project: str, *options: str) -> str:
    """Build the app's image of this checkout, for Compose to start from now on; return the release. Raises Stop."""
    # Under a name of its own: a build that is interrupted leaves no half of a release.
    override("RELEASE", releases.DRAFT)
    build(*options, "migrate")
    draft = releases.image_id(project, releases.DRAFT)
    short = str(draft).rpartition(":")[2]
    # Without git a release is called what it is: its content.
    release = releases.of_checkout() or f"image-{short[:12]}"
    if any(one.name == release and one.image != draft for one in releases.history()):
        # The same code on another base, or with other settings of its build: the one that served stays.
        release += f"-base-{short[:7]}"
    docker("tag", releases.image_name(project, releases.DRAFT), releases.image_name(project, release))
    docker("image", "rm", releases.image_name(project, releases.DRAFT))
    override("RELEASE", release)
    return release


def build_all(project: str) -> str:
    """Build every image, the app's of this checkout where no release serves; return the release. Raises Stop."""
    release = releases.current()
    build("traefik", "postgres", "backup")
    if not release or not releases.image_id(project, release):
        return build_release(project)
    override("RELEASE", release)
    return release


def check_settings(config: Config, release: str, service: str = "app-1", command: tuple[str, ...] = CHECK) -> None:
    """Whether a service's program takes its settings: that of the release, or the one of `service`.

    Raises Stop with 2 when it doesn't.
    """
    name, seconds, late = f"{config.project}-check", config.deploy_timeout, False
    # One that was killed may have left it.
    docker("rm", "--force", name, check=False)
    run = ("run", "--rm", "--name", name, "--no-deps", "--quiet-pull", "-T", service)
    if command == CHECK and not dotenv.own_postgres() and slots.database_changed(config):
        # One that can't be used must not replace one that can.
        command = (*CHECK, "--database")
    try:
        done = compose(*run, *command, check=False, seconds=seconds)
    except subprocess.TimeoutExpired:
        done, late = docker("logs", name, check=False), True
    finally:
        docker("rm", "--force", name, check=False)
    said = [line for line in done.stderr.strip().splitlines() if not PROGRESS.match(line)][-20:]
    was_run = command[:1] != CHECK or BEGUN in done.stdout or FOUND in done.stderr
    if not was_run and (before := entrypoint(releases.image_name(config.project, release))):
        raise Stop("\n".join([f"The image's ENTRYPOINT, {before}, {NOT_RUN}", *said]), 2)
    if late:
        raise Stop("\n".join([f"The app's import did not end within DEPLOY_TIMEOUT={seconds:g} s:", *said]))
    if done.returncode == 2:
        raise Stop(said[-1], 2)
    if done.returncode and service == "backup":
        # Its program has not been reached.
        raise Stop("\n".join(["BACKUP_S3_KEYS or BACKUP_NETWORK is wrong:", *said]), 2)
    if done.returncode:
        raise Stop("\n".join(["The app can't be started:", *said]))


def entrypoint(image: str) -> str:
    """The image's ENTRYPOINT, as words; empty without one."""
    found = docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", image).stdout
    return " ".join(json.loads(found) or [])


def migrate() -> bool:
    """Run the one-shot migration of the release that RELEASE names; return whether there was one. Raises Stop."""
    if dotenv.own_postgres() and not running("postgres"):
        compose("up", "--detach", "--wait", "--no-recreate", "postgres")
    compose("up", "--detach", "--no-deps", "--no-build", "migrate")
    [container] = compose("ps", "--all", "--quiet", "migrate").stdout.split()
    begun = docker("inspect", "--format", "{{.State.StartedAt}}", container).stdout.strip()
    try:
        code = docker("wait", container).stdout.strip()
    except KeyboardInterrupt:
        docker("stop", container)
        raise
    log = docker("logs", "--since", begun, container)
    said = log.stdout + log.stderr
    if code != "0":
        raise Stop("\n".join(["The migration failed:", *said.splitlines()[-20:]]))
    return "The schema went from" in said or "The migration's command ran." in said
