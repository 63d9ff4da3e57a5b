"""Builds the stack's layer in the app's image: runs there, as root, with the app's own Python.

    python install.py           the image's layer; a pip of the stack's own is at /mnt/pip
    python install.py FOLDER    the same programs without an image, in that folder: docs/supervisors.md

Standard library only.
"""

import compileall
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import cache_from_source
from pathlib import Path

SOURCE = Path(__file__).parent
# runtime/environment.py knows the image by it.
IMAGE = STACK = Path("/opt/stack")
# A cache of BuildKit's.
CACHE = Path("/mnt/cache")
# Each becomes a program of this Python's: its name, its module, its function. No -P and no -I, which older ones lack.
PROGRAMS = {
    "serve": ("serve", "main"),
    "check": ("serve", "check"),
    "migrate": ("migrate", "main"),
    "run": ("migrate", "run"),
    "revisions": ("environment", "show"),
    "schema": ("schema", "main"),
    "relay": ("relay", "main"),
    "cron": ("cron", "main"),
    "publish": ("publish", "main"),
    "page": ("page", "main"),
}
# The shebang, and not a shell, finds the app's Python: its own path and no symlink's target, or its venv would be lost.
# The first on the path is the program's own folder, but for PYTHONSAFEPATH. A process that the app spawns runs it
# again, as __mp_main__, and wants nothing of it.
PROGRAM = """\
#!{python}
if __name__ == "__main__":
    import sys
    sys.path[: not getattr(sys.flags, "safe_path", False)] = ["{code}"]
    from stack_runtime.{module} import {function}
    sys.exit({function}())
"""
LIBRARIES = ("lib", "db")
# Of the standard library what no server imports.
NEEDLESS = r"/(tests?|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|(site|dist)-packages)/"
# An older Uvicorn takes no networks as --forwarded-allow-ips; of the others the stack's own needs what these have.
OLDEST = {"Python": (3, 10), "uvicorn": (0, 31), "websockets": (13, 0), "typing_extensions": (4, 0)}
# By number they are known to Postgres: postgres/Dockerfile.
USERS = {"app": 10001, "owner": 10002}
# Where Uvicorn is, and the versions, of the app's where it has them. None is imported: one of ours may need another's.
FOUND = """
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
sys.path.append("{lib}")
print(find_spec("uvicorn").origin)
for name in ("uvicorn", "websockets", "typing_extensions"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
WORKS = """
import sys
sys.path.append("{lib}")
sys.path.insert(1, "{first}")
import uvicorn.protocols.http.auto, uvicorn.protocols.websockets.auto
"""


def fail(words: str) -> None:
    print(words, file=sys.stderr)
    sys.exit(1)


def install(name: str) -> None:
    """The pinned packages of NAME.txt, in a folder of their own: those of the app stay as they are.

    Kept in the build's cache: each change of the app makes this layer again, and need not fetch them again.
    """
    requirements = SOURCE / f"{name}.txt"
    wanted = f"{requirements.read_text()} {sysconfig.get_config_var('SOABI')} {sys.version}"
    kept = CACHE / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            fetched = Path(folder, name)
            fetch(requirements, fetched)
            compileall.compile_dir(str(fetched), quiet=1)
            with contextlib.suppress(OSError):
                # Another build may have been faster.
                fetched.rename(kept)
    shutil.copytree(kept, STACK / name)


def compile_library(library: Path) -> None:
    """Compile the standard library, which the official images have as source alone: every start would do it again.

    What is compiled stays: a `RUN pip install` leaves what it imported. Kept in the build's cache as well, where only
    what is new is compiled.
    """
    missing = {}
    for path in library.rglob("*.py"):
        compiled = Path(cache_from_source(path))
        if not compiled.exists() and not re.search(NEEDLESS, str(path)):
            missing[path] = compiled
    if not missing:
        return
    kept = CACHE / f"library-{hashlib.sha256(sys.version.encode()).hexdigest()[:16]}"
    argv = [sys.executable, "-m", "compileall", "-qq", "-x", NEEDLESS, str(library)]
    subprocess.run(argv, env={**os.environ, "PYTHONPYCACHEPREFIX": str(kept)})
    for path, compiled in missing.items():
        # A file that can't be compiled is none that a server needs.
        if (made := kept / path.parent.relative_to("/") / compiled.name).exists():
            compiled.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, compiled)


def fetch(requirements: Path, target: Path) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    argv += ["--only-binary", ":all:", "--no-deps", "--require-hashes"]
    argv += ["--no-compile", "--target", str(target), "--requirement", str(requirements)]
    # By a variable: a pip of Python 3.10's knows no such option.
    own = {"PYTHONPATH": "/mnt/pip", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(argv, env={**os.environ, **own}, capture_output=True, text=True, errors="replace")
    if done.returncode:
        fail(f"The stack's packages can't be installed for {sys.executable} ({sys.version.split()[0]}): {done.stderr}")


def too_old(what: str, version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) < OLDEST[what]


def check_python(version: str) -> None:
    if too_old("Python", version):
        oldest = ".".join(map(str, OLDEST["Python"]))
        fail(f"Python {version} of the app's image is too old for the stack: {oldest} or newer is needed.")


def choose_uvicorn() -> None:
    """Where the app's Uvicorn is too old, put the stack's own before it, with what reads HTTP and WebSockets for it.

    Nothing else of the app's changes: what that Uvicorn needs besides is older than any FastAPI.
    """
    lib, folder = STACK / "lib", STACK / "first"
    place, *lines = ask(FOUND.format(lib=lib)).splitlines()
    versions = dict(line.split() for line in lines)
    old = [name for name, version in versions.items() if too_old(name, version)]
    if "uvicorn" in old:
        print(f"Uvicorn {versions['uvicorn']} of the app's image is too old for the stack, whose own serves the app.")
        old.append("httptools")
    elif lib not in Path(place).parents:
        # What the app has together is its own affair.
        old = []
    if old:
        folder.mkdir()
    for name in old:
        file = name if (lib / name).exists() else f"{name}.py"
        (folder / file).symlink_to(f"../lib/{file}")
    ask(WORKS.format(lib=lib, first=folder))


def ask(program: str) -> str:
    """What a program of this Python's prints, with the app's packages; of one that fails, a sentence ends the build."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        fail(f"Uvicorn can't be imported: {last_line(done.stderr)}")
    return done.stdout


