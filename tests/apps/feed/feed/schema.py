import asyncio
import os

import asyncpg


async def main() -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute("CREATE TABLE IF NOT EXISTS things (id serial PRIMARY KEY, name text NOT NULL)")
    await connection.close()


asyncio.run(main())
