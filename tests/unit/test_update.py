"""`./stack update` in real repositories: the whole command, and nothing of the user's changed."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.update.merge import YOURS, is_yours
from tests.conftest import REPO
from tests.unit.clones import Folder, cloned


def of_the_stack(folder: Folder, commit: str) -> set[str]:
    lines = folder.git("ls-tree", "-r", commit).splitlines()
    return {line for line in lines if not is_yours(line.split("\t")[1])}


def test_plain_clone(clone: Folder) -> None:
    """It has the newest version's files, in one commit; the sample is as it was, and --back restores what there was."""
    before = clone.files()
    said = clone.update()
    assert "From 1.0.0 to 1.2.0" in said
    assert of_the_stack(clone, "HEAD") == of_the_stack(clone, "refs/stack/v1.2.0^{commit}")
    assert clone.git("log", "-1", "--format=%s") == "Update the stack from 1.0.0 to 1.2.0"
    assert clone.git("status", "--short") == ""
    after = clone.files()
    assert after["app/main.py"] == before["app/main.py"]
    assert "app/new.py" not in after
    assert after["runtime/limits.py"][0] & 0o100
    assert after["k"][1] == b"a file now\n"
    assert "This is 1.2.0, and origin has no newer version" in clone.update()
    assert "Back from 1.2.0 to 1.0.0" in clone.update("--back")
    assert clone.files() == before
    assert clone.git("rev-parse", "HEAD^{tree}") == clone.git("rev-parse", "HEAD~2^{tree}")
    assert clone.git("log", "-1", "--format=%s") == "Take the stack back from 1.2.0 to 1.0.0"
    assert "no update to take back" in clone.refused("--back")


def test_required_actions_come_first(clone: Folder) -> None:
    """Of all the versions between; without an answer nothing is changed."""
    before = clone.state()
    done = clone.stack("update")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert clone.state() == before
    parts = ["You must, for", "1.2.0", "- Set THING=1 in .env.", "## 1.2.0", "- A thing.", "## 1.1.0", "- Another"]
    places = [done.stdout.index(part) for part in parts]
    assert done.stdout.count("Set THING") == 1
    assert "The first." not in done.stdout
    assert places[3:] == sorted(places[3:])
    assert places[2] < places[3]


def test_one_version_at_a_time_and_back(clone: Folder) -> None:
    """--to names a version, with or without its v; each --back takes one update back. It needs no branch."""
    clone.git("checkout", "--quiet", "--detach")
    first = clone.git("rev-parse", "HEAD^{tree}")
    clone.update("--to", "v1.1.0")
    second = clone.git("rev-parse", "HEAD^{tree}")
    clone.update("--to", "1.2.0")
    clone.update("--back")
    assert clone.git("rev-parse", "HEAD^{tree}") == second
    clone.update("--back")
    assert clone.git("rev-parse", "HEAD^{tree}") == first
    assert "It has: 1.0.0, 1.1.0, 1.2.0, 2.0.0-rc.1." in clone.refused("--to", "3", code=2)
    clone.update("--to", "2.0.0-rc.1")
    assert "1.2.0 is older than 2.0.0-rc.1" in clone.refused("--to", "1.2.0", code=2)


def test_what_is_yours_stays(clone: Folder) -> None:
    """Committed, staged, changed, untracked or ignored, byte for byte; what was staged is staged still."""
    clone.commit({"requirements.txt": "fastapi\nmine\n"})
    clone.write({"app/main.py": "# mine\n", "app/mine.py": "x = 1\n", ".env": "DOMAIN=localhost\n", "app.env": "A=1\n"})
    clone.write(
        {"compose.override.yaml": "services: {}\n", "Makefile": "all:\n", "migrations/1.py": "", "Dockerfile": "F"}
    )
    clone.git("add", "app/main.py", "Makefile")
    clone.write({"app/main.py": "# mine, and more\n"})
    before = clone.files()
    clone.update()
    changed = {name for name, file in clone.files().items() if before.get(name) != file}
    assert not {name for name in changed if is_yours(name)}
    assert "Makefile" not in changed
    status = {"MM app/main.py", "A  Makefile", "?? app/mine.py"}
    assert set(clone.git("status", "--short", "app", "Makefile").splitlines()) == status
    assert set(clone.git("diff", "--no-renames", "--name-only", "HEAD~1", "HEAD").splitlines()) == changed | {
        "k/gone",
        "docs/old.md",
    }
    clone.update("--back")
    assert clone.files() == before


