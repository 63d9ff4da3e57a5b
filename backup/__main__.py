"""`python -m backup VERB`: what the container does by itself, and what `./stack` asks it for, in JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

from backup import catalog, health, jobs, restore, schedule, server, verify

VERBS: dict[str, Callable[..., Any]] = {
    "serve": schedule.serve,
    "healthy": health.main,
    "backup": jobs.backup,
    "list": catalog.listing,
    "status": health.status,
    "point": jobs.restore_point,
    "plan": restore.plan,
    "restore": restore.main,
    "verify": verify.main,
}


def main() -> int:
    verb = VERBS[sys.argv[1]]
    server.configure()
    try:
        answer = verb(*sys.argv[2:])
    except server.Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    if answer is not None:
        print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
