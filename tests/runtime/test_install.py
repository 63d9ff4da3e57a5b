"""What the build of the stack's layer does to an image, as far as it needs none."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from runtime import install


@pytest.mark.parametrize(
    ("what", "version", "old"),
    [
        ("Python", "3.9.18", True),
        ("Python", "3.10.0", False),
        ("Python", "3.15.0a1", False),
        ("Python", "4.0.0", False),
        ("uvicorn", "0.30.6", True),
        ("uvicorn", "0.31.0", False),
        ("uvicorn", "1.0.0", False),
        ("websockets", "10.4", True),
        ("websockets", "13.0", False),
    ],
)
def test_too_old(what: str, version: str, old: bool) -> None:
    """By the first two numbers, as numbers."""
    assert install.too_old(what, version) is old


def test_version_that_is_too_old_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """It names what the app's image has, and what is needed."""
    install.check_python("3.14.0")
    with pytest.raises(SystemExit) as end:
        install.check_python("3.9.18")
    assert end.value.code == 1
    said = "Python 3.9.18 of the app's image is too old for the stack: 3.10 or newer is needed.\n"
    assert capsys.readouterr().err == said


def compiled(library: Path) -> dict[str, bytes]:
    return {str(path.relative_to(library)): path.read_bytes() for path in library.rglob("*.pyc")}


