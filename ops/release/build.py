"""From this checkout to a release: its image, and what must hold before it is put into service."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from ops import dotenv
from ops.config import OF_THE_STACK, Config, override, parse, resolved
from ops.lock import STATE
from ops.machine.checks import configuration
from ops.machine.images import base_images, chosen_bases
from ops.machine.install import ensure_docker
from ops.release import processes, releases, slots
from ops.run import HERE, Stop, compose, docker, last_lines, remove_container, running, step

# The stack's own Dockerfiles, by the file that calls for each, in this order.
OWN = {"uv.lock": "uv", "poetry.lock": "poetry", "requirements.txt": "requirements", "pyproject.toml": "pyproject"}
# What the images of the stack's own services are made of that were last put into service.
BUILT = STATE / "built"
CHECK = ("/opt/stack/bin/check",)
# What it says first, and last: runtime/serve.py.
BEGUN, FOUND = "Looking for the app.", "The app is "
NOT_RUN = (
    'did not run the command that it was given. It must end with `exec "$@"`. To leave it out: APP_ENTRYPOINT=skip in '
    ".env. It said:"
)
CHOSEN = "Your app has no Dockerfile: the stack's own. Written by ./stack."


def prepared() -> Config:
    """The configuration, once there are an engine, the base images and a Dockerfile of the app. Raises Stop."""
    ensure_docker()
    config = configuration()
    base_images(config)
    choose_dockerfile()
    return config


def choose_dockerfile() -> None:
    """Write down which Dockerfile builds an app that has none. Raises Stop with 2 where there is nothing to go by."""
    folder = releases.app_folder()
    written = re.search(
        rf"^# {re.escape(CHOSEN)}\nAPP_DOCKERFILE=.*/runtime/dockerfiles/\w+\.Dockerfile\n?",
        dotenv.text(),
        re.MULTILINE,
    )
    if dotenv.chosen("APP_IMAGE") or (dotenv.chosen("APP_DOCKERFILE") and not written):
        return
    if not folder.is_dir():
        raise Stop(f"APP_DIR names {folder}, and there is no such folder.", 2)
    if (folder / "Dockerfile").exists():
        if written:
            dotenv.replace_file(dotenv.FILE, dotenv.text().replace(written[0], ""))
        return
    own = next((name for file, name in OWN.items() if (folder / file).exists()), None)
    if own == "pyproject" and not re.search(r"^\[project\]", (folder / "pyproject.toml").read_text(), re.MULTILINE):
        # Where Poetry's projects had their dependencies before the standard was there.
        own = "poetry"
    if not own:
        raise Stop(
            f"{folder} has neither a Dockerfile nor one of {', '.join(OWN)}: nobody knows how to build the app.", 2
        )
    # From the app's folder on, as Compose reads it.
    path = os.path.relpath(HERE / f"runtime/dockerfiles/{own}.Dockerfile", folder)
    dotenv.write({"APP_DOCKERFILE": path}, CHOSEN)


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


def build_release(project: str, *options: str, again: bool = False) -> str:
    """Build the app's image of this checkout, for Compose to start from now on; return the release. Raises Stop.

    `again`: somebody's prune took the first one, between its build and its name.
    """
    # Under a name of its own: a build that is interrupted leaves no half of a release.
    override("RELEASE", releases.DRAFT)
    build(*options, "migrate")
    draft = releases.image_id(project, releases.DRAFT)
    short = str(draft).rpartition(":")[2]
    # Without git a release is called what it is: its content.
    release = releases.of_checkout() or f"image-{short[:12]}"
    served = any(one.name == release for one in releases.history())
    if served and releases.image_id(project, release) not in (None, draft):
        # The same code on another base, or with other settings of its build: the one that served stays.
        release += f"-base-{short[:7]}"
    names = (releases.image_name(project, releases.DRAFT), releases.image_name(project, release))
    if docker("tag", *names, check=again).returncode:
        return build_release(project, *options, again=True)
    docker("image", "rm", releases.image_name(project, releases.DRAFT), check=False)
    override("RELEASE", release)
    return release


def build_all(project: str, built: bool, anew: bool = False) -> str:
    """Build every image, unless `built`, and the app's as `release_to_serve` does; return the release. Raises Stop."""
    if not built:
        build(*built_here(parse(resolved())))
    return release_to_serve(project, anew)


def remember_built() -> None:
    """Write down what those images were made of: they serve, and need not be built again."""
    if made := made_of():
        dotenv.replace_file(BUILT, made)


def release_to_serve(project: str, anew: bool = False) -> str:
    """The release that serves; where there is none, or its image is gone, that of this checkout, built. Raises Stop.

    `anew`: this checkout's in any case.
    """
    # An .env that was replaced has no line of ours.
    served = [releases.current(), *(one.name for one in reversed(releases.history()))]
    release = None if anew else next(filter(None, served), None)
    if release and not releases.image_id(project, release):
        print(f"The image of release {release} is not on this machine: this checkout takes its place.", file=sys.stderr)
        release = None
    if not release:
        return build_release(project)
    override("RELEASE", release)
    return release


