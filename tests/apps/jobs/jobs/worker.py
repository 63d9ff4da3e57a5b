import asyncio
import os
from typing import Any

import asyncpg
from arq.connections import RedisSettings


async def connect(context: dict[str, Any]) -> None:
    context["pool"] = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=5)


async def work(context: dict[str, Any], thing: int) -> None:
    run = await context["pool"].fetchval("INSERT INTO runs (thing) VALUES ($1) RETURNING id", thing)
    # The work, which is not to be cut off.
    await asyncio.sleep(2)
    await context["pool"].execute("UPDATE runs SET ended_at = clock_timestamp() WHERE id = $1", run)


class Settings:
    functions = (work,)
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    on_startup = connect
    job_timeout = 20
    # Without it arq cuts a job off at SIGTERM, and runs it again. Less than stop_grace_period.
    job_completion_wait = 50
