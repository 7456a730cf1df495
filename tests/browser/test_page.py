"""The live page in a browser, before a scripted team: it asks, shows, compares and stops."""

import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from tests.browser.chromium import SECONDS, Page, open_chromium
from tests.browser.page_actions import ask, click, is_done, press, text_of, texts_of, visit, wait_for, write
from tests.cases.served_team import HOSTILE, ScriptedTeam, serving

# Parts of the picture that stick out of it.
NUM_OUTSIDE = """(() => {
  const all = document.getElementById("picture").getBoundingClientRect();
  const parts = [...document.querySelectorAll("#picture text, #picture rect")];
  const boxes = parts.map((one) => one.getBoundingClientRect());
  return boxes.filter((box) => box.left < all.left - 2 || box.right > all.right + 2).length;
})()"""
# The least contrast of a text with what is behind it (WCAG 2), and the text.
LEAST_CONTRAST = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const found = channels(getComputedStyle(element).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
  };
  const shown = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() && !one.closest("svg")
    && !one.closest("script, .unseen") && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return shown.map((one) => {
    const style = getComputedStyle(one), paper = behind(one), share = Number(style.opacity);
    const ink = channels(style.color).slice(0, 3).map((value, place) => share * value + (1 - share) * paper[place]);
    const [low, high] = [light(ink), light(paper)].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), one.textContent.slice(0, 60)];
  }).reduce((least, one) => (one[0] < least[0] ? one : least), [99, ""]);
})()"""
SIZES = [(width, scheme) for width in (1280, 360) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def team() -> ScriptedTeam:
    return ScriptedTeam()


@pytest.fixture(scope="module")
def address(team: ScriptedTeam) -> Iterator[str]:
    with serving(team.app()) as address:
        yield address


@pytest.fixture
def page(browser: Page, address: str, team: ScriptedTeam) -> Iterator[Page]:
    team.reset()
    visit(browser, address)
    yield browser
    team.release()


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_it_fits_and_asks_its_own_server_only(
    browser: Page, address: str, team: ScriptedTeam, width: int, scheme: str
) -> None:
    team.reset()
    visit(browser, address, width=width, scheme=scheme)
    click(browser, "lens")
    for topology in ("sequential", "hierarchical"):
        write(browser, "model", f"latentmas/{topology}")
        ask(browser, "x" * 300, "compare")
        is_done(browser)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate(NUM_OUTSIDE) == 0
        contrast, text = browser.evaluate(LEAST_CONTRAST)
        assert contrast > 4.5, text
    assert browser.problems == []
    assert {url.split("/", 3)[2] for url in browser.requests} == {address.removeprefix("http://")}


def test_the_answer_streams_and_agents_light_up(page: Page, team: ScriptedTeam) -> None:
    ask(page, "hold: how many keys?")
    wait_for(page, "document.querySelector('.card.is-on[data-phase=reads] title')?.textContent === 'judger'")
    assert texts_of(page, ".card .state")[:3] == ["thought 40 steps", "thought 40 steps", "hands over memory"]
    assert texts_of(page, ".on-edge.bytes")[:2] == ["197 KB", "393 KB"]  # the chain carries all memory before it
    assert text_of(page, "#picture title").startswith("planner: thought 40 steps; critic reads planner: ")
    assert page.evaluate("document.querySelectorAll('.square').length") == 6
    assert text_of(page, ".answer .words") == ""
    team.release()
    is_done(page)
    assert text_of(page, ".answer .words") == "hold: how many keys?"
    assert texts_of(page, ".card .state")[3] == "wrote 12 tokens"
    assert page.evaluate("document.querySelectorAll('.card.is-on').length") == 0
    assert texts_of(page, ".measures.alone dd:last-child")[2:] == ["12", "120", "400", "1.18 MB"]
    rows = texts_of(page, "#events tbody .what")
    assert "handed over 197 KB to critic by shared_memory, 2 ms exposed" in rows
    assert rows[-1] == "wrote 12 tokens"
    request = team.asked[-1]
    assert request["latentmas"] == {"trace": True}  # what is left empty is the server's own
    assert request["stream_options"] == {"include_usage": True}
    assert "max_tokens" not in request


def test_each_phase_is_shown(page: Page) -> None:
    """Every phase lights the agent that is in it, whatever comes next."""
    seen = page.evaluate(
        """(() => {
          const run = new TeamRun(described);
          const phase = (record) => { run.take(record, 0); return [run.turnOf("b").phase, run.turnOf("b").isOn]; };
          return [
            phase({ agent: "b", what: "waits", running: true }),
            phase({ agent: "b", what: "reads", running: true }),
            phase({ agent: "b", what: "thinks", running: true, latent_steps: 2, of: 40 }),
            phase({ agent: "b", what: "thinks", seconds: 1, latent_steps: 40 }),
            phase({ agent: "c", what: "reads", running: true }),
            phase({ agent: "c", what: "writes", running: true }),
            phase({ agent: "b", what: "thinks", running: true }),
            phase({ agent: "b", what: "repeats" }),
          ];
        })()""".replace(
            "described",
            '{ agents: [{ name: "a", thinks: "latent", reads: [] }, { name: "b", thinks: "latent", reads: ["a"] },'
            ' { name: "c", thinks: "text", reads: ["b"] }] }',
        )
    )
    assert seen == [
        ["waits", True],
        ["reads", True],
        ["thinks", True],
        ["hands_over", True],
        ["hands_over", True],
        ["done", False],
        ["done", False],
        ["idle", False],
    ]


def test_methods_are_compared_one_after_the_other(page: Page, team: ScriptedTeam) -> None:
    write(page, "model", "latentmas/hierarchical")
    write(page, "latent-steps", "10")
    write(page, "max-tokens", "33")
    ask(page, "which is it?", "compare")
    is_done(page)
    assert texts_of(page, ".answer h3") == ["single", "text", "latent"]
    assert texts_of(page, ".answer .words") == ["which is it?"] * 3
    assert [request["model"] for request in team.asked] == [
        f"latentmas/hierarchical{end}" for end in ("/single", "/text", "")
    ]
    assert [request["latentmas"].get("latent_steps") for request in team.asked] == [None, None, 10]
    assert {request["max_tokens"] for request in team.asked} == {33}
    written, steps = (
        texts_of(page, f".measures div:nth-child({row}) dd:last-child") for row in (3, 4)
    )  # those of all agents
    assert (written, steps) == (["12", "48", "12"], ["0", "0", "120"])
    assert texts_of(page, ".card .name") == ["algebra expert", "biology expert", "coder", "summariser"]
    page.evaluate("document.querySelector('.answer.single .shown').click()")
    assert texts_of(page, ".card .name") == ["judger"]
    assert page.evaluate("document.querySelectorAll('.shown[aria-pressed=true]').length") == 1


def test_stop_disconnects_and_the_page_can_ask_again(page: Page, team: ScriptedTeam) -> None:
    ask(page, "hold this")
    wait_for(page, "document.querySelectorAll('#events tbody tr').length > 5")
    click(page, "stop")
    is_done(page)
    wait_for(page, "document.getElementById('status').textContent.startsWith('Stopped')")
    limit = time.monotonic() + SECONDS
    while team.num_cancelled == 0:
        assert time.monotonic() < limit, "the server never saw the disconnect"
        time.sleep(0.02)
    assert texts_of(page, ".answer .head span") == ["stopped"]
    assert page.evaluate("document.getElementById('problem').hidden")
    ask(page, "again")
    is_done(page)
    assert text_of(page, ".answer .words") == "again"


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("full", "128 questions wait already. Try again in 3 s."),
        ("breaks", "An actor was lost; ask again."),
        ("drops", "The connection ended before the answer was complete."),
        ("  ", "Write a question first."),
    ],
)
def test_a_problem_is_one_line(page: Page, question: str, line: str) -> None:
    ask(page, question, "compare")
    is_done(page)
    assert text_of(page, "#problem") == line
    assert page.evaluate("document.getElementById('problem').checkVisibility()")
    ask(page, "fine")
    is_done(page)
    assert page.evaluate("document.getElementById('problem').hidden")


@pytest.mark.parametrize(("field", "value"), [("latent-steps", "-1"), ("latent-steps", "1.5"), ("max-tokens", "0")])
def test_a_number_that_is_none_is_refused_before_it_is_sent(
    page: Page, team: ScriptedTeam, field: str, value: str
) -> None:
    write(page, field, value)
    ask(page, "fine")
    assert " must be a whole number of at least " in text_of(page, "#problem")
    assert page.evaluate("document.activeElement.id") == field
    assert team.asked == []


def test_texts_are_never_html(page: Page) -> None:
    click(page, "lens")
    ask(page, HOSTILE)
    is_done(page)
    assert text_of(page, ".answer .words") == HOSTILE
    assert HOSTILE in texts_of(page, "#thoughts .token")
    assert page.evaluate("document.title") == "Ask the team – latentmas"
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert page.problems == []


def test_thoughts_are_asked_for_and_drawn_when_opened(page: Page, team: ScriptedTeam) -> None:
    click(page, "lens")
    ask(page, "fine")
    is_done(page)
    assert team.asked[-1]["latentmas"] == {"trace": True, "lens": True}
    assert texts_of(page, "#thoughts summary small") == ["40 thoughts: Notes Notes Notes Notes …"] * 3
    assert page.evaluate("document.querySelectorAll('#thoughts table').length") == 1
    page.evaluate("document.querySelectorAll('#thoughts details')[2].open = true")
    wait_for(page, "document.querySelectorAll('#thoughts table').length === 2")
    write(page, "model", "latentmas/sequential/text")  # whose agents have no thoughts
    assert page.evaluate("document.getElementById('lens').disabled")
    ask(page, "fine")
    is_done(page)
    assert team.asked[-1]["latentmas"] == {"trace": True}


def test_the_keyboard_is_enough(page: Page, team: ScriptedTeam) -> None:
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(11):
        press(page, "Tab", code=9)
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == [
        "theme", "question", "example", "model", "latent-steps", "max-tokens", "key", "ask", "compare", "stop", "lens",
    ]  # fmt: skip
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.evaluate("document.getElementById('example').focus()")
    press(page, "Enter", code=13, text="\r")
    assert page.evaluate("[document.getElementById('question').value, document.activeElement.id]") == [
        "How many beads has Nadia?",
        "question",
    ]
    press(page, "Enter", code=13, control=True)
    wait_for(page, "document.getElementById('answers').textContent.includes('Nadia')")
    is_done(page)
    assert page.evaluate("document.activeElement.id") == "question"  # the focus is never taken away
    ask(page, "hold")
    page.evaluate("document.getElementById('stop').focus()")
    press(page, " ", code=32, text=" ")
    is_done(page)
    assert page.evaluate("document.activeElement.id") == "stop"
    wait_for(page, "document.getElementById('status').textContent.startsWith('Stopped')")


def test_a_screen_reader_gets_names_states_and_the_answer(page: Page) -> None:
    names = {
        (one["role"]["value"], one["name"]["value"])
        for one in page.call("Accessibility.getFullAXTree")["nodes"]
        if "role" in one and one.get("name", {}).get("value")
    }
    for control in (
        ("textbox", "Question"),
        ("combobox", "Model"),
        ("spinbutton", "Latent steps"),
        ("textbox", "API key"),
        ("button", "Stop"),
    ):
        assert control in names
    assert any(role == "image" and name.startswith("planner: ") for role, name in names)
    ask(page, "forty-two")
    is_done(page)
    assert page.evaluate("document.getElementById('said').getAttribute('role')") == "status"
    assert text_of(page, "#said").endswith("forty-two")
    assert page.evaluate("document.getElementById('problem').getAttribute('role')") == "alert"


def test_a_server_with_keys_gets_the_key_and_the_page_keeps_none(browser: Page) -> None:
    team = ScriptedTeam(key="secret")
    with serving(team.app()) as address:
        browser.problems.clear()
        browser.show_as(width=1280)
        browser.visit(address)
        wait_for(browser, "!document.getElementById('problem').hidden")
        assert text_of(browser, "#problem") == "Give an API key."
        write(browser, "key", "secret")
        wait_for(browser, "document.querySelectorAll('#model option').length === 6")
        ask(browser, "fine")
        is_done(browser)
        assert text_of(browser, ".answer .words") == "fine"
        assert browser.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert "secret" not in browser.evaluate("location.href")


def test_a_key_that_cannot_be_one_is_refused_here(page: Page, team: ScriptedTeam) -> None:
    write(page, "key", "schlüssel 🔑")
    assert text_of(page, "#problem").startswith("The API key may only have ")
    ask(page, "fine")
    assert page.evaluate("document.activeElement.id") == "key"
    assert team.asked == []
    write(page, "key", "")
    ask(page, "fine")
    is_done(page)
    assert text_of(page, ".answer .words") == "fine"


def test_several_answers_to_one_question_stay_apart(page: Page) -> None:
    answer = page.evaluate(
        """(() => {
          const run = new TeamRun({ agents: [] });
          [["7", 0], ["8", 1], [" keys", 0], [" keys", 1]].forEach(([text, place]) => run.write(text, place));
          return run.answer;
        })()"""
    )
    assert answer == "1. 7 keys\n2. 8 keys"


def test_a_comparison_that_is_stopped_says_what_was_not_asked(page: Page, team: ScriptedTeam) -> None:
    ask(page, "hold", "compare")
    wait_for(page, "document.querySelectorAll('.answer .head span')[0]?.textContent === 'at work'")
    assert texts_of(page, ".answer .head span")[1:] == ["waits for its turn"] * 2
    click(page, "stop")
    is_done(page)
    assert texts_of(page, ".answer .head span") == ["stopped", "not asked", "not asked"]
    assert len(team.asked) == 1


def test_a_server_that_is_gone_and_comes_back(browser: Page, team: ScriptedTeam) -> None:
    """What the page says of it, and that it needs no reload."""
    team.reset()
    with serving(team.app()) as address:
        visit(browser, address)
    port = int(address.rpartition(":")[2])
    ask(browser, "fine")
    is_done(browser)
    assert text_of(browser, "#problem") == f"The server does not answer at 127.0.0.1:{port}."
    assert texts_of(browser, ".answer .head span") == ["failed"]
    with serving(team.app(), port=port):
        ask(browser, "fine")
        is_done(browser)
        assert text_of(browser, ".answer .words") == "fine"


def test_the_button_changes_light_and_dark(page: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    click(page, "theme")
    dark = page.evaluate(background)
    assert light != dark
    click(page, "theme")
    assert page.evaluate(background) == light
