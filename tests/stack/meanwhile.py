"""Somebody else at work on the engine, just before a verb's first build, or right after it."""

import os
import shutil
from pathlib import Path

MEANWHILE = """#!/bin/sh
case " $* " in *" build "*)
    if mkdir {mark} 2> /dev/null; then
        {before}
        {docker} "$@" || failed=$?
        {after}
        exit ${{failed:-0}}
    fi
esac
exec {docker} "$@"
"""


def meanwhile(folder: Path, before: str = ":", after: str = ":") -> str:
    """The PATH of a `./stack` before and after whose first build somebody else runs these commands of docker's."""
    docker, program = shutil.which("docker"), folder / "docker"
    words = {"mark": folder / "built", "docker": docker, "before": before, "after": after}
    program.write_text(MEANWHILE.format(**words))
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
