"""What the command asks of the machine that it shares with the app: calls, room on the disk, images that stay."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.machine import checks
from ops.release.releases import KEPT, LAYER
from ops.run import Stop
from tests.conftest import REPO
from tests.stack.load import none_fails
from tests.stack.meanwhile import meanwhile
from tests.stack.stacks import CLEAN, Repository, base_images, prune, run, wait_until

COUNTING = '#!/bin/sh\necho "$*" >> {log}\nexec {docker} "$@"\n'


def calls(repository: Repository, folder: Path, *argv: str) -> list[str]:
    """The docker commands of a `./stack` that succeeds."""
    log, program = folder / "calls", folder / "docker"
    program.write_text(COUNTING.format(log=log, docker=shutil.which("docker")))
    program.chmod(0o755)
    done = repository.stack(*argv, PATH=f"{folder}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


def images(repository: Repository) -> set[str]:
    """The tags of the app's images."""
    return set(run("docker", "image", "ls", "--format", "{{.Tag}}", f"{repository.project}-app").split())


def cached(what: str) -> str:
    """What of it is in the build cache."""
    return run("docker", "buildx", "du", "--verbose", "--filter", what)


def deploy(repository: Repository, at: dict[str, Callable[[], object]]) -> "subprocess.CompletedProcess[str]":
    """A deploy to its end; each of `at` is called once, at the first line that it matches."""
    argv, said, left = [sys.executable, "stack", "deploy"], "", dict(at)
    with subprocess.Popen(argv, cwd=repository.folder, env=CLEAN, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            said += line
            for pattern in [one for one in left if re.match(one, line)]:
                left.pop(pattern)()
    print(said)
    assert not left
    return subprocess.CompletedProcess(argv, process.returncode, "", said)


def test_up_that_changes_nothing_asks_little(repository: Repository, tmp_path: Path) -> None:
    """Compose reads the configuration once, and hashes it; nothing is built, and all else is asked of the engine."""
    made = calls(repository, tmp_path, "up")
    composed = [one.removeprefix("compose ") for one in made if one.startswith("compose")]
    assert composed[0] == "config --format json"
    assert [one.split()[-3:] for one in composed[1:]] == [["config", "--hash", "*"]]
    assert len(made) <= 40


def test_up_after_a_change_of_the_front_door(repository: Repository) -> None:
    """A setting of Traefik's, or a file of its image, makes it another container: that is no `Nothing changed`."""
    before = repository.containers()
    with (repository.folder / ".env").open("a") as env:
        env.write("HEADER_LIMIT=30000\n")
    done = repository.stack("up")
    assert done.returncode == 0, done.stderr
    assert "\nUp, in " in done.stdout
    with (repository.folder / "traefik/Dockerfile").open("a") as dockerfile:
        dockerfile.write("LABEL changed=yes\n")
    done = repository.stack("up")
    assert done.returncode == 0, done.stderr
    assert "\nUp, in " in done.stdout
    after = repository.containers()
    assert after["traefik"]["Config"]["Labels"]["changed"] == "yes"
    assert {name for name in after if after[name]["Id"] != before[name]["Id"]} == {"traefik"}
    assert "Nothing changed" in repository.stack("up").stdout
    repository.git("checkout", "--quiet", "traefik")
    assert repository.stack("up").returncode == 0


def test_full_disk(repository: Repository) -> None:
    """A deploy is refused before it builds, and says what to do; `up`, which builds nothing, is not."""
    [serving] = set(repository.releases().values())
    checks = (repository.folder / "ops/machine/checks.py").read_text()
    full = re.sub(r"DISK_GB, BUILD_GB = .*", "DISK_GB = BUILD_GB = 10**6", checks)
    repository.commit(**{"ops__machine__checks.py": full})
    try:
        done = repository.stack("deploy")
        assert done.returncode == 1
        assert re.search(r"The disk under /.* GB left, and a build needs 1000000\. .*docker builder prune", done.stderr)
        assert "==> Build" not in done.stderr
        done = repository.stack("up")
        assert done.returncode == 0, done.stderr
        assert set(repository.releases().values()) == {serving}
    finally:
        repository.checkout(repository.first)


def test_full_disk_of_the_image_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With containerd's image store the images are on its disk, which may have less room than the engine's."""
    monkeypatch.setattr(checks, "engine_facts", lambda: {"DockerRootDir": str(tmp_path)})
    monkeypatch.setattr(checks, "in_containerd", lambda: True)
    # Nothing is free there.
    monkeypatch.setattr(checks, "CONTAINERD", "/proc")
    with pytest.raises(Stop, match=r"The disk under /proc has 0\.0 GB left"):
        checks.check_room()
    monkeypatch.setattr(checks, "in_containerd", lambda: False)
    checks.check_room()


def test_failed_deploys_leave_nothing(repository: Repository) -> None:
    """The image of a release that never served goes with the deploy that failed, and its layer from the build cache."""
    before, mark = images(repository), f"mark-{time.time_ns()}"
    # A layer of the app's that is found again, right below the stack's.
    dockerfile = (repository.folder / "Dockerfile").read_text() + f"RUN echo {mark}\n"
    repository.commit(Dockerfile=dockerfile, **{"app__extra.py": "raise RuntimeError('as planned')\n"})
    try:
        assert repository.stack("deploy").returncode == 1
    finally:
        repository.checkout(repository.first)
    assert images(repository) == before
    assert len(before) <= KEPT
    [below] = re.findall(r"^ID:\s+(\S+)", cached(f"description~={mark}"), re.MULTILINE)
    assert below not in cached(LAYER)


def test_what_the_layer_keeps_is_not_pruned(tmp_path: Path) -> None:
    """The layer itself is; its packages, fetched and compiled, are for the next build."""
    [command] = re.findall(r'^    \["/bin/sh", (.+)\]$', (REPO / "runtime/Dockerfile").read_text(), re.MULTILINE)
    mark = f"mark-{time.time_ns()}"
    mount = f"--mount=type=cache,id={mark},target=/mnt/cache"
    (tmp_path / "Dockerfile").write_text(
        f"""FROM {base_images()["PYTHON_IMAGE"]}\nRUN {mount} ["/bin/true", {command}, "{mark}"]\n"""
    )

    def kinds(what: str) -> list[str]:
        return sorted(re.findall(r"^Type:\s+(\S+)", cached(what), re.MULTILINE))

    image = run("docker", "build", "--quiet", str(tmp_path)).strip()
    try:
        assert kinds(f"description~={mark}") == ["exec.cachemount", "regular"]
        assert kinds(f"description~={mark},{LAYER}") == ["regular"]
    finally:
        run("docker", "image", "rm", image)
        prune("builder", f"description~={mark}", "--all")


def test_prune_by_somebody_else(repository: Repository) -> None:
    """What it takes from a deploy under way, image or container, is made again: nothing fails."""
    release = repository.commit(**{"app__pruned.py": "# another release\n"})
    image, label = f"{repository.project}-app:{release}", f"label=com.docker.compose.project={repository.project}"
    made = ("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={image}", "--filter", "status=created")

    def remove_container() -> None:
        # The new slot is made, and not started while the old one drains.
        wait_until(lambda: bool(run(*made)))
        prune("container", label)

    with none_fails(repository.address):
        done = deploy(
            repository,
            {
                # What looks at it may be there for a moment.
                "==> Check the settings": lambda: wait_until(
                    lambda: "Untagged" in run("docker", "image", "rm", image, check=False)
                ),
                r"==> Migrate: \d": remove_container,
            },
        )
    assert done.returncode == 0, done.stderr
    assert f"Somebody removed the image of {release} meanwhile: once more." in done.stderr
    assert set(repository.releases().values()) == {release}


def test_rollback_after_a_prune(repository: Repository, tmp_path: Path) -> None:
    """That the image was removed is said, with the commands that make it again: they do, in few calls of docker."""
    [serving] = set(repository.releases().values())
    run("docker", "image", "rm", *(f"{repository.project}-app:{tag}" for tag in images(repository) - {serving}))
    done = repository.stack("rollback")
    assert done.returncode == 1
    assert f"The image of release {repository.first} was removed from this machine" in done.stderr
    assert f"To build it again: git checkout {repository.first} && ./stack deploy" in done.stderr
    assert done.stderr == repository.stack("rollback", repository.first).stderr
    repository.checkout(repository.first)
    made = calls(repository, tmp_path, "deploy")
    assert set(repository.releases().values()) == {repository.first}
    print(f"{len(made)} calls of docker")
    assert [one for one in made if one.startswith("compose") and "ps" in one.split()] == []
    # Twice what was measured: what waits polls the engine, and for longer on a busy machine.
    assert len(made) <= 150


def test_prune_of_what_was_just_built(repository: Repository, tmp_path: Path) -> None:
    """It has no name of its own yet, and is built again."""
    release = repository.commit(**{"app__just.py": "# another release\n"})
    draft = f"{repository.project}-app:building"
    done = repository.stack("deploy", PATH=meanwhile(tmp_path, after=f"docker image rm {draft} > /dev/null"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "built").exists()
    assert set(repository.releases().values()) == {release}
