"""The route of the live page: one document, and a policy that allows nothing else."""

import base64
import hashlib
import re
from importlib.resources import files

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from latentmas_ray.report.template_files import template_text
from latentmas_ray.serve.routes import page

PARTS = files("latentmas_ray.serve").joinpath("page")


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page.router)
    return TestClient(app)


def policy_of(client: TestClient) -> dict[str, str]:
    policy = client.get("/").headers["content-security-policy"]
    return dict(part.split(" ", 1) for part in policy.split("; "))


def test_it_is_one_document(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<link rel=.stylesheet|<script src|@import|url\(", answer.text)
    assert all(part.read_text() in answer.text for part in PARTS.iterdir() if part.name != "index.html")
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG's elements
    assert "https://" not in answer.text
    assert len(answer.content) < 80_000


def test_the_policy_names_every_part_by_its_digest(client: TestClient) -> None:
    policy = policy_of(client)
    html = client.get("/").text
    for element in ("style", "script"):
        parts = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digests = {f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts}
        assert set(policy[f"{element}-src"].split()) == digests
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"


def test_a_browser_that_has_it_gets_no_second_copy(client: TestClient) -> None:
    first = client.get("/")
    again = client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405


def test_texts_are_never_parsed_as_html() -> None:
    code = "".join(part.read_text() for part in PARTS.iterdir() if part.name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function", code)
    assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB", code)  # which would keep the key


def test_it_has_the_colours_of_the_report() -> None:
    def colours(style: str) -> dict[str, str]:
        return dict(re.findall(r"(--[a-z0-9-]+): (light-dark\([^)]*\))", style))

    own, report = colours(PARTS.joinpath("page.css").read_text()), colours(template_text("report.css"))
    assert own.items() <= report.items()
    assert len(own) > 20
