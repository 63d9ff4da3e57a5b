"""The security headers of what the app answers: defaults, where the app says nothing of its own.

https://cheatsheetseries.owasp.org/cheatsheets/HTTP_Headers_Cheat_Sheet.html. Traefik adds those that no app sets.
"""

from collections.abc import Iterator
from typing import Any

from . import lines
from .find import is_fastapi
from .health import ASGIApp, Message, Receive, Scope, Send

# Right for an API: nothing may be loaded.
STRICT = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# FastAPI's own pages have a script inside, and the rest from where FastAPI has it.
DOCS = (
    f"{STRICT}; connect-src 'self'; img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    "worker-src blob:; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; font-src https://fonts.gstatic.com; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com"
)
# Where they are unless the app says otherwise. One that makes its own there has the scripts itself or from another CDN:
# https://fastapi.tiangolo.com/how-to/custom-docs-ui-assets/
PAGES = ("/docs", "/redoc", "/docs/oauth2-redirect")
GUIDE = DOCS.replace("https://cdn.jsdelivr.net", "https://cdn.jsdelivr.net https://unpkg.com")
DEFAULTS = {
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"cross-origin-opener-policy": b"same-origin",
    # A page of app.example.com may show a picture of api.example.com.
    b"cross-origin-resource-policy": b"same-site",
}
POLICY = b"content-security-policy"
# The proxy's mark on a request for which nobody vouches: traefik/dynamic/headers.yaml, deploy/. An app may believe no
# header of such a one that begins or ends so, whatever the rest of its name, but for the proxy's own.
OUTSIDE = b"x-from-outside"
# The whole names that Traefik leaves out are among them: it did so before a slot knew more than a few.
BEGINS = (
    *(b"forwarded", b"x-forwarded-", b"x-original-forwarded-", b"x-original-host", b"x-original-url"),
    *(b"x-originating-ip", b"x-rewrite-url", b"x-scheme", b"x-url-scheme", b"x-script-name", b"front-end-https"),
    *(b"remote-", b"x-remote-", b"x-auth-request-", b"x-auth-user", b"x-auth-email", b"x-auth-groups", b"x-auth-roles"),
    *(b"x-authenticated-", b"x-webauth-", b"ssl-client-", b"x-ssl-client-", b"x-amzn-oidc-", b"x-goog-authenticated-"),
    *(b"x-goog-iap-", b"x-ms-client-principal", b"cf-access-", b"cf-connecting-ip", b"tailscale-", OUTSIDE),
)
ENDS = (b"client-ip", b"client-cert", b"x-host")
PROXYS = {b"x-forwarded-" + name for name in (b"for", b"proto", b"host", b"port", b"server")}


def vouches(name: bytes) -> bool:
    """Whether a header of this name, in small letters, says who a request is from, or what it asked for.

    X_Real_Ip and X.Real.Ip are X-Real-Ip to some frameworks.
    """
    return name.startswith(BEGINS) or name.endswith(ENDS) or b"_" in name or b"." in name


def documentation(app: Any, prefix: str = "") -> Iterator[str]:
    """The paths of FastAPI's own pages in this app, and in those that are mounted in it.

    With and without a root_path: a proxy may have left it out.
    """
    if not is_fastapi(app):
        return
    for page in (app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url):
        if page:
            yield from (prefix + page, prefix + app.root_path.rstrip("/") + page)
    for route in app.routes:
        yield from documentation(getattr(route, "app", None), prefix + getattr(route, "path", ""))


class Headers:
    """Leaves out of a request what nobody vouches for, and adds what an answer lacks.

    `policy` is the Content-Security-Policy of all but FastAPI's own `pages`.
    """

    # Whether the slot does. Who has a connection to it makes another, to another slot: one that ends in the moment in
    # which a request is sent is a request that fails, where no Traefik stands between.
    draining = False

    def __init__(self, app: ASGIApp, policy: str | None, pages: "set[str] | frozenset[str]" = frozenset()) -> None:
        self.app = app
        self.policy = policy
        self.pages = pages
        self.told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope.get("headers", ())
        if any(name == OUTSIDE for name, _ in asked):
            scope = {**scope, "headers": [one for one in asked if one[0] in PROXYS or not vouches(one[0])]}
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Any iterable: a generator has them once.
                given = list(message.get("headers", ()))
                own = {name.lower(): value for name, value in given}
                lacking = [(name, value) for name, value in DEFAULTS.items() if name not in own]
                if POLICY not in own:
                    lacking.append((POLICY, self.default(scope["path"], own).encode()))
                if self.draining and b"connection" not in own:
                    lacking.append((b"connection", b"close"))
                message = {**message, "headers": [*given, *lacking]}
            await send(message)

        await self.app(scope, receive, adding)

    def default(self, path: str, own: dict[bytes, bytes]) -> str:
        if path in self.pages:
            return DOCS
        if path in PAGES:
            used = GUIDE
            words = "is a page of the app's own, and may load what FastAPI's guide has there: a header of the app's own"
        elif self.policy:
            return self.policy
        else:
            used = STRICT
            words = "is HTML, and may load nothing: CONTENT_SECURITY_POLICY in .env, or a header of the app's own,"
        if own.get(b"content-type", b"").startswith(b"text/html") and used not in self.told:
            self.told.add(used)
            lines.say(f"{path} {words} says what it may.")
        return used
