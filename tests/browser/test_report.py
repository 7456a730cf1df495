"""The report in a browser: no errors, no network requests, nothing wider than the screen."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.report import load_runs
from latentmas_ray.report.html import make_page
from latentmas_ray.runs.results import Failure
from tests.browser.chromium import Page, open_chromium
from tests.cases.report import make_answer, make_trace, write_run, write_simple_run
from tests.cases.timeline import pipelined, write_timeline_rows

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, and with texts that try to be HTML."""
    folder = tmp_path_factory.mktemp("runs")
    config = RunConfig(task="sums", method="text")
    hostile = make_answer(0, config, answer=HOSTILE, prediction=HOSTILE, correct=False)
    folders = [
        write_simple_run(folder / "single", "1101" * 30),
        write_run(
            folder / "text",
            [hostile, make_answer(1, config)],
            config=config,
            failures=[Failure(id="q2", agent="judger", error=HOSTILE)],
        ),
        *(
            write_simple_run(
                folder / f"m{steps}",
                "0111" * 30,
                method="latent",
                latent_steps=steps,
                traces=[make_trace("q0", num_thoughts=40), make_trace("q1", bad=True), make_trace("q3")],
            )
            for steps in (0, 10, 40)
        ),
        write_simple_run(folder / "deranged", "0010" * 30, method="latent", latent_steps=10, memory="deranged"),
        write_simple_run(folder / "other", "01", task="gsm8k", model="Qwen/Qwen3-4B"),
    ]
    path = folder / "report.html"
    path.write_bytes(make_page([load_runs(found) for found in folders]).encode(errors="replace"))
    return path


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.problems.clear()
    browser.requests.clear()
    browser.show_as(width=1280)
    browser.open(report)
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_without_errors(page: Page, report: Path, width: int, scheme: str) -> None:
    page.show_as(width=width, scheme=scheme)
    page.open(report)
    for element in ("details", "#question details"):  # thoughts come when they are opened
        page.evaluate(f"document.querySelectorAll('{element}').forEach((found) => {{ found.open = true; }})")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("document.querySelectorAll('.strip .cells i').length") > 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.problems == []
    assert set(page.requests) == {report.as_uri()}
    assert page.evaluate("document.title") == "sums, tiny; GSM8K, Qwen3-4B – latentmas report"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_timeline_fits_without_errors(browser: Page, tmp_path: Path, width: int, scheme: str) -> None:
    folder = write_timeline_rows(write_simple_run(tmp_path / "run", method="latent"), pipelined(200))
    assert main(["timeline", str(folder)]) == 0
    browser.problems.clear()
    browser.requests.clear()
    browser.show_as(width=width, scheme=scheme)
    browser.open(folder / "timeline.html")
    assert browser.evaluate("document.querySelectorAll('.tracks .drawn i').length") > 100
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    numbers = (
        "[...document.querySelectorAll('.strip-of-time:last-of-type .drawn b')].filter(b => b.checkVisibility()).length"
    )
    before = browser.evaluate(numbers)
    browser.evaluate("document.querySelectorAll('.zoom-16').forEach(box => box.click())")
    assert browser.evaluate("(pane => pane.scrollWidth / pane.clientWidth)(document.querySelector('.pane'))") > 15
    assert (browser.evaluate(numbers) > before) == (width < 1000)  # on a wide one all had room
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.problems == []
    assert browser.requests == [(folder / "timeline.html").as_uri()]


