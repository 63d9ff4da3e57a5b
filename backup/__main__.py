"""`python -m backup VERB`: what the container does by itself, and what `./stack` asks it for, in JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

from backup import bucket, health, history, jobs, restore, schedule, server, settings, verify

VERBS: dict[str, Callable[..., Any]] = {
    "serve": schedule.serve,
    "settings": settings.check,
    "backup": jobs.backup,
    "bucket": bucket.main,
    "list": history.listing,
    "status": health.status,
    "received": jobs.wait_until_received,
    "point": jobs.restore_point,
    "plan": restore.plan,
    "restore": restore.main,
    "verify": verify.main,
}


def main() -> int:
    verb = VERBS[sys.argv[1]]
    try:
        server.configure(settings.keep_days())
        answer = verb(*sys.argv[2:])
    except (server.Failure, OSError) as failure:
        print(failure, file=sys.stderr)
        return 2 if isinstance(failure, settings.Wrong) else 1
    if answer is not None:
        print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
