import asyncio

import pytest

from runtime.health import Message, Receive, Scope, Send
from runtime.peer import FromTraefik
from tests.runtime.asgi import answering, ask

TOLD = [("x-forwarded-for", "203.0.113.9, 192.0.2.5"), ("x-forwarded-proto", "https")]


@pytest.mark.parametrize(
    ("name", "peer", "seen"),
    [
        ("localhost", "127.0.0.1", ("203.0.113.9", "https")),
        # A neighbour, the host, and a proxy that comes past Traefik.
        ("localhost", "127.0.0.2", ("127.0.0.2", None)),
        ("localhost", "192.0.2.5", ("192.0.2.5", None)),
        ("nobody.invalid", "127.0.0.1", ("127.0.0.1", None)),
    ],
)
def test_who_may_say_who_the_client_is(name: str, peer: str, seen: tuple[str, str | None]) -> None:
    """Who has Traefik's name, and nobody else: not the proxies in front of it either, which are no clients."""
    saw = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        saw.append((scope["client"][0], scope.get("scheme")))
        await answering(200)(scope, receive, send)

    believing = FromTraefik(app, "192.0.2.0/24", name)
    for _ in range(2):
        assert ask(believing, headers=TOLD, client=peer).error is None
    assert saw == [seen, seen]


def test_first_requests_of_a_worker_are_of_traefiks_clients() -> None:
    """All that come while Traefik is looked up wait for it, and one that goes away takes no answer from the others."""
    saw = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        saw.append((scope["client"][0], scope.get("scheme")))

    async def nothing(*_: object) -> Message:
        return {}

    async def five() -> None:
        believing = FromTraefik(app, "192.0.2.0/24", "localhost")
        headers = [(name.encode(), value.encode()) for name, value in TOLD]
        scopes = [{"type": "http", "client": ("127.0.0.1", 1), "headers": headers} for _ in range(6)]
        gone, *others = [asyncio.ensure_future(believing(scope, nothing, nothing)) for scope in scopes]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*others)

    asyncio.run(five())
    assert saw == [("203.0.113.9", "https")] * 5
