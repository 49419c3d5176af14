"""Who may read: every request passes ``Guard`` before any route sees it.

In this order: the method must be GET or HEAD, but for what programs change below ``CHANGING_PATHS``; the Host must be a
loopback name with this port (a page that rebinds its own name to 127.0.0.1 sends its own name); Origin and
Sec-Fetch-Site must not be another site's; the token must come in ``Authorization: Bearer`` or, to read, in the cookie
that ``/auth?token=`` sets: no page in a browser can change anything. No answer carries an ``Access-Control-*`` header,
and User-Agent decides nothing.

What is open without a token holds no data: ``/healthz`` and the style of the page that says how to get in.
"""

from __future__ import annotations

import hmac
import re
from html import escape
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from obsray.telemetry import credential

TOKEN_BYTES_MIN = 16
URL_CHARACTERS_MAX = 8192
METHODS = ("GET", "HEAD")
#: Below these, programs with the token may do more than read.
CHANGING_PATHS = ("/api/jobs/", "/api/packages/")
CHANGING_METHODS = ("POST", "PUT", "DELETE")
AUTH_PATH = "/auth"
#: Where links of other sites (Grafana) lead: the page goes on to ``next`` by itself and is its own origin then, so that
#: the strict cookie comes along. It holds no data.
GO_PATH = "/go"
#: What a scraper of metrics may read with a credential that opens nothing else (``telemetry/credential.py``).
METRICS_PATHS = frozenset({"/metrics", "/api/prometheus/sd"})
OPEN_PATHS = frozenset({"/healthz", "/static/app.css", "/static/favicon.svg", "/static/vendor/inter-5.3.0-latin.woff2"})

#: Where ``/auth`` may lead: a path of this server, never ``//host`` and nothing that a browser turns into it.
_LOCAL_ADDRESS = re.compile(r"/(?:[A-Za-z0-9_.~%-][A-Za-z0-9_.~%/-]*)?(?:\?[A-Za-z0-9_.~%&=+*:-]*)?")

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def read_token(session_directory: Path) -> str:
    """The session's token in hex. Raises OSError if it cannot be read and ValueError if it is too short to be one."""
    raw = (session_directory / "token").read_bytes()
    if len(raw) < TOKEN_BYTES_MIN:
        raise ValueError(
            f"{session_directory / 'token'} holds {len(raw)} bytes, a token has at least {TOKEN_BYTES_MIN}"
        )
    return raw.hex()


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        if len(token) < 2 * TOKEN_BYTES_MIN:
            raise ValueError("a token that short protects nothing")
        self._app = app
        self._token = token.encode()
        self._metrics_token = credential.of(bytes.fromhex(token)).encode()
        # Browsers share cookies between the ports of a host: the name keeps two sessions apart.
        self.cookie = f"obsray_{port}"
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == 80 else frozenset())
        self._origins = frozenset(f"http://{host}" for host in self._hosts)
        self._addresses = " or ".join(f"http://{name}:{port}" for name in names[:2])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There is no websocket here; closing before accepting is answered with 403 by the server.
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, send_secured)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer that ends the request here, or None if it may go on."""
        headers = Headers(scope=scope)
        path, method = scope["path"], scope["method"]
        changing = method in CHANGING_METHODS and path.startswith(CHANGING_PATHS)
        if method not in METHODS and not changing:
            return _say(
                scope, 405, "Method not allowed", "This server only answers questions: use GET.", {"allow": "GET, HEAD"}
            )
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > URL_CHARACTERS_MAX:
            return _say(scope, 414, "Address too long", f"An address may have {URL_CHARACTERS_MAX:,} characters.")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _say(scope, 403, "Wrong host name", f"This server answers only as {self._addresses}.")
        arriving = path in (AUTH_PATH, GO_PATH) and _is_navigation(headers)
        if any(origin not in self._origins for origin in headers.getlist("origin")) and not arriving:
            return _say(scope, 403, "Another origin", "Pages of other sites may not read this server.")
        if any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")) and not arriving:
            return _say(
                scope, 403, "Another site", f"Open {self._addresses} in the address bar instead of following a link."
            )
        if path == AUTH_PATH:
            return self._admit(scope, headers)
        if path == GO_PATH:
            return _onward(_next(scope))
        if path in OPEN_PATHS or self._is_known(headers, by_cookie=not changing):
            return None
        if path in METRICS_PATHS and self._is_scraper(headers):
            return None
        return _say(
            scope,
            401,
            "This page needs the session's key",
            "Run <code>obsray dashboard</code> on this machine, as the user who started the session, "
            "and open the link it prints. "
            "Programs send the key as <code>Authorization: Bearer</code>, see <code>obsray dashboard --json</code>.",
            {"www-authenticate": 'Bearer realm="obsray"'},
        )

    def _is_known(self, headers: Headers, by_cookie: bool) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._equals(given.strip()):
            return True
        if not by_cookie:
            return False
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return morsel is not None and self._equals(morsel.value)

    def _is_scraper(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._metrics_token
        )

    def _equals(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def _admit(self, scope: Scope, headers: Headers) -> Response:
        """Exchange the token in the address for a cookie and leave the address that holds it."""
        given = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if not self._equals(given.get("token", "")):
            return _say(
                scope,
                401,
                "This link is not valid (any more)",
                "It belongs to another session. Run <code>obsray dashboard</code> for the present one.",
                {"www-authenticate": 'Bearer realm="obsray"'},
            )
        place = _next(scope)
        answer: Response
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # After a click in another site's page a redirect would arrive without the strict cookie.
            answer = _onward(place)
        else:
            answer = RedirectResponse(place, status_code=303)
        answer.set_cookie(self.cookie, self._token.decode(), httponly=True, samesite="strict", path="/")
        return answer


def _next(scope: Scope) -> str:
    """Where ``/auth`` and ``/go`` lead: the address that is given if it is one of this server, else the first page."""
    place = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("next", "/")
    return place if _LOCAL_ADDRESS.fullmatch(place) else "/"


def _onward(place: str) -> Response:
    """A page that goes on by itself, and so is its own origin."""
    head = f'<meta http-equiv="refresh" content="0;url={escape(place)}">'
    text = f'<a href="{escape(place)}">Go on to the dashboard</a>'
    return HTMLResponse(_PAGE.format(title="obsray", head=head, text=text))


def _is_navigation(headers: Headers) -> bool:
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}
<meta name="color-scheme" content="light dark"><meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/static/app.css"><link rel="icon" href="/static/favicon.svg"></head>
<body class="plain"><main><p class="wordmark">obsray</p><h1>{title}</h1><p>{text}</p></main></body></html>
"""


def _say(scope: Scope, status: int, title: str, text: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the form the caller reads. ``text`` is ours, never the request's."""
    if scope["path"].startswith("/api/"):
        bare = text.replace("<code>", "`").replace("</code>", "`")
        return JSONResponse({"error": title, "detail": bare}, status_code=status, headers=headers)
    return HTMLResponse(_PAGE.format(title=title, head="", text=text), status_code=status, headers=headers)
