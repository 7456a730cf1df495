"""One streamed request: what is sent, and what came back when."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ANSWERED = "answered"
NOT_CONNECTED = "connection refused"
_DATA = b"data:"
_DONE = b"[DONE]"
_MAX_ERROR_BYTES = 4096
_KEPT_SECONDS = 2.0  # a connection without a request; servers close theirs after five


@dataclass(frozen=True, kw_only=True)
class ChatQuestion:
    """A question, and the model that is asked."""

    model: str
    key: str
    text: str


@dataclass(kw_only=True)
class ClientReply:
    """What a client saw of one request. Times are in seconds on the client's monotonic clock."""

    question: ChatQuestion
    due: float  # when it should be sent: a queue of this client is part of the time
    first_token: float | None = None
    finished: float = 0.0
    outcome: str = ANSWERED  # or the kind of the error
    text: str = ""
    output_tokens: int = 0
    latent_steps: int = 0
    retry_after: float = 0.0  # seconds, of a refusal
    has_ended: bool = field(default=False, repr=False)  # the stream's own end was seen

    @property
    def is_answered(self) -> bool:
        return self.outcome == ANSWERED

    @property
    def first_token_seconds(self) -> float:
        """Seconds from the moment it was due; without a token, those of the whole."""
        return (self.finished if self.first_token is None else self.first_token) - self.due

    @property
    def seconds(self) -> float:
        return self.finished - self.due


class ChatClient:
    """Asks one server over kept connections. An async context manager."""

    def __init__(self, base_url: str, *, max_tokens: int, timeout: float, api_key: str | None = None) -> None:
        """`base_url` ends before `/chat/completions`; `timeout` is in seconds, of a whole request."""
        self._url = base_url.rstrip("/")
        self._max_tokens = max_tokens
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "ChatClient":
        # Without a limit: how many requests are open at a time is what is measured.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def models(self) -> list[str]:
        """Return the names that the server lists. Raises aiohttp.ClientError, TimeoutError, ValueError."""
        assert self._session is not None
        async with self._session.get(f"{self._url}/models") as response:
            response.raise_for_status()
            return [str(one["id"]) for one in (await response.json())["data"]]

    async def ask(self, question: ChatQuestion, due: float) -> ClientReply:
        """Ask a question and read the whole stream. Never raises for what the server or the network does."""
        reply = ClientReply(question=question, due=due)
        try:
            await self._stream(question, reply)
        except TimeoutError:
            reply.outcome = "timeout"
        except (aiohttp.ClientError, ConnectionError) as error:
            reply.outcome = NOT_CONNECTED if isinstance(error, aiohttp.ClientConnectorError) else "cut off"
        except (ValueError, KeyError, TypeError):
            reply.outcome = "unreadable"
        finally:
            reply.finished = time.monotonic()
        if reply.is_answered and not reply.has_ended:
            reply.outcome = "cut off"
        return reply

    async def _stream(self, question: ChatQuestion, reply: ClientReply) -> None:
        assert self._session is not None
        body = {
            "model": question.model,
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": self._max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
            if response.status != 200:
                reply.outcome = _refusal(response.status, await response.content.read(_MAX_ERROR_BYTES))
                reply.retry_after = _seconds(response.headers.get("Retry-After"))
                return
            async for line in response.content:
                if line.startswith(_DATA):
                    self._take(line[len(_DATA) :].strip(), reply)

    def _take(self, data: bytes, reply: ClientReply) -> None:
        """Add one event of the stream to the reply."""
        if data == _DONE:
            reply.has_ended = True
            return
        event = json.loads(data)
        if "error" in event:
            reply.outcome = f"error event ({_kind(event['error'])})"
            return
        for choice in event.get("choices", ()):
            if content := choice["delta"].get("content"):
                if reply.first_token is None:
                    reply.first_token = time.monotonic()
                reply.text += content
        if usage := event.get("usage"):
            reply.output_tokens = int(usage["completion_tokens"])
            reply.latent_steps = int(usage.get("latent_steps", 0))


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"{status} ({_kind(json.loads(body)['error'])})"
    except (ValueError, KeyError, TypeError):
        return str(status)


def _kind(error: Mapping[str, Any]) -> str:
    return str(error.get("code") or error.get("type") or "no code")


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


async def sleep_until(moment: float) -> None:
    """Wait for a time of the monotonic clock."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