def last_line(said: str) -> str:
    return "".join(said.strip().splitlines()[-1:])


def record_revisions() -> None:
    """What the app's own Alembic knows, for `/health` and the migration: neither env.py nor a database is needed."""
    if not any(Path(name).exists() for name in ("alembic.ini", "pyproject.toml")):
        return
    # Not as a file: its folder would come before the app's.
    program = (SOURCE / "revisions.py").read_text()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", errors="replace")
    said = last_line(done.stdout or done.stderr)
    if done.returncode or not done.stdout:
        fail(f"The app's Alembic configuration can't be read: {said or f'exit code {done.returncode}'}")
    if found := json.loads(said):
        (STACK / "migrations.json").write_text(json.dumps(found))


def make_readable(folder: Path) -> None:
    """Let every uid read what is there, whatever the umask of the clone; what is so already is not copied again."""
    if folder == Path("/"):
        return
    for parent, folders, files in os.walk(folder):
        for name in [".", *folders, *files]:
            path = Path(parent, name)
            if path.is_symlink():
                continue
            mode = path.stat().st_mode
            wanted = mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)
            if wanted != mode:
                path.chmod(wanted)


def open_homes(folders: list[Path], top: Path = Path("/")) -> None:
    """Let every uid reach these: /root is closed to others, and so is what adduser makes, with all that is below."""
    below = {folder: [one for one in folder.parents if top in one.parents] for folder in folders if folder.exists()}
    closed = {one for parents in below.values() for one in parents if not one.stat().st_mode & 0o001}
    for one in closed:
        one.chmod(one.stat().st_mode | 0o011)
    for folder, parents in below.items():
        if closed & {*parents}:
            make_readable(folder)


def add_users(file: Path = Path("/etc/passwd")) -> None:
    """Names for the numbers that the containers run as, where the image has others for neither."""
    lines = file.read_text().splitlines() if file.exists() else []
    taken = {part for line in lines for part in line.split(":")[:3:2]}
    for name, number in USERS.items():
        if str(number) not in taken:
            free = name if name not in taken else f"stack-{name}"
            lines.append(f"{free}:x:{number}:{number}::/tmp:/usr/sbin/nologin")
    file.write_text("\n".join([*lines, ""]))


def build() -> None:
    """The layer's packages, code and programs, and what the app's own Alembic knows, in the folder STACK."""
    check_python(sys.version.split()[0])
    for name in LIBRARIES:
        install(name)
    choose_uvicorn()
    code, programs = STACK / "code", STACK / "bin"
    package = code / "stack_runtime"
    package.mkdir(parents=True)
    for path in SOURCE.glob("*.py"):
        (package / path.name).write_text(path.read_text())
    programs.mkdir()
    for name, (module, function) in PROGRAMS.items():
        text = PROGRAM.format(python=sys.executable, code=code, module=module, function=function)
        (programs / name).write_text(text)
    for name in ("probe", "steady"):
        shutil.copy(SOURCE / name, programs)
    for program in programs.iterdir():
        program.chmod(0o755)
    record_revisions()
    compileall.compile_dir(str(package), quiet=1)
    make_readable(STACK)


def finish_image() -> None:
    """What the image needs besides: its standard library compiled, volumes' owners, users, files that all may read."""
    compile_library(Path(sysconfig.get_path("stdlib")))
    # Where publish.py finds its volume, and cron.py: it takes its owner from here.
    for name in ("static", "cron"):
        (STACK / name).mkdir()
        os.chown(STACK / name, USERS["app"], USERS["app"])
    add_users()
    open_homes([Path.cwd(), Path(sys.executable).parent, *map(Path, sys.path[1:])])
    make_readable(Path.cwd())


def main() -> None:
    global STACK, CACHE
    if not sys.argv[1:]:
        build()
        return finish_image()
    STACK = Path(sys.argv[1]).absolute()
    if STACK.exists() or STACK == IMAGE:
        fail(f"{STACK} is there already, or is an image's: name a new folder, one for each release.")
    CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fastapi-stack")
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        build()
    except BaseException:
        # The next try needs the name.
        shutil.rmtree(STACK, ignore_errors=True)
        raise


if __name__ == "__main__":
    main()
