"""The outermost layer of the app: who may ask, how large a body may be, and what the log says of each request.

Every response has `X-Request-Id`: the client's own if it sent one of letters, digits and `._-`, else a new one. Every
error is in OpenAI's form. The log has one line for each request but probes, without its text, unless `log_prompts` asks
for it.
"""

import re
import time
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from latentmas_ray.serve.admission.bodies import HttpExchange
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.admission.logs import ACCESS_LOG, PROMPT_LOG
from latentmas_ray.serve.admission.rate import RateLimiter
from latentmas_ray.serve.api.errors import ApiError, shown, translate
from latentmas_ray.serve.api.handlers import log_mistake

# Without a key: the page, which asks its user for one, and what a cluster asks to know whether the server lives.
_PROBES: Final = frozenset({"/health", "/ready"})
_OPEN_PATHS: Final = _PROBES | {"/", "/favicon.ico"}
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)
_METHODS: Final = "GET, POST, DELETE, OPTIONS"


class RequestGuard:
    """ASGI middleware that refuses what the limits exclude, and logs what was asked.

    `scope["state"]` gets `request_id`, `api_key`, the name of the caller's key (`-` without keys), and `caller`: whose
    requests are counted together.
    """

    def __init__(self, app: ASGIApp, limits: ServeLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._limits, self._clock = app, limits, clock
        per_minute = limits.requests_per_minute
        self._rate = None if per_minute is None else RateLimiter(per_minute, clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = HttpExchange(scope, receive, send, self._limits)
        began = self._clock()
        try:
            if not await self._answered_preflight(exchange):
                self._check(exchange)
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001  every error is answered
            if exchange.is_answered:
                return  # its handler has logged it, and Starlette raises it again
            found = translate(error)
            log_mistake(found, error, exchange.scope)
            if exchange.status is not None:
                # The server closes the connection, and logs what is raised: not the error itself, which may have text.
                raise RuntimeError("the response broke off") from None
            await exchange.refuse(found)
        finally:
            self._log(exchange, self._clock() - began)

    async def _answered_preflight(self, exchange: HttpExchange) -> bool:
        """Answer a browser that asks whether a page of another origin may ask. Returns whether it did."""
        origin = exchange.headers.get("origin", "")
        asked = exchange.headers.get("access-control-request-method")
        if exchange.scope["method"] != "OPTIONS" or asked is None or not self._limits.allows_origin(origin):
            return False
        wanted = exchange.headers.get("access-control-request-headers", "")
        more = [("Access-Control-Allow-Methods", _METHODS), ("Access-Control-Max-Age", "600")]
        await exchange.finish(204, [*more, ("Access-Control-Allow-Headers", wanted)])
        return True

    def _check(self, exchange: HttpExchange) -> None:
        """Raise ApiError for a request that is not taken."""
        scope, headers = exchange.scope, exchange.headers
        if not self._limits.allows_host(host := headers.get("host", "")):
            message = f"the header Host names {shown(host)}, and this server is asked under a local name (--allow-host)"
            raise ApiError(403, message, None, "unknown_host")
        if scope["path"] in _OPEN_PATHS:
            return
        if self._limits.keys is not None:
            exchange.set_key(self._limits.keys.name_of(headers.get("authorization")))
        if scope["method"] != "POST":
            return
        if self._rate is not None:
            exchange.rate = self._rate.take(exchange.caller)
            if not exchange.rate.is_allowed:
                message = f"at most {exchange.rate.limit} requests a minute"
                wait = exchange.rate.wait_seconds
                raise ApiError(429, message, None, "rate_limit_exceeded", retry_after=wait)
        if _JSON.fullmatch(kind := headers.get("content-type", "")) is None:
            message = f"the header Content-Type is {shown(kind) or 'missing'}; it must be application/json"
            raise ApiError(415, message, None, "unsupported_media_type")
        exchange.check_length()

    def _log(self, exchange: HttpExchange, seconds: float) -> None:
        scope = exchange.scope
        if scope["path"] in _PROBES:
            return
        ACCESS_LOG.info(
            "%s %s %s %s key=%s %.3fs in=%d out=%d",
            exchange.request_id,
            shown(scope["method"]),
            shown(scope["path"]),
            exchange.status or "closed",
            exchange.key,
            seconds,
            exchange.num_received,
            exchange.num_sent,
        )
        if self._limits.log_prompts and exchange.body:
            text = bytes(exchange.body).decode(errors="replace")
            PROMPT_LOG.info("%s %s", exchange.request_id, shown(text, most=None))