def test_standard_library_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that isn't yet, but for its tests; what the cache keeps of another state of it is not taken."""
    monkeypatch.setattr(install, "CACHE", tmp_path / "cache")
    library, tag = tmp_path / "library", sys.implementation.cache_tag
    for name in ("one.py", "package/two.py", "test/three.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("number = 1\n")
    (library / "broken.py").write_text("(")
    (library / "__pycache__").mkdir()
    # As a `pip install` of the app's own Dockerfile leaves what it imported.
    four = f"__pycache__/four.{tag}.pyc"
    (library / four).write_bytes(b"as it was")
    (library / "four.py").write_text("number = 4\n")
    install.compile_library(library)
    names = {f"__pycache__/one.{tag}.pyc", f"package/__pycache__/two.{tag}.pyc"}
    first = compiled(library)
    assert first.pop(four) == b"as it was"
    assert first.keys() == names
    install.compile_library(library)
    assert compiled(library) == {**first, four: b"as it was"}

    shutil.rmtree(library / "__pycache__")
    (library / "one.py").write_text("number = 22\n")
    os.utime(library / "one.py", (1, 1))
    install.compile_library(library)
    program = "import sys; sys.path.insert(0, sys.argv[1]); import one; print(one.number)"
    argv = [sys.executable, "-v", "-c", program, str(library)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "22\n"
    assert f"{library}/__pycache__/one.{tag}.pyc matches {library}/one.py" in done.stderr


LIB = {"uvicorn": "0.54.0", "websockets": "17.4", "httptools": "0.9", "typing_extensions": "4.16.0"}
USED = "uvicorn.protocols.{0}.auto"


@pytest.mark.parametrize(
    ("apps", "first"),
    [
        ({"uvicorn": "0.18.2"}, {"uvicorn", "httptools"}),
        ({"uvicorn": "0.30.6", "websockets": "10.4"}, {"uvicorn", "httptools", "websockets"}),
        ({"uvicorn": "0.18.2", "typing_extensions": "3.7.4.3"}, {"uvicorn", "httptools", "typing_extensions"}),
        ({"websockets": "10.4"}, {"websockets"}),
        ({"typing_extensions": "3.10"}, {"typing_extensions"}),
        # Whatever an app has together is its own affair.
        ({"uvicorn": "0.31.0", "websockets": "10.4", "typing_extensions": "3.10"}, set()),
        ({"uvicorn": "0.54.0", "websockets": "16.0"}, set()),
        ({}, set()),
    ],
    ids=["old", "with websockets", "with typing", "no Uvicorn", "typing alone", "new", "both new", "none"],
)
def test_older_uvicorn_gives_way_to_the_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apps: dict[str, str], first: set[str]
) -> None:
    """The stack's serves, with what reads the wire for it; all else of the app's is used as it is."""
    for place, versions in (("stack/lib", LIB), ("app", apps)):
        for name, version in versions.items():
            write_package(tmp_path / place, name, version)
    # In an environment that has none of them: this test's own has.
    (tmp_path / "python").write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/app exec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(install, "STACK", tmp_path / "stack")
    install.choose_uvicorn()
    found = {path.stem: path.resolve() for path in (tmp_path / "stack/first").glob("*")}
    assert found.keys() == first
    assert all(path.is_relative_to(tmp_path / "stack/lib") for path in found.values())


def write_package(folder: Path, name: str, version: str) -> None:
    """One that is a file or a folder, as the real one is, with what tells its version."""
    metadata = folder / f"{name}-{version}.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if name == "typing_extensions":
        (folder / f"{name}.py").touch()
        return
    for module in (name, *(USED.format(part).removesuffix(".auto") for part in ("http", "websockets"))):
        if module.startswith(name):
            (folder / module.replace(".", "/")).mkdir(parents=True, exist_ok=True)
            (folder / module.replace(".", "/") / "__init__.py").touch()
    if name == "uvicorn":
        for part in ("http", "websockets"):
            (folder / f"uvicorn/protocols/{part}/auto.py").touch()


def test_uvicorn_that_does_not_work_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the build, and not when a release is to serve."""
    write_package(tmp_path / "lib", "uvicorn", "0.54.0")
    (tmp_path / "lib/uvicorn/protocols/http/auto.py").write_text("import no_such_module")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(install, "STACK", tmp_path)
    with pytest.raises(SystemExit):
        install.choose_uvicorn()
    said = capsys.readouterr().err
    assert said == "Uvicorn can't be imported: ModuleNotFoundError: No module named 'no_such_module'\n"


@pytest.mark.parametrize("name", install.PROGRAMS)
def test_program_is_a_function(name: str) -> None:
    """Each program of the layer is a function that there is."""
    module, function = install.PROGRAMS[name]
    assert callable(getattr(import_module(f"runtime.{module}"), function))


@pytest.mark.parametrize("safe", ["", "1"])
def test_program_leaves_the_path_as_it_is(tmp_path: Path, safe: str) -> None:
    """But for its own folder: what PYTHONPATH names stays, also where PYTHONSAFEPATH leaves that folder out."""
    (tmp_path / "code/stack_runtime").mkdir(parents=True)
    (tmp_path / "code/stack_runtime/shown.py").write_text("import sys\ndef main(): print(sys.path[:2])")
    named = {"python": sys.executable, "code": tmp_path / "code", "module": "shown", "function": "main"}
    (tmp_path / "program").write_text(install.PROGRAM.format(**named))
    environment = {"PYTHONPATH": "/app/src", "PYTHONSAFEPATH": safe}
    done = subprocess.run([sys.executable, tmp_path / "program"], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{[str(tmp_path / 'code'), '/app/src']}\n", done.stderr


@pytest.mark.parametrize(
    ("before", "added"),
    [
        ("root:x:0:0::/root:/bin/sh\n", ["app:x:10001", "owner:x:10002"]),
        ("root:x:0:0::/root:/bin/sh", ["app:x:10001", "owner:x:10002"]),
        (None, ["app:x:10001", "owner:x:10002"]),
        # The number has a name, which is as good as another.
        ("web:x:10001:10001::/srv:/bin/sh\n", ["owner:x:10002"]),
        # The name has another number, and keeps it.
        ("app:x:1000:1000::/home/app:/bin/sh\n", ["stack-app:x:10001", "owner:x:10002"]),
        ("app:x:10001:10001::/tmp:/bin/sh\nowner:x:10002:10002::/tmp:/bin/sh\n", []),
    ],
)
def test_users_are_added(tmp_path: Path, before: str | None, added: list[str]) -> None:
    """Each number has a name then; what the image has stays as it is."""
    file = tmp_path / "passwd"
    if before is not None:
        file.write_text(before)
    install.add_users(file)
    lines = file.read_text().splitlines()
    kept = (before or "").splitlines()
    assert lines[: len(kept)] == kept
    assert [":".join(line.split(":")[:3]) for line in lines[len(kept) :]] == added
    assert file.read_text().endswith("\n")


def test_everybody_may_read(tmp_path: Path) -> None:
    """Whatever the umask of the clone; a program stays one, nothing else becomes one, and no right goes away."""
    modes = {"code": 0o700, "code/app.py": 0o600, "code/run": 0o750, "code/data": 0o640, "code/shared": 0o664}
    for name, mode in modes.items():
        path = tmp_path / name
        path.mkdir() if name == "code" else path.touch()
        path.chmod(0o700 if name == "code" else mode)
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o600)
    (tmp_path / "code/link").symlink_to(outside)
    install.make_readable(tmp_path / "code")
    found = {name: (tmp_path / name).stat().st_mode & 0o777 for name in modes}
    assert found == {
        "code": 0o755,
        "code/app.py": 0o644,
        "code/run": 0o755,
        "code/data": 0o644,
        "code/shared": 0o664,
    }
    assert outside.stat().st_mode & 0o777 == 0o600


def test_closed_homes_are_opened(tmp_path: Path) -> None:
    """What adduser or useradd makes, on the way to the app or its venv: to pass, not to list. Others stay closed."""
    for name, mode in {"root": 0o700, "home/app": 0o700, "home/web": 0o750, "home/me": 0o700}.items():
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src/main.py").touch(0o600)
        (tmp_path / name).chmod(mode)
    folders = [tmp_path / name for name in ("root/src", "home/app/src", "home/web/src", "home/no/src")]
    install.open_homes(folders, tmp_path)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("root", "home/app", "home/web", "home/me")}
    assert modes == {"root": 0o711, "home/app": 0o711, "home/web": 0o751, "home/me": 0o700}
    assert (tmp_path / "home/app/src/main.py").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "home/me/src/main.py").stat().st_mode & 0o777 == 0o600


def test_what_may_be_read_already_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of rights would copy the file into the layer."""
    (tmp_path / "app.py").touch(0o644)
    tmp_path.chmod(0o755)
    changed: list[Path] = []
    monkeypatch.setattr(Path, "chmod", lambda path, mode: changed.append(path))
    install.make_readable(tmp_path)
    assert changed == []


# An app's own work, from a process that runs a program of the layer's.
POOLED = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
def main():
    sys.path.insert(0, os.getcwd())
    from work import double
    with ProcessPoolExecutor(1, multiprocessing.get_context(sys.argv[1])) as pool:
        return pool.submit(double, 21).result()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_app_may_have_processes_of_its_own(tmp_path: Path, method: str) -> None:
    """However they begin: one that isn't forked runs the main program again, and must not become another slot."""
    package = tmp_path / "code/stack_runtime"
    package.mkdir(parents=True)
    (package / "pooled.py").write_text(POOLED)
    (tmp_path / "work.py").write_text("def double(number): return 2 * number")
    program = tmp_path / "serve"
    named = {"python": sys.executable, "code": str(tmp_path / "code"), "module": "pooled", "function": "main"}
    program.write_text(install.PROGRAM.format(**named))
    done = subprocess.run([sys.executable, "serve", method], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 42, done.stderr
