"""A job on a schedule: `python -m jobs.beat NAME SECONDS` writes down when it began and ended."""

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path

import asyncpg


RELEASE = Path("release.txt").read_text().strip()


async def main(job: str, seconds: str) -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    due = datetime.fromisoformat(os.environ["STACK_DUE"])
    await connection.execute("INSERT INTO beats (job, due, release) VALUES ($1, $2, $3)", job, due, RELEASE)
    await asyncio.sleep(float(seconds))
    ended = "UPDATE beats SET ended_at = clock_timestamp() WHERE job = $1 AND due = $2"
    await connection.execute(ended, job, due)


asyncio.run(main(*sys.argv[1:]))
