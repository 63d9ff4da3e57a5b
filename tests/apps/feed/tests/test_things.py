import os
import unittest
from pathlib import Path

import asyncpg
from fastapi import Request
from feed.app import Thing, app, lifespan, list_things, make_thing


class Things(unittest.IsolatedAsyncioTestCase):
    async def test_made_thing_is_listed(self) -> None:
        async with lifespan(app):
            request = Request({"type": "http", "app": app})
            made = await make_thing(Thing(name="of a test"), request)
            assert await list_things(request) == [made]

    async def test_database_of_its_own(self) -> None:
        first = await asyncpg.connect(os.environ["DATABASE_URL"])
        await first.execute("CREATE DATABASE things_of_a_test")
        other = await asyncpg.connect(os.environ["DATABASE_URL"], database="things_of_a_test")
        assert await other.fetchval("SELECT current_database()") == "things_of_a_test"
        await other.close()
        await first.close()

    def test_file_beside_the_code(self) -> None:
        Path(__file__).with_name("written.txt").write_text("by a test")

    def test_mail_goes_nowhere(self) -> None:
        assert os.environ["MAIL_HOST"] == "nowhere"
