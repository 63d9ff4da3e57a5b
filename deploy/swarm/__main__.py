"""Migrate once, then put a release into service: IMAGE=… python3 -m deploy.swarm STACK [docker stack deploy's options].

Settings come from the shell and from .env, as ./stack has them. Ends with the migration's code where that fails, and
nothing else is touched then; with 1 where Swarm went back to the release before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from ops import dotenv, run

FOLDER = Path(__file__).parent
FILES = {name: FOLDER / f"{name}.yml" for name in ("stack", "migrate")}
# What a task does not leave again.
ENDED = ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")


def settings() -> dict[str, str]:
    """The environment of `docker stack deploy`."""
    names = re.findall(r"\$\{([A-Z_]+)", "".join(file.read_text() for file in FILES.values()))
    found = {name: dotenv.chosen(name) for name in names}
    found["RELEASE"] = (found["IMAGE"] or "").rpartition(":")[2]
    app = run.HERE / "app.env"
    found["APP_ENV"] = found["APP_ENV"] or (str(app) if app.exists() else None)
    # Another file is another config: Swarm changes none.
    found["HAPROXY_VERSION"] = hashlib.sha256((FOLDER / "haproxy.cfg").read_bytes()).hexdigest()[:12]
    return {**os.environ, **{name: value for name, value in found.items() if value}}


def deploy(stack: str, file: str, *options: str) -> None:
    # `changed`: a newer image of HAProxy's tag is no reason to restart it.
    argv = ("stack", "deploy", "--with-registry-auth", "--resolve-image", "changed", "--compose-file", str(FILES[file]))
    run.docker(*argv, *options, stack, environment=settings())


def service(name: str) -> dict[str, Any]:
    """What Swarm knows of it; nothing where it isn't there."""
    done = run.docker("service", "inspect", name, check=False)
    return dict(json.loads(done.stdout)[0]) if not done.returncode else {}


def tasks(name: str) -> list[dict[str, Any]]:
    """The service's tasks, the newest first."""
    known = run.docker("service", "ps", "--quiet", "--no-trunc", name).stdout.split()
    # One that Swarm forgets meanwhile is no failure.
    found = json.loads(run.docker("inspect", *known, check=False).stdout) if known else []
    return sorted(found, key=lambda one: str(one["CreatedAt"]), reverse=True)


def log(name: str) -> None:
    """Show what a service, or a task, has said."""
    done = run.docker("service", "logs", "--raw", "--tail", "100", name, check=False)
    print(done.stdout + done.stderr, end="", file=sys.stderr)


def migrate(stack: str) -> int:
    """Run the migration to its end; return its code."""
    name = f"{stack}_migrate"
    if service(name):
        if any(one["Status"]["State"] not in ENDED for one in tasks(name)):
            raise run.Stop(f"{name} still runs: wait for its end. `docker service logs {name}` shows what it does.")
        run.docker("service", "rm", name)
    deploy(stack, "migrate", "--detach=true")
    while not (known := tasks(name)) or known[0]["Status"]["State"] not in ENDED:
        time.sleep(0.5)
    log(name)
    status = known[0]["Status"]
    if status["State"] == "complete":
        return 0
    print(f"The migration failed: {status.get('Err') or status['State']}. The app is as it was.", file=sys.stderr)
    return int(status.get("ContainerStatus", {}).get("ExitCode") or 1)


def main(stack: str, *options: str) -> int:
    with run.step("Migrate"):
        if code := migrate(stack):
            return code
    with run.step("Replace the app's tasks"):
        deploy(stack, "stack", "--detach=false", *options)
    # The command before ends with 0 after a rollback, too.
    return max(outcome(f"{stack}_{name}") for name in ("app", "haproxy"))


def outcome(name: str) -> int:
    """1 where Swarm went back, with the reason shown; else 0."""
    while (update := service(name).get("UpdateStatus", {})).get("State") in ("updating", "rollback_started"):
        time.sleep(0.5)
    if update.get("State", "completed") == "completed":
        return 0
    for one in [one for one in tasks(name) if one["Status"]["State"] in ("failed", "rejected")][:1]:
        log(one["ID"])
        print(one["Status"].get("Err", ""), file=sys.stderr)
    print(f"{name}: {update['State']}: {update['Message']}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except run.Stop as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.code)
