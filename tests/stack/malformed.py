"""Malformed and ambiguous HTTP/1.1, by the published classes of request smuggling.

RFC 9112 sections 2, 3, 5, 6 and 11.2; "HTTP Desync Attacks" (2019), "HTTP/2: The Sequel is Always Worse" (2021),
"Browser-Powered Desync Attacks" (2022), "HTTP/1.1 must die" (2025); CVE-2025-22871 (bare LF in a chunk's size line).

Each is the bytes of one connection. SMUGGLED is what must never reach the app: it is a second request only to who reads
the first one differently.
"""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


POST, HOST = b"POST /case HTTP/1.1", b"Host: localhost"


def post(*headers: bytes, body: bytes = b"", line: bytes = POST, host: bytes = HOST) -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *headers, b"", b""]) + body


def get(line: bytes, *headers: bytes, host: bytes = HOST) -> bytes:
    return post(*headers, line=line, host=host)


LENGTH = b"Content-Length: %d" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n" + SMUGGLED

# Refused with a 4xx, or by closing the connection without an answer.
REFUSED = {
    # Two lengths.
    "CL.TE": post(b"Content-Length: 6", CHUNKED + b"\x00", body=END),
    "CL CL differ": post(b"Content-Length: 0", LENGTH, body=SMUGGLED),
    "CL CL differ, swapped": post(LENGTH, b"Content-Length: 0", body=SMUGGLED),
    "CL list differs": post(b"Content-Length: 0, %d" % len(SMUGGLED), body=SMUGGLED),
    "CL list same": post(b"Content-Length: 0, 0", body=SMUGGLED),
    "CL plus": post(b"Content-Length: +%d" % len(SMUGGLED), body=SMUGGLED),
    "CL minus": post(b"Content-Length: -1", body=SMUGGLED),
    "CL hex": post(b"Content-Length: 0x0", body=SMUGGLED),
    "CL octal": post(b"Content-Length: 0o5", body=SMUGGLED),
    "CL fraction": post(b"Content-Length: 0.0", body=SMUGGLED),
    "CL exponent": post(b"Content-Length: 1e1", body=SMUGGLED),
    "CL underscore": post(b"Content-Length: 1_0", body=SMUGGLED),
    "CL inner space": post(b"Content-Length: 1 0", body=SMUGGLED),
    "CL overflow": post(b"Content-Length: 18446744073709551616", body=SMUGGLED),
    "CL overflow signed": post(b"Content-Length: 9223372036854775808", body=SMUGGLED),
    "CL words": post(b"Content-Length: none", body=SMUGGLED),
    "CL empty": post(b"Content-Length:", body=SMUGGLED),
    "CL other digits": post("Content-Length: ٣".encode(), body=SMUGGLED),
    "CL null": post(b"Content-Length: 0\x00", body=SMUGGLED),
    # Transfer codings that only some programs see.
    "TE vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=END),
    "TE form feed": post(b"Transfer-Encoding: chunked\x0c", body=END),
    "TE null": post(b"Transfer-Encoding: chunked\x00", body=END),
    "TE space before colon": post(b"Transfer-Encoding : chunked", LENGTH, body=END),
    "TE tab before colon": post(b"Transfer-Encoding\t: chunked", LENGTH, body=END),
    "TE underscore": post(b"Transfer_Encoding: chunked", LENGTH, body=SMUGGLED),
    "CL underscore name": post(b"Content_Length: 5", LENGTH, body=SMUGGLED),
    # Names and lines.
    "space before colon": post(b"X-Case : 1"),
    "space in name": post(b"X Case: 1"),
    "space first": post(b" X-Case: 1"),
    "first line folded": b"POST /case HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "empty name": post(b": 1"),
    "no colon": post(b"X-Case"),
    "null in name": post(b"X-\x00Case: 1"),
    "null in value": post(b"X-Case: a\x00b"),
    "bare CR in value": post(b"X-Case: a\rX-Other: b"),
    "bare CR ends line": b"POST /case HTTP/1.1\rHost: localhost\r\r",
    "control in value": post(b"X-Case: a\x01b"),
    "delete in value": post(b"X-Case: a\x7fb"),
    "name in Latin-1": post(b"X-C\xe4se: 1"),
    "name in brackets": post(b"X-(Case): 1"),
    "underscore in name": post(b"X_Case: 1"),
    "dot in name": post(b"X.Case: 1"),
    # The request line.
    "space in target": get(b"GET /case /x HTTP/1.1"),
    "tab for space": get(b"GET\t/case\tHTTP/1.1"),
    "no version": get(b"GET /case"),
    "HTTP/0.9": b"GET /case\r\n",
    "http lower": get(b"GET /case http/1.1"),
    "HTTP/1.10": get(b"GET /case HTTP/1.10"),
    "method with brackets": get(b"G(E)T /case HTTP/1.1"),
    "empty method": get(b" /case HTTP/1.1"),
    "no slash": get(b"GET case HTTP/1.1"),
    "null in target": get(b"GET /ca\x00se HTTP/1.1"),
    "control in target": get(b"GET /ca\x01se HTTP/1.1"),
    "bad percent": get(b"GET /ca%zzse HTTP/1.1"),
    "encoded slash": get(b"GET /case%2f..%2fready HTTP/1.1"),
    "encoded backslash": get(b"GET /case%5c..%5cready HTTP/1.1"),
    "encoded null": get(b"GET /case%00 HTTP/1.1"),
    "encoded dots to a probe": get(b"GET /case/%2e%2e/ready HTTP/1.1"),
    "encoded probe": get(b"GET /%72eady HTTP/1.1"),
    "fragment with a probe": get(b"GET /ready#/case HTTP/1.1"),
    "TRACE": get(b"TRACE /ready HTTP/1.1"),
    # Who is asked.
    "no Host": get(b"GET /case HTTP/1.1", host=b""),
    "two Hosts": get(b"GET /case HTTP/1.1", b"Host: other.test"),
    "empty-looking Host": get(b"GET /case HTTP/1.1", host=b"Host: a b"),
    "Host with path": get(b"GET /case HTTP/1.1", host=b"Host: localhost/ready"),
    "Host with null": get(b"GET /case HTTP/1.1", host=b"Host: local\x00host"),
    "Host with user": get(b"GET /case HTTP/1.1", host=b"Host: user@localhost"),
}

