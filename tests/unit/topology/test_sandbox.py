"""The prompt sandbox: its bounds hold for every way to exceed them, and usual prompts render."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Agent, render_messages, sandbox

QUESTION = Question(id="q7", question="How many?", kind="text", gold=None, record={"docs": ["one two", "three"]})


def rendered(prompt: str) -> str:
    (message,) = render_messages(Agent(name="a", prompt=prompt), QUESTION, context="", answer_form="")
    return message["content"]


def again(step: str, *, start: str = "'ab'", after: str = "") -> str:
    """Compute `ns.x` from itself sixty times: if each step doubles it, the result exceeds any memory."""
    return f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}{after}"


DOUBLED = "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}"
RECURSIVE = "{% macro m(n) %}{% if n %}{% set a = m(n - 1) %}{% set a = m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}"
LOOP = "{% for a in range(10000) %}"
END = "{% endfor %}"

TOO_MUCH = {
    "concatenation": again("{% set ns.x = ns.x ~ ns.x %}"),
    "a long concatenation": again("{% set ns.x = " + " ~ ".join(["ns.x"] * 300) + " %}"),
    "escaped concatenation": "{% autoescape true %}" + again("{% set ns.x = ns.x ~ ns.x %}") + "{% endautoescape %}",
    "sum of lists": again("{% set ns.x = ns.x + ns.x %}", start="[1]"),
    "join": again("{% set ns.x = [ns.x, ns.x] | join %}"),
    "join of what is mapped": again("{% set ns.x = [ns.x, ns.x] | map('upper') | join %}"),
    "join by something long": again("{% set ns.x = [1, 2, 3] | join(ns.x) %}"),
    "the method join": again("{% set ns.x = ns.x.join([ns.x, ns.x]) %}"),
    "join over a generator": again("{% set ns.x = ns.x.join(range(1000) | map('string')) %}"),
    "join as an attribute": again("{% set ns.x = (ns.x | attr('join'))([ns.x, ns.x]) %}"),
    "replace": again("{% set ns.x = ns.x | replace('a', ns.x) %}", start="'aa'"),
    "replace by name": again("{% set ns.x = ns.x | replace(new=ns.x, old='a') %}", start="'aa'"),
    "replace nothing": again("{% set ns.x = ns.x | replace('', ns.x) %}"),
    "the method replace": again("{% set ns.x = ns.x.replace('a', ns.x) %}", start="'aa'"),
    "block": again("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "filtered block": again("{% set y | upper %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "macro": DOUBLED + again("{% set ns.x = m(ns.x) %}"),
    "format": again("{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
    "format by name": "{% set f = '%(a)s' * 100000 %}{{ (f % {'a': 'x' * 100000}) | length }}",
    "widths": "{{ (('%9999d' * 10000) % ((1,) * 10000)) | length }}",
    "bytes": "{{ ('%999999999d'.encode() % 1) | length }}",
    "nested lists, printed": again("{% set ns.x = [ns.x, ns.x] %}", after="{{ ns.x }}"),
    "nested tuples, hashed": again("{% set ns.x = (ns.x, ns.x) %}", after="{{ {ns.x: 1} | length }}"),
    "nested mappings": again("{% set ns.x = dict(a=ns.x, b=ns.x) %}", after="{{ ns.x | tojson }}"),
    "nested lists, compared": again(
        "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}", start="1, y=1", after="{{ ns.x == ns.y }}"
    ),
    "lists in place of what is missing": again("{% set ns.x = [1] | batch(1000, ns.x) | list %}"),
    "indent": "{{ ('a\n' * 100000) | indent(10000) | length }}",
    "indent by text": "{{ ('a\n' * 100000) | indent('x' * 10000) | length }}",
    "wrap": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='x' * 10000) | length }}",
    "tabs": "{{ ('\t' * 100000).expandtabs(10000) | length }}",
    "translate": "{{ ('a' * 100000).translate({97: 'x' * 10000}) | length }}",
    "lists added up": "{{ ([[1] * 1000] * 1000) | sum(start=[]) | length }}",
    "large values in a loop": "{% set x = 'x' * 3000000 %}" + LOOP + "{% set b = x[1:] %}" + END,
    "text in a block": "{% set y %}" + LOOP + "x" * 1000 + END + "{% endset %}",
    "one value in many": "{% set x = 'x' * 3000000 %}{{ [x] * 1000 == [x] * 1000 }}",
    "numbers from text": "{{ ('9' * 100000) | int(base=16) * 2 }}",
    "a namespace in a namespace": again("{% set ns.x = namespace(a=ns.x, b=ns.x) %}", after="{{ [ns.x] * 10**9 }}"),
    "a search backwards": "{{ ('a' * 3000000).rfind('b' + 'a' * 1000000) }}",
    "a search for many characters": "{{ ('a' * 3000000) | trim('b' * 1000000) }}",
    "tags taken out": "{{ ('<!---->' * 500000) | striptags }}",
    "nested lists, spread out": "{{ ([['a'] * 100] * 200) | pprint }}",
}
TOO_LONG = {
    "three loops": LOOP * 3 + END * 3,
    "two loops over a text": "{% set x = 'x' * 3000000 %}{% for a in x %}{% for b in x %}" + END * 2,
    "loops that leave everything out": LOOP + "{% for b in range(10000) if b < 0 %}" + END * 2,
    "a loop in a macro": f"{{% macro m() %}}{LOOP}{END}{{% endmacro %}}{LOOP}{{% set x = m() %}}{END}",
    "a recursive loop": "{% for a in range(10000) recursive %}{% if loop.depth < 4 %}{% set x = loop(range(10000)) %}"
    "{% endif %}{% endfor %}",
    "a macro that calls itself": RECURSIVE,
    "comparisons in loops": "{% set x = 'x' * 3000000 %}" + LOOP * 2 + "{% if 'y' in x %}{% endif %}" + END * 2,
    "filters in filters": "{% set x = ['x'] * 10000 %}" + LOOP + "{% set y = x | map('upper') | map('lower') %}" + END,
}


@pytest.mark.parametrize("prompt", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_template_that_makes_too_much_fails_soon_with_one_line(prompt: str) -> None:
    began = time.process_time()  # of this process: the machine may be busy
    with pytest.raises(TopologyError, match=r"characters|bits|too large|bytes") as caught:
        rendered(prompt)
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("prompt", TOO_LONG.values(), ids=TOO_LONG)
def test_an_endless_template_is_interrupted(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.1)
    with pytest.raises(TopologyError, match=r"takes more than 0\.1 s to render|characters"):
        rendered(prompt)


def test_time_is_bounded_in_other_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.1)
    with ThreadPoolExecutor(2) as pool:
        good, bad = pool.submit(rendered, "{{ question }}"), pool.submit(rendered, TOO_LONG["three loops"])
        assert good.result() == "How many?"
        with pytest.raises(TopologyError, match="takes more than"):
            bad.result()


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{{ 'a' ~ 1 ~ none ~ ['x'] }}", "a1None['x']"),
        ("{% autoescape true %}{{ '<' ~ ('>' ~ docs[1]) | safe }}{% endautoescape %}", "&lt;>three"),
        (
            "{% for d in docs %}{{ loop.index }}/{{ loop.length }} {{ d }}{{ ', ' if not loop.last }}{% endfor %}",
            "1/2 one two, 2/2 three",
        ),
        ("{% for d in docs | map('upper') %}{{ loop.revindex }}{{ d }} {% endfor %}", "2ONE TWO 1THREE "),
        ("{% for d in docs if ' ' in d %}{{ d }}{% else %}none{% endfor %}", "one two"),
        ("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"),
        ("{% for d in [1, [2, [3]]] recursive %}{{ loop(d) if d is iterable else d }}{% endfor %}", "123"),
        ("{{ docs | reject('eq', 'three') | list }}", "['one two']"),
        (
            "{{ ', '.join(docs | map('title')) }} {{ docs[0][:3] }} {{ docs[0].split()[1:] }}",
            "One Two, Three one ['two']",
        ),
        ("{{ docs | map('replace', 'o', '0') | join(' / ') }}", "0ne tw0 / three"),
        (
            "{% set ns = namespace(n=0) %}{% for d in docs %}{% set ns.n = ns.n + d | length %}{% endfor %}{{ ns.n }}",
            "12",
        ),
        (
            "{% set t %}{% for d in docs %}- {{ d }}\n{% endfor %}{% endset %}{{ t | indent(2, first=true) }}",
            "  - one two\n  - three\n",
        ),
        (
            "{% macro m(x, y=2) %}{{ x }}{{ y }}{% if caller is defined %}{{ caller() }}{% endif %}{% endmacro %}"
            "{{ m(1) }}{% call m(3, 4) %}!{% endcall %}",
            "1234!",
        ),
        ("{% set a, b = 1, (2, 3) %}{{ a }}{{ b }} {{ 1 < a + 1 <= 2 }} {{ [3, 1] | sort | first }}", "1(2, 3) True 1"),
        (
            "{{ [1, 2.5] | sum }} {{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }} {{ '%(x)s-%(x)s' % {'x': 1} }}",
            "3.5 3 1-1",
        ),
        ("{{ 'a\tb'.expandtabs(2) }} {{ 'ab'.translate({97: 'x'}) }} {{ 'abab'.replace('a', '') }}", "a b xb bb"),
        (
            "{{ cycler('a', 'b').next() }}{% set j = joiner() %}{{ j() }}{{ j() }} {{ ('a b c d' | wordwrap(3)) }}",
            "a,  a b\nc d",
        ),
    ],
)
def test_usual_prompts(prompt: str, text: str) -> None:
    assert rendered(prompt) == text


def test_large_but_reasonable_prompts() -> None:
    documents = "{% set docs = ['x' * 100] * 2000 %}"
    assert (
        len(rendered(documents + "{% for d in docs %}{{ loop.index }}. {{ d | trim | upper }}\n{% endfor %}")) > 200_000
    )
    text = "{% set ns = namespace(t='') %}{% for d in docs[:1000] %}{% set ns.t = ns.t ~ d %}{% endfor %}{{ ns.t }}"
    assert rendered(documents + text) == "x" * 100_000
    assert (
        rendered("{% set t = 'x ' * 1000000 %}{{ t | replace(' ', '') | length }} {{ t.count('x') }}")
        == "1000000 1000000"
    )
    assert rendered("{% for a in range(300) %}{% for b in range(300) %}{% endfor %}{% endfor %}done") == "done"