def test_fork_with_edits_of_the_stack(clone: Folder, upstream: Folder) -> None:
    """A fork's own commits, also in the stack's files, stay; the versions are the remote `stack`'s, not the fork's."""
    clone.git("remote", "rename", "origin", "stack")
    clone.git("remote", "add", "origin", "file:///nowhere")
    clone.git("tag", "v9.0.0")
    clone.edit("docs/lines.md", "line 2\n", "line two\n")
    clone.edit("docs/old.md", "line 3\n", "line three\n")
    edited = {name: (clone.path / name).read_text() for name in ("docs/lines.md", "docs/old.md")}
    clone.commit(edited | {"README.md": "Our shop\n", "shop/main.py": "x = 1\n"}, "lock/hold")
    before = clone.files()
    assert "From 1.0.0 to 1.2.0" in clone.update()
    after = clone.files()
    assert after["docs/lines.md"][1].decode().splitlines()[1:10:8] == ["line two", "line TEN"]
    assert b"line three\n" in after["docs/moved.md"][1]
    assert after["docs/moved.md"][1].endswith(b"new\n")
    assert after["README.md"][1] == b"Our shop\n"
    assert after["shop/main.py"] == before["shop/main.py"]
    assert {"docs/old.md", "lock/hold"} & after.keys() == set()
    clone.update("--back")
    assert clone.files() == before


def test_clone_of_a_commit_between_two_versions(upstream: Folder, tmp_path: Path) -> None:
    """What the stack changed since its last version is not taken for the user's edit, whole or shallow."""
    for options in ((), ("--depth", "1")):
        folder = Folder(tmp_path / f"clone{len(options)}")
        upstream.git("clone", "--quiet", "--branch", "between", *options, f"file://{upstream.path}", str(folder.path))
        folder.update("--to", "1.1.0")
        assert of_the_stack(folder, "HEAD") == of_the_stack(folder, "refs/stack/v1.1.0^{commit}")


def test_shallow_clone(upstream: Folder, tmp_path: Path) -> None:
    """It stays shallow, and can go back; a shallow clone of an updated fork says what it lacks for that."""
    clone = cloned(upstream, tmp_path / "clone", "--depth", "1")
    before = clone.files()
    clone.update()
    assert of_the_stack(clone, "HEAD") == of_the_stack(clone, "refs/stack/v1.2.0^{commit}")
    second = Folder(tmp_path / "second")
    clone.git("clone", "--quiet", "--depth", "1", f"file://{clone.path}", str(second.path))
    assert "git fetch --unshallow" in second.refused("--back")
    clone.update("--back")
    assert clone.files() == before


def test_without_git(clone: Folder, upstream: Folder) -> None:
    """A copy of the files is told what to do, and that works."""
    shutil.rmtree(clone.path / ".git")
    before = clone.files()
    done = clone.stack("update", "--yes")
    assert done.returncode == 2
    assert clone.files() == before
    assert "git init && git add --all && git commit --message 'As it was' && git remote add stack" in done.stderr
    clone.git("init", "--quiet")
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "As it was")
    assert "git remote add stack ADDRESS" in clone.refused(code=2)
    clone.git("remote", "add", "stack", f"file://{upstream.path}")
    clone.update()
    assert of_the_stack(clone, "HEAD") == of_the_stack(clone, "refs/stack/v1.2.0^{commit}")
    clone.commit({"VERSION": "1.1.7\n"})
    assert "VERSION says 1.1.7, and stack has no such version" in clone.refused()


def test_repository_that_can_not_be_reached(clone: Folder) -> None:
    """What git said."""
    clone.git("remote", "set-url", "origin", "file:///nowhere")
    assert "origin can't be fetched from:\nfatal: '/nowhere'" in clone.refused()


def edited(clone: Folder) -> None:
    clone.edit("docs/lines.md", "line 10\n", "line X\n")
    clone.commit({"docs/lines.md": (clone.path / "docs/lines.md").read_text()})


def added(clone: Folder) -> None:
    clone.commit({"traefik/dynamic/new.yaml": "mine: {}\n"})


def edited_one_that_goes(clone: Folder) -> None:
    clone.commit({"k/gone": "mine\n"})


def hidden(clone: Folder) -> None:
    clone.git("update-index", "--skip-worktree", "docs/lines.md")
    clone.write({"docs/lines.md": "# mine\n"})


def staged(clone: Folder) -> None:
    text = (clone.path / "docs/lines.md").read_text()
    clone.write({"docs/lines.md": "# mine\n"})
    clone.git("add", "docs/lines.md")
    clone.write({"docs/lines.md": text})


def link(clone: Folder) -> None:
    (clone.path / "a").symlink_to("app")


