import asyncio
import os

import asyncpg

TABLES = """
CREATE TABLE IF NOT EXISTS things (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id serial PRIMARY KEY,
    thing int NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz
);
CREATE TABLE IF NOT EXISTS beats (
    job text NOT NULL,
    due timestamptz NOT NULL,
    release text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz
);
CREATE TABLE IF NOT EXISTS shifts (
    id serial PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


async def main() -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute(TABLES)
    await connection.close()


asyncio.run(main())
