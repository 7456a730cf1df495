"""Requests that are almost right, against the whole app: no 500, every error in OpenAI's form, and the team still
answers."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from tests.cases import malformed
from tests.cases.served_app import PAIR, ServedApp

JSON = {"Content-Type": "application/json"}
NUM_QUICK, NUM_SCRIPT = 300, 12_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    path = tmp_path_factory.mktemp("serve") / "pair.yaml"
    Path(path).write_text(PAIR, encoding="utf-8")
    with ServedApp(str(path)) as one:
        yield one


def check(response: httpx.Response) -> str:
    """Check a response; return its status, and the code of an error."""
    status = response.status_code
    assert status < 500, response.text
    assert response.headers["X-Request-Id"]
    if status < 400:
        return str(status)
    if not response.content:  # HEAD
        return f"{status} without a body"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"].splitlines()) == 1
    assert error["message"].isprintable()
    assert error["type"] in ("invalid_request_error", "authentication_error", "permission_error", "rate_limit_error")
    return f"{status} {error['code']}"


def fuzz(served: ServedApp, num_examples: int) -> Counter[str]:
    """Send that many requests; return how often which came back."""
    seen: Counter[str] = Counter()

    @settings(max_examples=num_examples, suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(malformed.requests())
    def send(request: tuple[str, bytes]) -> None:
        path, body = request
        seen[check(served.ask("POST", path, body, JSON))] += 1

    send()
    return seen


def test_malformed_requests_are_refused_and_the_team_still_answers(served: ServedApp) -> None:
    seen = fuzz(served, NUM_QUICK)
    assert sum(count for kind, count in seen.items() if kind.startswith("4")) > 0.8 * NUM_QUICK
    assert served.chat().status_code == 200
    assert (served.teams.num_waiting, served.teams.num_running) == (0, 0)


@settings(suppress_health_check=list(HealthCheck), database=None, deadline=None)
@given(malformed.methods, malformed.paths, malformed.headers)
def test_no_method_path_or_header_is_a_500(served: ServedApp, method: str, path: str, headers: dict[str, str]) -> None:
    check(served.ask(method, path, b"{}" if method == "POST" else b"", headers))


if __name__ == "__main__":  # python -m tests.numerics.test_serve_fuzz: 10,000 refusals, and how many of each kind
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pair.yaml").write_text(PAIR, encoding="utf-8")
        with ServedApp(f"{folder}/pair.yaml") as app:
            kinds = fuzz(app, NUM_SCRIPT)
            for kind, count in kinds.most_common():
                print(f"{count:6d}  {kind}")
            assert sum(count for kind, count in kinds.items() if kind.startswith("4")) >= 10_000
            assert app.chat().status_code == 200