def built_here(config: Config) -> list[str]:
    """The stack's own services that run."""
    return [*slots.LEFT_ALONE, *(name for name in config.accessories if name in OF_THE_STACK)]


def is_built() -> bool:
    """Whether the images of the stack's own services are there, of just these files."""
    return BUILT.exists() and BUILT.read_text() == made_of()


def made_of() -> str | None:
    """A name for those images and all that goes into them: settings, bases and files; None when one is missing.

    Compose would find out by a build from its cache, which costs more than all else of a `./stack up`.
    """
    config = parse(resolved())
    images = [config.services[name].image for name in built_here(config)]
    builds = [config.services[name].build for name in built_here(config)]
    ids = releases.image_ids(*images, *chosen_bases(config).values())
    made = hashlib.sha256(repr((ids, builds)).encode())
    for one in builds:
        for folder in filter(None, (one.get("context"), *one.get("additional_contexts", {}).values())):
            for path in sorted(Path(folder).rglob("*")):
                # One that only root may read, a key in traefik/dynamic, goes into no image.
                content = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""
                made.update(f"{path} {path.stat().st_mode}".encode() + content)
    return made.hexdigest() if ids else None


def check_release(config: Config, release: str) -> None:
    """Whether the release can be started with its settings, and its crontab is right. Raises Stop."""
    check_settings(config, release)
    for name in config.crons:
        try:
            check_settings(config, release, name, (*config.services[name].command, "--check"))
        except Stop as failure:
            if "can't be read" not in str(failure) and failure.code == 2:
                raise
            older = f"A release from before it can serve once {name} is out of compose.override.yaml."
            raise Stop(f"{failure}\n{older}", failure.code) from None


def check_settings(config: Config, release: str, service: str = "app-1", command: tuple[str, ...] = CHECK) -> None:
    """Whether a service's program takes its settings: that of the release, or the one of `service`.

    Raises Stop with 2 when it doesn't.
    """
    name, seconds, late = f"{config.project}-check", config.deploy_timeout, False
    # One that was killed may have left it.
    remove_container(name)
    run = ("run", "--rm", "--name", name, "--no-deps", "--quiet-pull", "-T", service)
    if command == CHECK and not dotenv.own_postgres() and slots.database_changed(config):
        # One that can't be used must not replace one that can.
        command = (*CHECK, "--database")
    try:
        done = compose(*run, *command, check=False, seconds=seconds)
    except subprocess.TimeoutExpired:
        done, late = docker("logs", name, check=False), True
    finally:
        remove_container(name)
    said = plain(last_lines(done.stderr))
    was_run = command[:1] != CHECK or BEGUN in done.stdout or FOUND in done.stderr
    if not was_run and (before := entrypoint(releases.image_name(config.project, release))):
        raise Stop("\n".join([f"The image's ENTRYPOINT, {before}, {NOT_RUN}", *said]), 2)
    # A program may end without a word, or have said it elsewhere.
    evidence = said or [*done.stdout.splitlines()[-20:], f"It ended with exit code {done.returncode}."]
    if late:
        printed = said or ["It printed nothing."]
        raise Stop("\n".join([f"The app's import did not end within DEPLOY_TIMEOUT={seconds:g} s:", *printed]))
    if done.returncode == 2:
        raise Stop("\n".join(said[-1:] or evidence), 2)
    if done.returncode and service == "backup":
        # Its program has not been reached.
        raise Stop("\n".join(["BACKUP_S3_KEYS or BACKUP_NETWORK is wrong:", *evidence]), 2)
    if done.returncode:
        raise Stop("\n".join(["The app can't be started:", *evidence]))


def plain(lines: list[str]) -> list[str]:
    """What a program of the layer's said, where LOG_FORMAT=json made lines of JSON of it."""
    found = []
    for line in lines:
        try:
            one = json.loads(line)
            found += [*one["exception"].splitlines()] if one.get("exception") else [one["message"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            found.append(line)
    return found


def entrypoint(image: str) -> str:
    """The image's ENTRYPOINT, as words; empty without one."""
    found = docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", image).stdout
    return " ".join(json.loads(found) or [])


def start_database(project: str) -> None:
    """Start the stack's own Postgres and its backups where it doesn't run, and is what the app has. Raises Stop."""
    if dotenv.own_postgres() and not running(project, "postgres"):
        with step("Start Postgres"):
            compose("up", "--detach", "--wait", "--no-recreate", "postgres")
            slots.start_backup()


def migrate(project: str) -> bool:
    """Run the one-shot migration of the release that RELEASE names; return whether there was one. Raises Stop."""
    said = processes.run_once(project, "migrate", "The migration failed:")
    return said is None or "The schema went from" in said or "The migration's command ran." in said