# Refused with what the standard has for them: 501 for a transfer coding or a method, 505 for a version.
UNSUPPORTED = {
    "TE identity": post(b"Transfer-Encoding: identity", LENGTH, body=SMUGGLED),
    "TE unknown": post(b"Transfer-Encoding: xchunked", body=END),
    "TE chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=END),
    "TE gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=END),
    "TE twice": post(CHUNKED, CHUNKED, body=END),
    "TE twice, other": post(CHUNKED, b"Transfer-Encoding: cow", body=END),
    "TE chunked, chunked": post(b"Transfer-Encoding: chunked, chunked", body=END),
    "TE quoted": post(b'Transfer-Encoding: "chunked"', body=END),
    "TE parameter": post(b"Transfer-Encoding: chunked;q=1", body=END),
    "TE empty": post(b"Transfer-Encoding:", LENGTH, body=SMUGGLED),
    "HTTP/1.2": get(b"GET /case HTTP/9.9"),
    "HTTP/2.0 in text": get(b"GET /case HTTP/2.0"),
    "CONNECT": get(b"CONNECT 127.0.0.1:8082 HTTP/1.1"),
}

# Only seen once the head is on its way to the app: Traefik breaks off, with a 500 of its own, and closes both sides.
BROKEN_OFF = {
    "chunk size negative": post(CHUNKED, body=b"-1\r\n" + END),
    "chunk size overflow": post(CHUNKED, body=b"10000000000000000\r\n" + END),
    "chunk size overflow to 0": post(CHUNKED, body=b"100000000000000000000000000000000\r\n" + END),
    "chunk size 0x": post(CHUNKED, body=b"0x5\r\nhello\r\n" + END),
    "chunk size plus": post(CHUNKED, body=b"+5\r\nhello\r\n" + END),
    "chunk size underscore": post(CHUNKED, body=b"1_0\r\nhello\r\n" + END),
    "chunk size empty": post(CHUNKED, body=b"\r\nhello\r\n" + END),
    "chunk size words": post(CHUNKED, body=b"five\r\nhello\r\n" + END),
    "chunk size leading space": post(CHUNKED, body=b" 5\r\nhello\r\n" + END),
    "chunk longer than said": post(CHUNKED, body=b"3\r\nhello\r\n" + END),
    "chunk ends in LF": post(CHUNKED, body=b"5\r\nhello\n" + END),
    "chunk size ends in LF": post(CHUNKED, body=b"5\nhello\r\n" + END),
    "chunk size ends in CR": post(CHUNKED, body=b"5\rhello\r\n" + END),
    "chunk extension with LF": post(CHUNKED, body=b"5;a\nxx\r\nhello\r\n" + END),
    "chunk extension too long": post(CHUNKED, body=b"5;" + b"a" * 40_000 + b"\r\nhello\r\n" + END),
}

# Read in the one way that the standard leaves, or allows: the app gets one request, cleaned, and nothing after it.
CLEANED = {
    # RFC 9112, 6.1: Transfer-Encoding wins. Against it Go's server, and so Traefik, does not close the connection after
    # the answer: the next request begins where the chunks end.
    "CL and TE": post(b"Content-Length: 4", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    # RFC 9110, 8.6: the same number twice is one number.
    "CL CL same": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    # RFC 9112, 5.2 would have a server refuse it or replace the fold by spaces: Traefik replaces.
    "folded line": post(b"X-Case: a\r\n b"),
    # RFC 9112, 2.2: a line may be taken to end in LF alone.
    "lines end in LF": b"POST /case HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n",
    # RFC 9112, 7.1.1: an extension that isn't known is passed over. Traefik sends chunks of its own.
    "chunk extension": post(CHUNKED, body=b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    # RFC 9112, 3.2.2: the target wins over Host.
    "absolute form": get(b"GET http://localhost/case HTTP/1.1", host=b"Host: other.test"),
    # RFC 9112, 6.1: TE in any case.
    "TE case": post(b"tRANSFER-eNCODING: ChUnKeD", body=b"5\r\nhello\r\n0\r\n\r\n"),
    # RFC 9112, 6.1 would have the connection closed after it, and so it is. The length counts.
    "TE in HTTP/1.0": post(CHUNKED, LENGTH, line=b"POST /case HTTP/1.0", body=END),
    # RFC 9110, 6.5.1: a trailer may be thrown away, and is.
    "trailer with space before colon": post(CHUNKED, body=b"0\r\nX-Case : 1\r\n\r\n"),
}
