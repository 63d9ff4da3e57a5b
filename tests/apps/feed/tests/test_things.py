import os
import unittest

from fastapi import Request
from feed.app import Thing, app, lifespan, list_things, make_thing


class Things(unittest.IsolatedAsyncioTestCase):
    async def test_made_thing_is_listed(self) -> None:
        async with lifespan(app):
            request = Request({"type": "http", "app": app})
            made = await make_thing(Thing(name="of a test"), request)
            assert await list_things(request) == [made]

    def test_mail_goes_nowhere(self) -> None:
        assert os.environ["MAIL_HOST"] == "nowhere"
