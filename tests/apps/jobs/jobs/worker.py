import asyncio
import os

import asyncpg

from jobs.process import Stopping

NEXT = "SELECT id FROM things WHERE done_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"


async def main() -> None:
    stopping, url = Stopping(), os.environ["DATABASE_URL"]
    queue, journal = await asyncpg.connect(url), await asyncpg.connect(url)
    while not stopping.is_set():
        async with queue.transaction():
            thing = await queue.fetchval(NEXT)
            if thing is not None:
                await journal.execute("INSERT INTO runs (thing) VALUES ($1)", thing)
                # The work, which is not to be cut off.
                await asyncio.sleep(0.3)
                await queue.execute("UPDATE things SET done_at = clock_timestamp() WHERE id = $1", thing)
        if thing is None:
            await stopping.rest(0.2)


asyncio.run(main())
