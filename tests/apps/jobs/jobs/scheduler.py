import asyncio
import os

import asyncpg

from jobs.process import Stopping


async def main() -> None:
    stopping = Stopping()
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    shift = await connection.fetchval("INSERT INTO shifts DEFAULT VALUES RETURNING id")
    while not stopping.is_set():
        await connection.execute("UPDATE shifts SET seen_at = clock_timestamp() WHERE id = $1", shift)
        await stopping.rest(0.1)
    # It takes its time to end, and is still the one that runs.
    await asyncio.sleep(1)
    await connection.execute("UPDATE shifts SET seen_at = clock_timestamp() WHERE id = $1", shift)


asyncio.run(main())
