"""Asks a running endpoint one question, with the client that `mcp` brings along."""

from typing import Any

import httpx2

from latentmas_ray.errors import RunError, first_line


class TeamEndpoint:
    """A running `latentmas serve`, asked over HTTP. An async context manager."""

    def __init__(self, base_url: str, *, model: str | None, api_key: str | None, timeout: float) -> None:
        """`base_url` ends before `/chat/completions`. Without `model` the first that the server lists is asked;
        `timeout` is in seconds, of a whole answer."""
        self._url, self._model = base_url.rstrip("/"), model
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx2.AsyncClient(headers=headers, timeout=timeout)

    async def __aenter__(self) -> "TeamEndpoint":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, question: str, team: str | None = None) -> str:
        """Return the answer of `team`, or of the model of this endpoint. The server gives the question up if this call
        is cancelled. Raises RunError with what the server says, or why it does not answer."""
        model = team or self._model or await self._first_model()
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        answer = await self._call("POST", "chat/completions", json=body)
        try:
            return str(answer["choices"][0]["message"]["content"])
        except (LookupError, TypeError):
            raise RunError(f"{self._url} answered in another form than that of chat completions") from None

    async def _first_model(self) -> str:
        listed = await self._call("GET", "models")
        try:
            return str(listed["data"][0]["id"])
        except (LookupError, TypeError):
            raise RunError(f"{self._url}/models lists no model") from None

    async def _call(self, method: str, path: str, **content: Any) -> Any:
        try:
            response = await self._http.request(method, f"{self._url}/{path}", **content)
        except httpx2.TimeoutException:
            raise RunError(f"no answer from {self._url} in {self._http.timeout.read:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = f"no server answers at {self._url} (`latentmas serve` starts one): {first_line(error)}"
            raise RunError(reason) from error
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code != 200:
            raise RunError(_refusal(response.status_code, answer))
        return answer


def _refusal(status: int, answer: Any) -> str:
    try:
        return f"{status}: {' '.join(str(answer['error']['message']).split())}"
    except (LookupError, TypeError):
        return f"the server answered with status {status}"
