"""One request and its response: counted, bounded in size and time, and named by `X-Request-Id`."""

import asyncio
import re
import secrets
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.admission.rate import RateState
from latentmas_ray.serve.api.errors import ApiError
from latentmas_ray.serve.api.handlers import error_response
from latentmas_ray.units import format_bytes

ANONYMOUS: Final = "-"  # the caller's key on a server without keys
_CLIENT_BITS: Final = 64  # of an IPv6 address, those that its network gives to a client
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_EXPOSED: Final = "X-Request-Id, Retry-After, X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests"


class HttpExchange:
    """A request and its response.

    `receive` raises ApiError: 413 for a body that is too large, 408 for one that does not arrive in time. `send` adds
    the headers that every response has.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: ServeLimits) -> None:
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        self.scope: Scope = {
            **scope,
            "state": {
                **scope.get("state", {}),
                "request_id": self.request_id,
                "api_key": ANONYMOUS,
                "caller": f"address {_network_of(scope['client'][0])}" if scope.get("client") else ANONYMOUS,
            },
        }
        self.rate: RateState | None = None
        self.status: int | None = None  # of the response, once it has begun
        self.is_answered = False  # the response is complete
        self.num_received = self.num_sent = 0  # bytes of the bodies
        self.body = bytearray()  # of the request; kept only where prompts are logged
        self._receive, self._send, self._limits = receive, send, limits
        self._is_read = False
        self._until = asyncio.get_running_loop().time() + limits.body_seconds

    @property
    def key(self) -> str:
        """The name of the caller's key."""
        return str(self.scope["state"]["api_key"])

    def set_key(self, name: str) -> None:
        """Note whose key was sent."""
        self.scope["state"].update(api_key=name, caller=f"key {name}")

    @property
    def caller(self) -> str:
        """Whose requests are counted together: those of a key, or without keys those of an address; of IPv6 those of
        a network, since a client has 2^64 addresses."""
        return str(self.scope["state"]["caller"])

    def check_length(self) -> None:
        """Raise ApiError (413) for a body that says itself that it is too large."""
        length = self.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) < 20:
            self._check_bytes(int(length))

    async def receive(self) -> Message:
        """Receive the next message from the client."""
        if self._is_read:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            line = f"the body did not arrive within {self._limits.body_seconds:g} s"
            raise ApiError(408, line, None, "request_timeout") from None
        if message["type"] == "http.request":
            part = message.get("body", b"")
            self.num_received += len(part)
            self._check_bytes(self.num_received)
            if self._limits.log_prompts:
                self.body += part
            self._is_read = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            self.num_sent += len(message.get("body", b""))
        await self._send(message)
        if message["type"] == "http.response.body":
            self.is_answered = not message.get("more_body", False)

    async def refuse(self, error: ApiError) -> None:
        """Send an error as the whole response."""
        await error_response(error)(self.scope, self._receive, self.send)

    async def finish(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send a response without a body."""
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": b""})

    def _check_bytes(self, num_bytes: int) -> None:
        if num_bytes > (most := self._limits.max_body_bytes):
            line = f"the body has more than {format_bytes(most)} ({most} bytes), which is the most that is read"
            raise ApiError(413, line, None, "too_large")

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.request_id
        headers["X-Content-Type-Options"] = "nosniff"
        if self.rate is not None:
            headers["X-RateLimit-Limit-Requests"] = str(self.rate.limit)
            headers["X-RateLimit-Remaining-Requests"] = str(self.rate.remaining)
        if not self._limits.allow_origins:
            return
        headers.add_vary_header("Origin")
        if (origin := self.headers.get("origin")) and self._limits.allows_origin(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED


def _network_of(address: str) -> str:
    """Return what a client cannot choose of its address."""
    try:
        found = ip_address(address)
    except ValueError:  # of a socket file or a test
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Network((found.packed, _CLIENT_BITS), strict=False))
