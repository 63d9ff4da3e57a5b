"""`./stack update`: another version of the stack's files, with a way back. What the user owns is never touched."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from ops.config import project_name
from ops.door import maintenance
from ops.lock import lock
from ops.machine.checks import configuration
from ops.machine.images import newest_bases
from ops.machine.install import ensure_docker
from ops.release import releases
from ops.release.up import serve_all
from ops.run import HERE, Stop, confirm, running, step, uninterrupted
from ops.update import apply
from ops.update.merge import (
    YOURS,
    Changes,
    commit,
    git,
    git_or_none,
    in_the_way,
    merge,
    not_committed,
    not_writable,
    stage,
)

# Apart from the user's own tags: a fork may have versions of its app's.
REFS = "refs/stack"
VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-[\w.-]+)?")
# The subjects of the commits by which `--back` knows what there is to undo; a merge on GitHub adds a number.
FORWARD = re.compile(r"Update the stack from (\S+) to (\S+)(?: \(#\d+\))?")
BACKWARD = re.compile(r"Take the stack back from (\S+) to (\S+)(?: \(#\d+\))?")


def forward(to: str | None, yes: bool) -> None:
    """Bring the stack's files to the version `to`, or the newest, and serve them. `yes`: don't ask. Raises Stop."""
    check_clone()
    with lock("update"):
        here, remote = version_of("HEAD"), fetch()
        wanted = choose(to, here, remote)
        if not wanted:
            fork = ". A fork names the stack's repository once: `git remote add stack ADDRESS`"
            print(f"This is {here}, and {remote} has no newer version{fork if remote == 'origin' else ''}.")
            return
        target = f"{REFS}/v{wanted}^{{commit}}"
        old = base(target, here, remote)
        changes, conflicts = merge(old, target)
        if conflicts:
            raise Stop(
                f"{wanted} changes these files, and so did you, in the same place:\n{indented(conflicts)}\n"
                "Nothing was changed. For each of them: keep your edit, take the stack's file, update, and make the "
                "edit again.\n"
                f"    git diff {old} HEAD -- FILE > my-edit\n"
                f"    git checkout {old} -- FILE && git commit -m 'As the stack has it' FILE"
            )
        check(changes)
        print(f"From {here} to {wanted}\n\n{news(git('show', f'{target}:CHANGELOG.md'), here, wanted)}\n")
        bring(changes, f"Update the stack from {here} to {wanted}", yes)
    go_on_with_the_new(wanted)


def back(yes: bool) -> None:
    """Bring the stack's files back to what they were before the last update, and put them into service. Raises Stop."""
    check_clone()
    with lock("update"):
        found = last_update()
        if not found:
            raise Stop("There is no update to take back: the history here has none, or it was taken back.")
        made, before, here = found
        if version_of("HEAD") != here:
            raise Stop(f"The last update went to {here}, and this is {version_of('HEAD')}: git knows the way back.")
        if not git_or_none("rev-parse", "--verify", "--quiet", f"{made}^"):
            raise Stop("This clone is shallow, and has no history from before the update: `git fetch --unshallow`.")
        known = git_or_none("rev-parse", "--verify", "--quiet", f"{made}^:{maintenance.VERB}")
        if maintenance.switched() and not known:
            raise Stop(f"Maintenance is on, and {before} could not end it: `./stack maintenance off` does.")
        changes, conflicts = merge(made, f"{made}^")
        if conflicts:
            raise Stop(
                f"You changed these since the update, where the update had changed them:\n{indented(conflicts)}\n"
                f"Nothing was changed. Take these edits back first: git checkout {made[:12]} -- FILE"
            )
        check(changes)
        print(f"Back from {here} to {before}\n")
        bring(changes, f"Take the stack back from {here} to {before}", yes)
    go_on_with_the_new(before)


def serve() -> None:
    """Put this version of the stack into service. Raises Stop."""
    ensure_docker()
    pull = True
    with contextlib.ExitStack() as bases:
        try:
            bases.enter_context(newest_bases(configuration()))
        except Stop as failure:
            print(f"Going on with the base images that are here: {failure}", file=sys.stderr)
            pull = False
        try:
            # The routes that maintenance copied are of the version before.
            if running(project_name(), "traefik"):
                maintenance.refresh(configuration())
            serve_all(pull)
        except Stop as failure:
            undone = (HERE / ".git").exists() and last_update()
            way = (
                "\n`./stack update --serve` tries it again, `./stack update --back` undoes the update."
                if undone
                else ""
            )
            raise Stop(f"{failure}{way}", failure.code) from None


def go_on_with_the_new(version: str) -> None:
    """Become the new version's `./stack update --serve`; on a machine where nothing has served, say what there is."""
    if not releases.current():
        print(f"The stack's files are those of {version}. Nothing has served here yet: `./stack up`.")
        return
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(HERE / "stack"), "update", "--serve"])


def check_clone() -> None:
    """Raises Stop with 2 when this is no repository with a commit."""
    if not (HERE / ".git").exists():
        raise Stop(
            f"{HERE} is no git repository, so that nothing could be undone. Make it one: git init && git add --all && "
            "git commit --message 'As it was' && git remote add stack ADDRESS",
            2,
        )
    try:
        if not git_or_none("rev-parse", "--verify", "--quiet", "HEAD"):
            raise Stop(f"The repository in {HERE} has no commit yet.", 2)
    except FileNotFoundError:
        raise Stop("git is not installed: `apt-get install git`.", 2) from None