def test_the_background_follows_the_scheme_and_the_button(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.show_as(width=1280, scheme="dark")
    dark = background()
    assert light != dark
    page.evaluate("document.getElementById('theme').click()")
    assert background() == light
    page.evaluate("document.getElementById('theme').click()")
    assert background() == dark


LEAST_CONTRAST = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  return Math.min(...[...document.querySelectorAll(".thoughts .token")].map((token) => {
    const style = getComputedStyle(token), [ink, paper] = [style.color, style.backgroundColor].map(channels);
    const shown = ink.map((value, place) => style.opacity * value + (1 - style.opacity) * paper[place]);
    const [low, high] = [light(shown), light(paper)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }));
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_unlikely_tokens_are_readable(page: Page, report: Path, scheme: str) -> None:
    page.show_as(width=1280, scheme=scheme)
    page.open(report)
    page.evaluate("document.querySelectorAll('#question details').forEach((found) => { found.open = true; })")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(LEAST_CONTRAST) > 4.5


def shown_ids(page: Page) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('#list .id')].map((found) => found.textContent)"))


def set_value(page: Page, name: str, value: str, event: str) -> None:
    page.evaluate(
        f"(() => {{ const found = document.getElementById('{name}'); found.value = '{value}'; "
        f"found.dispatchEvent(new Event('{event}')); }})()"
    )


def test_questions_are_filtered_searched_and_paged(page: Page) -> None:
    assert shown_ids(page) == [f"q{number}" for number in range(50)]
    page.evaluate("document.getElementById('on').click()")
    assert shown_ids(page)[0] == "q50"
    set_value(page, "filter", "alarm", "change")
    assert shown_ids(page) == ["q1"]
    set_value(page, "filter", "failed", "change")
    assert shown_ids(page) == ["q2"]
    set_value(page, "filter", "all", "change")
    set_value(page, "search", "It is 238", "input")  # stands in answers only
    assert shown_ids(page) == ["q119"]
    set_value(page, "search", "no such thing", "input")
    assert shown_ids(page) == []


def test_a_click_on_an_id_shows_its_question(page: Page) -> None:
    page.evaluate("document.querySelector('a[data-question=q7]').click()")
    assert page.evaluate("document.querySelector('#question h3').textContent") == "q7"
    assert page.evaluate("document.querySelector('#list [aria-current=true] .id').textContent") == "q7"


def test_an_id_on_a_later_page_is_marked_in_the_list_too(page: Page) -> None:
    page.evaluate("document.querySelector('a[data-question=q119]').click()")
    assert page.evaluate("document.querySelector('#list [aria-current=true] .id').textContent") == "q119"
    assert page.evaluate("document.getElementById('range').textContent") == "101–120 of 120"


@pytest.mark.parametrize("width", [1280, 390])
def test_ids_fit_next_to_the_marks_of_many_runs(browser: Page, tmp_path: Path, width: int) -> None:
    folders = [write_simple_run(tmp_path / str(m), method="latent", latent_steps=m) for m in range(40)]
    path = tmp_path / "report.html"
    path.write_text(make_page([load_runs(folder) for folder in folders]))
    browser.show_as(width=width)
    browser.open(path)
    name, marks, pane = (
        f"document.querySelector('{found}').getBoundingClientRect()"
        for found in ("#list .id", "#list .outcomes", ".list")
    )
    assert browser.evaluate(f"{name}.width") > 10
    assert browser.evaluate(f"{marks}.right <= {pane}.right")


def test_the_picture_shows_the_chosen_question(page: Page) -> None:
    drawn = "document.querySelector('.thinking .dots').getAttribute('d')"
    before = page.evaluate(drawn)
    page.evaluate("[...document.querySelectorAll('#list button')][3].click()")
    assert page.evaluate("document.querySelector('.thinking .shown-question').textContent") == "q3"
    assert page.evaluate(drawn) != before


def test_texts_of_models_are_not_parsed_as_html(page: Page) -> None:
    assert HOSTILE in page.evaluate("document.getElementById('question').textContent")
    assert page.evaluate("document.querySelectorAll('#question img').length") == 0


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which all names are long and without spaces."""
    folder, long = tmp_path_factory.mktemp("long"), "x" * 200
    config = RunConfig(task=f"{long}.jsonl", model="m" * 100, method="latent", latent_steps=5)
    answers = []
    for number, name in enumerate(("q  0 ", long)):
        answer = make_answer(number, config, id=name, question=long, gold=long, answer=long, prediction=long)
        agents = {"p" * 64: answer.agents["planner"], "judger": answer.agents["judger"]}
        answers.append(replace(answer, agents=agents, transfers=(answer.transfers[0]._replace(source="p" * 64),)))
    traces = [make_trace(answer.id) for answer in answers]
    failures = [Failure(id="q9", agent="judger", error=long)]
    folders = [
        write_run(folder / long, answers, config=config, failures=failures, traces=traces),
        write_run(folder / long[1:], answers, config=config, traces=traces),
        write_run(folder / "deranged", answers, config=config.model_copy(update={"memory": "deranged"})),
        write_run(folder / "other", answers, config=config.model_copy(update={"topology": "t" * 100})),
    ]
    path = folder / "report.html"
    path.write_text(make_page([load_runs(found) for found in folders]))
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_do_not_make_it_wider(browser: Page, long_report: Path, width: int) -> None:
    browser.show_as(width=width)
    browser.open(long_report)
    for number in (0, 1, 2):
        browser.evaluate(f"document.querySelectorAll('#list button')[{number}].click()")
        browser.evaluate("document.querySelectorAll('details').forEach((found) => { found.open = true; })")
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert browser.evaluate("document.documentElement.scrollWidth") == width


def test_gains_are_legible_with_usual_names(browser: Page, tmp_path: Path) -> None:
    settings = ({}, {"memory": "deranged"}, {"memory": "none"}, {"latent_steps": 10, "seed": 1, "limit": 9})
    folders = [
        write_simple_run(tmp_path / str(number), method="latent", **fields) for number, fields in enumerate(settings)
    ]
    path = tmp_path / "report.html"
    path.write_text(make_page([load_runs(folder) for folder in folders]))
    browser.show_as(width=1280)
    browser.open(path)
    table, axis = (f"document.querySelector('{found}').getBoundingClientRect()" for found in (".gains", ".gains .axis"))
    assert browser.evaluate(f"{table}.right <= document.querySelector('main').getBoundingClientRect().right - 32")
    assert browser.evaluate(f"{axis}.width") > 100
    browser.show_as(width=390)
    kind = "document.querySelector('.gains tbody th').getBoundingClientRect()"
    assert browser.evaluate(f"{kind}.width") > 300


def test_the_id_of_a_question_in_a_picture_may_have_spaces(browser: Page, long_report: Path) -> None:
    browser.show_as(width=1280)
    browser.open(long_report)
    choice = "document.querySelector('.thinking select')"
    browser.evaluate(f"{choice}.selectedIndex = 1; {choice}.dispatchEvent(new Event('change'))")
    browser.evaluate(f"{choice}.selectedIndex = 0; {choice}.dispatchEvent(new Event('change'))")
    assert browser.evaluate("document.querySelector('.thinking .shown-question').textContent") == "q  0 "


def test_right_to_left_text_does_not_move_the_text_after_it(browser: Page, tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="single")
    answer = make_answer(0, config, prediction="\u202e\u05d0\u05d1", answer="\u05d0\u05d1 12.")
    path = tmp_path / "report.html"
    path.write_text(make_page([load_runs(write_run(tmp_path / "run", [answer], config=config))]))
    browser.open(path)
    following = "document.querySelector('.facts').lastChild"
    browser.evaluate(f"window.range = document.createRange(); window.range.selectNode({following})")
    assert browser.evaluate(
        "window.range.getBoundingClientRect().left > document.querySelector('.facts bdi').getBoundingClientRect().left"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('.answer pre')).unicodeBidi") == "plaintext"


@pytest.mark.parametrize("width", [1280, 390])
def test_close_numbers_of_steps_do_not_overlap(browser: Page, tmp_path: Path, width: int) -> None:
    numbers = (0, 1, 2, 3, 38, 39, 40, 42)
    folders = [write_simple_run(tmp_path / str(m), method="latent", latent_steps=m) for m in numbers]
    path = tmp_path / "report.html"
    path.write_text(make_page([load_runs(folder) for folder in folders]))
    browser.show_as(width=width)
    browser.open(path)
    bounds = "[...document.querySelectorAll('.ticks span')].map((tick) => tick.getBoundingClientRect())"
    edges = browser.evaluate(f"{bounds}.map((found) => [found.left, found.right])")
    assert len(edges) >= 5
    assert all(right < left for (_, right), (left, _) in pairwise(edges))
    assert browser.evaluate("document.querySelectorAll('.plot circle').length") == len(numbers)


TOUCHING = """(() => {
  const boxes = [...document.querySelectorAll("SELECTOR")].map((found) => found.getBoundingClientRect());
  const touch = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom - 1 && other.top < one.bottom - 1;
  return boxes.filter((one, place) => boxes.slice(place + 1).some((other) => touch(one, other))).length;
})()"""


@pytest.mark.parametrize("width", [1280, 390])
def test_labels_at_the_ends_of_lines_do_not_overlap_and_are_complete(browser: Page, tmp_path: Path, width: int) -> None:
    folders = [write_simple_run(tmp_path / method, "1110", method=method) for method in ("single", "text")]
    folders += [
        write_simple_run(
            tmp_path / f"{topology}{steps}", "1110", method="latent", topology=topology, latent_steps=steps
        )
        for topology in ("sequential", "hierarchical")
        for steps in (0, 10, 40)
    ]
    path = tmp_path / "report.html"
    path.write_text(make_page([load_runs(folder) for folder in folders]))
    browser.show_as(width=width)
    browser.open(path)
    labels = "[...document.querySelectorAll('.plot .labels > span')]"
    assert browser.evaluate(f"{labels}.length") == 4  # all four lines end at 75 %
    assert browser.evaluate(TOUCHING.replace("SELECTOR", ".plot .labels > span")) == 0
    assert browser.evaluate(f"{labels}.every((found) => found.scrollWidth <= found.clientWidth)")
    assert browser.evaluate(f"{labels}.every((found) => found.getBoundingClientRect().right <= {width})")


@pytest.mark.parametrize("width", [1280, 390])
def test_each_agent_has_a_column(page: Page, report: Path, width: int) -> None:
    page.show_as(width=width)
    page.open(report)
    assert page.evaluate("document.querySelectorAll('.thinking').length") == 3
    assert page.evaluate(TOUCHING.replace("SELECTOR", ".thinking .column")) == 0
    assert page.evaluate(TOUCHING.replace("SELECTOR", ".thinking:first-of-type .plane:first-of-type .token-name")) == 0


def test_colours_follow_the_readers_scheme(page: Page, report: Path) -> None:
    mark = "getComputedStyle(document.querySelector('.run.latent .mark')).backgroundColor"
    light = page.evaluate(mark)
    page.show_as(width=1280, scheme="dark")
    assert page.evaluate(mark) != light
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(mark) == light