def locked(clone: Folder) -> None:
    clone.write({".git/index.lock": ""})


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (edited, "1.2.0 changes these files, and so did you, in the same place:\n    docs/lines.md\nNothing"),
        (added, "in the same place:\n    traefik/dynamic/new.yaml\n"),
        (edited_one_that_goes, "in the same place:\n    k/gone\n"),
        (lambda clone: clone.write({"docs/lines.md": "# mine\n"}), "did not commit it. Commit it, or `git checkout`"),
        (lambda clone: (clone.path / "docs/lines.md").unlink(), ":\n    docs/lines.md\nNothing was changed."),
        (hidden, ":\n    docs/lines.md\nNothing was changed."),
        (staged, ":\n    docs/lines.md\nNothing was changed."),
        (
            lambda clone: clone.write({"traefik/dynamic/new.yaml": "mine\n"}),
            "Move them:\n    traefik/dynamic/new.yaml\n",
        ),
        (lambda clone: clone.write({"a/new": "mine\n"}), "Move them:\n    a/new\n"),
        (lambda clone: clone.write({"a/new/folder/mine": ""}), "Move them:\n    a/new/folder/mine\n"),
        (lambda clone: clone.write({"k/mine": ""}), "Move them:\n    k/mine\n"),
        (link, "Move them:\n    a\n"),
        (locked, "index.lock': File exists"),
    ],
)
def test_nothing_is_half_done(clone: Folder, prepare: Callable[[Folder], object], said: str) -> None:
    """Whatever stands against an update is named, and not a byte, an index entry or a commit is another then."""
    prepare(clone)
    assert said in clone.refused()
    assert not (clone.path / ".stack/update").exists()


def test_edit_after_the_update_stands_against_the_way_back(clone: Folder) -> None:
    """It is named; what the user committed elsewhere since stays."""
    clone.update()
    clone.commit({"docs/moved.md": "mine\n"})
    assert "since the update, where the update had changed them:\n    docs/moved.md\n" in clone.refused("--back")
    clone.git("revert", "--no-edit", "HEAD")
    clone.commit({"app/main.py": "# mine\n", "docs/mine.md": "mine\n"})
    clone.update("--back")
    assert (clone.path / "app/main.py").read_text() == "# mine\n"
    assert (clone.path / "docs/mine.md").exists()
    assert not (clone.path / "docs/moved.md").exists()


def test_permissions(upstream: Folder, tmp_path: Path) -> None:
    """A file keeps its own, whatever the umask; a new one is as open as its folder, as Traefik needs it."""
    before = os.umask(0o077)
    try:
        clone = cloned(upstream, tmp_path / "clone")
        (clone.path / "traefik/dynamic").chmod(0o755)
        (clone.path / "ops/words.py").chmod(0o644)
        clone.update()
    finally:
        os.umask(before)
    modes = {name: mode for name, (mode, _) in clone.files().items()}
    assert modes["traefik/dynamic/new.yaml"] == 0o644
    assert modes["ops/words.py"] == 0o644
    assert modes["docs/lines.md"] == 0o600
    assert modes["runtime/limits.py"] == 0o700
    assert modes["a/new/folder"] == 0o600
    assert stat.S_IMODE((clone.path / "a/new").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may work in somebody else's clone")
def test_root_in_somebody_elses_clone(clone: Folder, upstream: Folder, tmp_path: Path) -> None:
    """All that root's update leaves is of the clone's owner, in the folder and in the repository."""
    owner, theirs = 12345, tmp_path / "upstream"
    upstream.git("clone", "--quiet", "--bare", str(upstream.path), str(theirs))
    clone.git("remote", "set-url", "origin", str(theirs))
    for folder in (clone.path, theirs):
        for one in [folder, *folder.rglob("*")]:
            os.chown(one, owner, owner)
    # pytest's folders are closed to others.
    for parent in list(clone.path.parents)[:-2]:
        parent.chmod(0o755)
    clone.update()
    found = [one for one in clone.path.rglob("*") if ".stack" not in one.parts]
    assert {one.stat().st_uid for one in found} == {owner}


def test_every_file_is_of_a_kind_that_an_update_writes() -> None:
    """Plain files; no links and no submodules."""
    argv = ["git", "ls-files", "--stage"]
    listed = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} <= {"100644", "100755"}


def test_no_way_back_from_maintenance_that_could_not_end(clone: Folder) -> None:
    """To a version that does not know it: refused while it is on, with the command that ends it."""
    text = (clone.path / "ops/door/maintenance.py").read_text()
    clone.commit({}, "ops/door/maintenance.py")
    clone.commit({"ops/door/maintenance.py": text}, message="Update the stack from 0.9.0 to 1.0.0")
    switch = clone.path / "traefik/dynamic/maintenance.yaml"
    switch.write_text('# {"by": "maintenance", "allow": [], "since": ""}\n')
    assert "Maintenance is on, and 0.9.0 could not end it: `./stack maintenance off`" in clone.refused("--back")
    switch.unlink()
    clone.update("--back")
    assert not (clone.path / "ops/door/maintenance.py").exists()


def test_pages_name_what_is_yours() -> None:
    """The page has the same list as the code."""
    page = (REPO / "docs/update.md").read_text()
    assert [one for one in YOURS if f"`{one}`" not in page] == []