def version_of(commit: str) -> str:
    """What VERSION says in the commit. Raises Stop."""
    found = git_or_none("show", f"{commit}:VERSION")
    if not found:
        raise Stop("The file VERSION is missing: it names the version of the stack that this is.")
    return found


def order(version: str) -> tuple[list[int], bool, str]:
    """By which versions are sorted: 1.10.0 after 1.9.0, and 1.10.0-rc.1 before 1.10.0."""
    found = VERSION.fullmatch(version)
    if not found:
        raise Stop(f"{version} is no version: it would be like 1.10.0.", 2)
    *numbers, early = found.groups()
    return [int(number) for number in numbers], not early, early or ""


def fetch() -> str:
    """Fetch the stack's versions; return the remote that has them: `stack`, or `origin` where there is none."""
    remote = next((name for name in ("stack", "origin") if git_or_none("remote", "get-url", name)), None)
    if not remote:
        raise Stop("git knows no remote here: `git remote add stack ADDRESS` names the stack's repository.", 2)
    with step(f"Fetch the versions from {remote}"):
        refs = f"+refs/tags/v*:{REFS}/v*"
        done = apply.run_git(
            HERE, "fetch", "--quiet", "--no-tags", "--prune", "--no-prune-tags", remote, refs, terminal=True
        )
        if done.returncode:
            raise Stop(f"{remote} can't be fetched from:\n{done.stderr.decode(errors='replace').strip()}")
    return remote


def choose(to: str | None, here: str, remote: str) -> str | None:
    """The version to go to, None when there is nothing newer. Raises Stop for one that isn't there, or is older."""
    refs = git("for-each-ref", "--format=%(refname)", REFS).split()
    there = [name for name in (ref.rpartition("/v")[2] for ref in refs) if VERSION.fullmatch(name)]
    if to:
        wanted = to.removeprefix("v")
        if wanted not in there:
            listed = ", ".join(sorted(there, key=order)) or "none"
            raise Stop(f"{remote} has no version {wanted}. It has: {listed}.", 2)
        if order(wanted) < order(here):
            raise Stop(f"{wanted} is older than {here}, which is here. `--back` takes the last update back.", 2)
        return wanted if wanted != here else None
    newest = max((name for name in there if order(name)[1]), key=order, default=here)
    return newest if order(newest) > order(here) else None


def base(target: str, here: str, remote: str) -> str:
    """The commit of the stack's repository whose files those here were once, by its id."""
    common = git_or_none("merge-base", "HEAD", target)
    # It may be some commits further on than the tag. After an update it is of an older version than what is here.
    if common and git_or_none("show", f"{common}:VERSION") == here:
        return common
    tagged = git_or_none("rev-parse", "--verify", "--quiet", f"{REFS}/v{here}^{{commit}}")
    if not tagged:
        raise Stop(f"VERSION says {here}, and {remote} has no such version: nobody can tell what you changed since.")
    return tagged


def check(changes: Changes) -> None:
    """Raises Stop when anything of the user's would be written over."""
    for found, what in (
        (not_committed(changes), "You changed these, and did not commit it. Commit it, or `git checkout` them:"),
        (in_the_way(changes), "These stand where the stack has files of its own. Move them:"),
        (not_writable(changes), "You may not write into these folders. Run this as their owner, or with sudo:"),
    ):
        if found:
            raise Stop(f"{what}\n{indented(found)}\nNothing was changed.")


def bring(changes: Changes, subject: str, yes: bool) -> None:
    """Ask, and put the changes into place, as one commit. Raises Stop."""
    if not changes:
        raise Stop("The files here are that version's already.")
    print(f"{len(changes)} of the stack's files change. What is yours stays: {', '.join(YOURS)}.")
    serves = releases.current()
    confirm("Change them, and put them into service?" if serves else "Change them?", yes)
    with step("Put the files into place"), uninterrupted():
        try:
            stage(changes, commit(changes, subject + "\n"))
            apply.change_index(HERE)
        except OSError as error:
            apply.discard(HERE)
            raise Stop(f"{error}\nNothing was changed.") from None
        try:
            apply.apply(HERE)
        except OSError as error:
            raise Stop(f"{error}\nThe next `./stack` goes on with it.") from None


def last_update() -> tuple[str, str, str] | None:
    """The newest update that was not taken back: its commit, and the versions that it went from and to."""
    taken_back = 0
    for line in git("log", "--topo-order", "--format=%H %s").splitlines():
        name, _, subject = line.partition(" ")
        if BACKWARD.fullmatch(subject):
            taken_back += 1
        elif found := FORWARD.fullmatch(subject):
            if not taken_back:
                return name, found[1], found[2]
            taken_back -= 1
    return None


def news(changelog: str, here: str, wanted: str) -> str:
    """The sections of the versions after `here`, newest first; what has to be done stands before all else."""
    sections = re.split(r"^## (?=\d)", changelog, flags=re.MULTILINE)[1:]
    new = [one.strip() for one in sections if order(here) < order(one.split()[0]) <= order(wanted)]
    required, rest = [], []
    for one in new:
        parts = re.split(r"^(?=### )", one, flags=re.MULTILINE)
        must = [part.partition("\n")[2].strip() for part in parts if part.startswith("### You must")]
        required += [f"{one.split()[0]}\n\n{actions}" for actions in must]
        rest.append("## " + "".join(part for part in parts if not part.startswith("### You must")).strip())
    return "\n\n".join([*(["You must, for"] if required else []), *required, *rest])


def indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
