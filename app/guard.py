"""What requests the server answers: those of its own page, from this machine and of the user who started it."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MISSING = "open the address that reknob app printed when it was started; its token is missing here"
SAFE_METHODS = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Of a report: its own scripts and styles, no request, and an origin of its own, so that it cannot act on the page.
SANDBOX = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses requests of other web pages, by their headers, and adds headers to the answers.

    - `Host` must name this machine and the port: the page of a name that an attacker's DNS server resolves to
      127.0.0.1 (DNS rebinding) has that name in it.
    - `Origin`, where there is one, must be that of this server, and whatever changes something must have one: forms and
      scripts of other pages have their own (cross-site request forgery).
    - `Sec-Fetch-Site`, where there is one, must say that the request is not another page's, except for the start page.
    - A cookie must hold the token, as other users of the machine reach the server as well. The start page sets it for
      whoever opens it with `?token=…`.

    Args:
        app: the application behind it.
        port: of the server.
        token: a secret of this start of the server.
    """

    def __init__(self, app: App, port: int, token: str) -> None:
        self._app, self._token = app, token
        # With the port, as a browser sends the cookies of one server on this machine to the others too.
        self._cookie = f"reknob-{port}"
        # Browsers leave out the port of http.
        self._hosts = {name if port == 80 else f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: App | Response = self._app
        if reason := self._refusal(scope):
            answer = JSONResponse({"error": reason}, 403)
        elif scope["path"] == "/" and self._is_token(HTTPConnection(scope).query_params.get("token")):
            answer = RedirectResponse("/", 303)
            # Lax, as the page may be opened by a link in another program, whose request counts as another page's.
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        elif not self._is_token(HTTPConnection(scope).cookies.get(self._cookie)):
            answer = PlainTextResponse(MISSING, 401) if scope["path"] == "/" else JSONResponse({"error": MISSING}, 401)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _is_token(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), self._token.encode())

    def _refusal(self, scope: MutableMapping[str, Any]) -> str:
        """Why a request is refused; "" for one that is answered."""
        given: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        if given.get("host", []) not in [[host] for host in self._hosts]:
            return "this server answers to 127.0.0.1 and localhost only"
        origins = given.get("origin", [])
        if any(origin not in self._origins for origin in origins):
            return "the request comes from another page"
        if scope["method"] not in SAFE_METHODS and not origins:
            return "the request does not say which page it comes from"
        site = given.get("sec-fetch-site", ["none"])
        if site not in (["none"], ["same-origin"]) and scope["path"] != "/":
            return "the request comes from another page"
        return ""
