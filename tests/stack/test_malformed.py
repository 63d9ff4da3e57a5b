"""Request smuggling and malformed HTTP against the real Traefik, with the app as a witness."""

import contextlib
import re
import time
from concurrent.futures import ThreadPoolExecutor

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from tests.stack.echo import Echo, everything
from tests.stack.malformed import BROKEN_OFF, CLEANED, REFUSED, UNSUPPORTED


def outcomes(echo: Echo, cases: dict[str, bytes], seconds: float) -> dict[str, list[int]]:
    """The statuses that each case gets on a connection of its own; `seconds` are for those that nothing closes."""

    def ask(sent: bytes) -> list[int]:
        answer = b""
        with echo.connected() as connection, contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            answer = everything(connection, seconds)
        return [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]

    with ThreadPoolExecutor(16) as pool:
        return dict(zip(cases, pool.map(ask, cases.values()), strict=True))


def witnessed(echo: Echo, since: str) -> list[str]:
    """What reached the app since then."""
    return sorted({line.split()[1] for line in echo.seen(since)})


def test_refused(echo: Echo) -> None:
    """A 4xx or a closed connection, and nothing for the app."""
    since = f"{time.time():.6f}"
    found = outcomes(echo, REFUSED, 4)
    assert {case: codes for case, codes in found.items() if codes and not 400 <= codes[0] < 500} == {}
    assert witnessed(echo, since) == []


def test_unsupported(echo: Echo) -> None:
    """501 or 505, then a closed connection, and nothing for the app."""
    since = f"{time.time():.6f}"
    found = outcomes(echo, UNSUPPORTED, 4)
    assert {case: codes for case, codes in found.items() if codes not in ([501], [505])} == {}
    assert witnessed(echo, since) == []


def test_broken_off(echo: Echo) -> None:
    """A body that can't be read ends with its connection, and what follows it is never a request."""
    since = f"{time.time():.6f}"
    found = outcomes(echo, BROKEN_OFF, 4)
    assert {case: codes for case, codes in found.items() if codes not in ([400], [500], [])} == {}
    assert set(witnessed(echo, since)) <= {"/case"}


@pytest.mark.parametrize("case", CLEANED)
def test_cleaned(echo: Echo, case: str) -> None:
    """One request for the app, and one answer."""
    since = f"{time.time():.6f}"
    assert outcomes(echo, {case: CLEANED[case]}, 0.5) == {case: [200]}
    assert [line.split()[1] for line in echo.seen(since)] == ["/case"]


def test_options_asterisk(echo: Echo) -> None:
    """Traefik answers it, for itself."""
    since = f"{time.time():.6f}"
    assert outcomes(echo, {"": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"}, 0.5) == {"": [200]}
    assert witnessed(echo, since) == []


def test_table_is_long_enough() -> None:
    """Sixty cases and more, each under a name of its own."""
    assert len({*REFUSED, *UNSUPPORTED, *BROKEN_OFF, *CLEANED}) >= 60


DOWNGRADE = {
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "connection": [("connection", "keep-alive")],
    "keep-alive": [("keep-alive", "timeout=5")],
    "upgrade": [("upgrade", "h2c")],
    "proxy-connection": [("proxy-connection", "keep-alive")],
    "te other than trailers": [("te", "gzip")],
    "upper case": [("X-Case", "1")],
    "CR LF in value": [("x-case", "1\r\nTransfer-Encoding: chunked")],
    "LF in value": [("x-case", "1\nx-other: 2")],
    "null in value": [("x-case", "a\x00b")],
    "CR LF in name": [("x-case: 1\r\nx-other", "2")],
    "colon in name": [("x:case", "1")],
    "space in name": [("x case", "1")],
    "two lengths": [("content-length", "0"), ("content-length", "5")],
    "length that is wrong": [("content-length", "5")],
    "signed length": [("content-length", "+0")],
    "underscore in name": [("x_case", "1")],
    "pseudo header after others": [("x-case", "1"), (":path", "/ready")],
    "unknown pseudo header": [(":case", "1")],
    "two paths": [(":path", "/ready")],
    "two hosts": [("host", "other.test"), ("host", "third.test")],
    "user in authority": [(":authority", "user@localhost")],
    "space in path": [(":path", "/case HTTP/1.1\r\nHost: x")],
    "relative path": [(":path", "case")],
    "method with CR LF": [(":method", "GET / HTTP/1.1\r\n\r\n")],
    "scheme with path": [(":scheme", "http://localhost/ready?")],
}


# RFC 9113, 8.1.1 and 8.3.1, would have these refused. Traefik throws the lengths and the hosts away: what counts is the
# end of the stream, and :authority.
THROWN_AWAY = {"two lengths", "length that is wrong", "signed length", "two hosts"}


def ask_unchecked(echo: Echo, headers: list[tuple[str, str]]) -> list[int]:
    """The statuses that a client gets which checks nothing of what it sends in HTTP/2."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="latin-1"
    )
    client = h2.connection.H2Connection(config)
    answered: list[int] = []
    with echo.connected("h2") as connection, contextlib.suppress(OSError, h2.exceptions.ProtocolError):
        client.initiate_connection()
        client.send_headers(1, headers, end_stream=True)
        connection.sendall(client.data_to_send())
        connection.settimeout(3)
        while received := connection.recv(65536):
            for event in client.receive_data(received):
                if isinstance(event, h2.events.ResponseReceived):
                    answered += [int(value) for name, value in event.headers if name in (":status", b":status")]
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    return answered
    return answered


def test_http2_headers_over_the_limit(echo: Echo) -> None:
    """A little over it is 431. Far more, or one header alone, ends the connection: Go's HTTP/2 reads no further."""
    since = f"{time.time():.6f}"
    plain = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/case")]
    assert ask_unchecked(echo, [*plain, *((f"x-case-{n}", "x" * 300) for n in range(112))]) == [431]
    assert ask_unchecked(echo, [*plain, *((f"x-case-{n}", "x" * 300) for n in range(200))]) == []
    assert ask_unchecked(echo, [*plain, ("x-case", "x" * 40_000)]) == []
    assert echo.seen(since) == []


def test_http2_downgrade(echo: Echo) -> None:
    """What HTTP/2 forbids does not get into the HTTP/1.1 towards the app: a 4xx, a reset stream, or the end."""
    since = f"{time.time():.6f}"
    found = {}
    for case, extra in DOWNGRADE.items():
        plain = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/case"}
        if "two" not in case and "after" not in case:
            plain = {name: value for name, value in plain.items() if name not in dict(extra)}
        first = [pair for pair in extra if pair[0].startswith(":") and "after" not in case]
        found[case] = ask_unchecked(echo, [*plain.items(), *first, *(pair for pair in extra if pair not in first)])
    served = {case: codes for case, codes in found.items() if codes and not 400 <= codes[0] < 500}
    assert served == {case: [200] for case in THROWN_AWAY}
    assert echo.seen(since) == ["GET /case"] * len(THROWN_AWAY)
