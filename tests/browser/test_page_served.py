"""The live page in a browser, before a real team in this process."""

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.served import ServedTeams
from latentmas_ray.system.setup import make_config
from tests.browser.chromium import Page, open_chromium
from tests.browser.page_actions import ask, click, is_done, text_of, texts_of, visit, write
from tests.cases.served_team import serving

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    teams = ServedTeams(make_config({"model": "tiny", "topology": "sequential", "latent_steps": 3, "runtime": "local"}))
    with serving(make_app(teams)) as address, open_chromium(tmp_path_factory.mktemp("profile")) as page:
        visit(page, address, num_models=3)
        yield page


def test_a_team_answers_and_each_agent_says_what_it_did(page: Page) -> None:
    assert page.evaluate("document.getElementById('latent-steps').placeholder") == "3"
    click(page, "example")
    assert page.evaluate("document.getElementById('question').value") == QUESTION
    page.evaluate("document.getElementById('lens').checked = true")
    click(page, "ask")
    is_done(page)
    assert text_of(page, ".answer .words") == "5+3=8. \\boxed{8}"
    assert texts_of(page, ".card .state") == ["thought 3 steps"] * 3 + ["wrote 11 tokens"]
    assert [text.partition(":")[0] for text in texts_of(page, "#thoughts summary small")] == ["3 thoughts"] * 3
    sizes = texts_of(page, ".on-edge.bytes")
    assert len(sizes) == 3
    assert all(size.endswith(" KB") for size in sizes)
    handed = [line for line in texts_of(page, "#events .what") if line.startswith("handed over")]
    assert len(handed) == 6  # one segment to the critic, two to the refiner, three to the judger
    figures = texts_of(page, ".measures.alone dd:last-child")
    assert figures[2:4] == ["11", "9"]  # written tokens and latent steps
    assert page.problems == []


def test_methods_are_compared(page: Page) -> None:
    write(page, "latent-steps", "1")
    ask(page, QUESTION, "compare")
    is_done(page)
    assert texts_of(page, ".answer .words")[0].endswith("\\boxed{8}")
    assert texts_of(page, ".answer h3") == ["single", "text", "latent"]
    steps = texts_of(page, ".measures div:nth-child(4) dd:last-child")
    assert steps == ["0", "0", "3"]
    assert page.problems == []


def test_what_the_server_refuses_is_its_one_line(page: Page) -> None:
    write(page, "max-tokens", "2000000")
    ask(page, QUESTION)
    is_done(page)
    assert "max_tokens" in text_of(page, "#problem")
