"""Invalid topology files: the error is one line that names file, line, agent and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology import load_topology, parse_topology

GOOD = """\
name: pair
agents:
  - name: planner
    thinks: latent
    prompt: Plan. {{ question }}
  - name: judger
    thinks: text
    reads: [planner]
    prompt: |
      Answer.
      {{ question }}
"""


def _replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def _with_planner(line: str) -> str:
    return _replaced("    prompt: Plan. {{ question }}\n", f"    prompt: Plan. {{{{ question }}}}\n    {line}\n")


def _planner(line: str, key: str, part: str) -> tuple[str, str, str]:
    return _with_planner(line), f"t.yaml:6: agents.planner.{key}", part


def _judger(line: str, key: str, part: str) -> tuple[str, str, str]:
    text = _replaced("    reads: [planner]\n", f"    reads: [planner]\n    {line}\n")
    return text, f"t.yaml:9: agents.judger.{key}", part


def _agents(*lines: str) -> str:
    return "name: x\nagents:\n" + "".join(f"  - {{{line}, prompt: p}}\n" for line in lines)


def _ladder(num_rungs: int) -> str:
    """A chain of diamonds: each doubles the number of paths to the first agent."""
    lines = ["name: a0"]
    for i in range(1, num_rungs + 1):
        lines += [f"name: b{i}, reads: a{i - 1}", f"name: c{i}, reads: a{i - 1}", f"name: a{i}, reads: [b{i}, c{i}]"]
    return _agents(*lines, f"name: z, reads: a{num_rungs}, thinks: text")


def _chain(num_agents: int) -> str:
    lines = [f"name: a{i}, reads: a{i - 1}" for i in range(1, num_agents)]
    return _agents("name: a0", *lines, f"name: z, reads: a{num_agents - 1}, thinks: text")


# what is wrong: (YAML, the whole field of the error, a part of its line)
BAD_FILES = {
    "empty file": ("", "t.yaml:1", "name and agents"),
    "only a comment": ("# nothing\n", "t.yaml:1", "name and agents"),
    "a list": ("- a\n- b\n", "t.yaml:1", "must be a mapping"),
    "two documents": (GOOD + "---\nname: b\n", "t.yaml:12", "not valid YAML"),
    "open quote": ('name: x\nagents: "abc\n', "t.yaml:2", "not valid YAML"),
    "bad indentation": ("name: x\n  agents: []\n", "t.yaml:2", "not valid YAML"),
    "tab": ("name: x\nagents:\n\t- name: a\n", "t.yaml:3", "not valid YAML"),
    "control character": ("name: x\nagents: \x07\n", "t.yaml:2", "printable"),
    "half a surrogate pair": ("name: x\nagents: \ud800\n", "t.yaml:2", "printable"),
    "half a surrogate pair, escaped": (
        _replaced("Plan. {{ question }}", r'"\ud800"'),
        "t.yaml:5: agents.planner.prompt",
        "pair",
    ),
    "alias": ("name: &n x\nagents: [*n, *n]\n", "t.yaml:2", "aliases"),
    "deep nesting": ("name: x\nagents:\n  " + "[" * 5000, "t.yaml:3", "nested"),
    "python tag": ("name: x\nagents: !!python/object/apply:os.getcwd []\n", "t.yaml:2: agents", "must be a list"),
    "name missing": ("agents: []\n", "t.yaml:1: name", "missing"),
    "name empty": (_replaced("name: pair", "name: ''"), "t.yaml:1: name", "one line"),
    "name of two lines": (_replaced("name: pair", 'name: "a\\nb"'), "t.yaml:1: name", "one line"),
    "name a number": (_replaced("name: pair", "name: 12"), "t.yaml:1: name", "quote it"),
    "agents missing": ("name: x\n", "t.yaml:1: agents", "missing"),
    "agents empty": ("name: x\nagents: []\n", "t.yaml:2: agents", "1 to 1000"),
    "agents nothing": ("name: x\nagents:\n", "t.yaml:2: agents", "must be a list"),
    "agents a mapping": ("name: x\nagents:\n  planner: {prompt: p}\n", "t.yaml:2: agents", "must be a list"),
    "agents text": ("name: x\nagents: planner\n", "t.yaml:2: agents", "must be a list"),
    "an agent is text": ("name: x\nagents:\n  - planner\n", "t.yaml:3: agents[0]", "or a mapping"),
    "unknown top key": (GOOD + "agent: []\n", "t.yaml:12: agent", "did you mean agents?"),
    "unknown agent key": _planner("promt: x", "promt", "did you mean prompt?"),
    "far-off key": _planner("zzz: x", "zzz", "the valid keys are name, thinks"),
    "duplicate top key": (GOOD + "name: again\n", "t.yaml:12: name", "already given in line 1"),
    "duplicate key": _planner("thinks: text", "thinks", "already given in line 4"),
    "key not text": (_with_planner("1: x"), "t.yaml:6: agents.planner", "must be text"),
    "key a list": (_with_planner("[a]: x"), "t.yaml:6: agents.planner", "must be text"),
    "merge key": (_with_planner("<<: {prompt: x}"), "t.yaml:6: agents.planner", "must be text"),
    "agent without name": (
        "name: x\nagents:\n  - thinks: text\n    prompt: p\n",
        "t.yaml:3: agents[0].name",
        "missing",
    ),
    "agent without prompt": ("name: x\nagents:\n  - name: a\n", "t.yaml:3: agents.a.prompt", "missing"),
    "agent's name a boolean": (_replaced("name: judger", "name: yes"), "t.yaml:6: agents[1].name", "true or false"),
    "agent's name a date": (_replaced("name: judger", "name: 2024-01-01"), "t.yaml:6: agents[1].name", "a date"),
    "agent's name with a blank": (
        _replaced("name: judger", "name: the judger"),
        "t.yaml:6: agents[1].name",
        "begin with a letter",
    ),
    "agent's name starts with a digit": (
        _replaced("name: judger", "name: 1st"),
        "t.yaml:6: agents[1].name",
        "begin with a letter",
    ),
    "agent's name too long": (_replaced("name: judger", "name: " + "j" * 65), "t.yaml:6: agents[1].name", "64"),
    "agent's name twice": (_replaced("name: judger", "name: planner"), "t.yaml:6: agents.planner.name", "line 3"),
    "prompt empty": (_replaced("Plan. {{ question }}", '"  "'), "t.yaml:5: agents.planner.prompt", "not be empty"),
    "prompt nothing": (_replaced("Plan. {{ question }}", ""), "t.yaml:5: agents.planner.prompt", "nothing"),
    "prompt a mapping": (
        _replaced("Plan. {{ question }}", "{{ question }}"),
        "t.yaml:5: agents.planner.prompt",
        "must be text",
    ),
    "system a number": _planner("system: 5", "system", "a number"),
    "suffix a list": _planner("suffix: [a]", "suffix", "must be text"),
    "thinks otherwise": (
        _replaced("thinks: latent", "thinks: loud"),
        "t.yaml:4: agents.planner.thinks",
        "latent, text",
    ),
    "thinks a list": (
        _replaced("thinks: latent", "thinks: [latent]"),
        "t.yaml:4: agents.planner.thinks",
        "latent, text",
    ),
    "hands_over otherwise": _planner("hands_over: none", "hands_over", "prompt, latents"),
    "keep nothing": _planner("keep: 0", "keep", "more than 0 and at most 1"),
    "keep more than all": _planner("keep: 1.5", "keep", "more than 0 and at most 1"),
    "keep a boolean": _planner("keep: true", "keep", "more than 0 and at most 1"),
    "keep of a prompt that is not handed over": (
        _with_planner("hands_over: latents\n    keep: 0.5"),
        "t.yaml:7: agents.planner.keep",
        "no position of the prompt",
    ),
    "close_turn a number": _planner("close_turn: 1", "close_turn", "true or false"),
    "close_turn forced": _planner("close_turn: !!bool x", "close_turn", "true or false"),
    "latent_steps a boolean": _planner("latent_steps: true", "latent_steps", "whole number"),
    "latent_steps a fraction": _planner("latent_steps: 1.5", "latent_steps", "whole number"),
    "latent_steps octal": _planner("latent_steps: 010", "latent_steps", "whole number"),
    "latent_steps base 60": _planner("latent_steps: 1:30", "latent_steps", "whole number"),
    "latent_steps negative": _planner("latent_steps: -1", "latent_steps", "0 to 100000"),
    "latent_steps huge": _planner("latent_steps: 100001", "latent_steps", "0 to 100000"),
    "latent_steps 5000 digits": _planner("latent_steps: " + "9" * 5000, "latent_steps", "0 to"),
    "no latents to hand over": (
        _with_planner("latent_steps: 0\n    hands_over: latents"),
        "t.yaml:7: agents.planner.hands_over",
        "no latents",
    ),
    "template a list": _planner("template: [a]", "template", "must be a mapping"),
    "template key a number": _planner("template: {1: a}", "template", "must be text"),
    "template key twice": _planner("template: {a: 1, a: 2}", "template.a", "already"),
    "template with a date": _planner("template: {a: 2024-01-01}", "template.a", "a date"),
    "template with an octal number": _planner(
        "template: {a: 010}", "template.a", "a number that is not decimal, so quote"
    ),
    "template of the engine": (
        _with_planner("template: {tokenize: true}"),
        "t.yaml:6: agents.planner.template.tokenize",
        "engine",
    ),
    "text agent with latent_steps": _judger("latent_steps: 3", "latent_steps", "latent agent"),
    "text agent with hands_over": _judger("hands_over: all", "hands_over", "latent agent"),
    "text agent with keep": _judger("keep: 0.5", "keep", "latent agent"),
    "text agent with close_turn": _judger("close_turn: false", "close_turn", "latent agent"),
    "latent agent with an engine": _planner("engine: vllm", "engine", "only an agent that thinks in text"),
    "an unknown engine": _judger("engine: llamacpp", "engine", "auto, transformers, vllm"),
    "reads a mapping": (_replaced("[planner]", "{planner: 1}"), "t.yaml:8: agents.judger.reads", "or a list"),
    "reads nothing": (_replaced("reads: [planner]", "reads:"), "t.yaml:8: agents.judger.reads", "nothing"),
    "reads a number": (_replaced("[planner]", "[planner, 3]"), "t.yaml:8: agents.judger.reads[1]", "a number"),
    "reads an unknown agent": (
        _replaced("[planner]", "[planer]"),
        "t.yaml:8: agents.judger.reads",
        "other agents are planner",
    ),
    "reads an unknown agent, in a list": (
        _replaced("[planner]", "\n      - planner\n      - critic"),
        "t.yaml:10: agents.judger.reads",
        "no agent of that name",
    ),
    "reads itself": (_replaced("[planner]", "judger"), "t.yaml:8: agents.judger.reads", "itself"),
    "reads twice": (
        _replaced("[planner]", "\n      - planner\n      - planner"),
        "t.yaml:10: agents.judger.reads",
        "named twice",
    ),
    "latent reads text": (
        _agents("name: a, thinks: text", "name: b, reads: a", "name: c, reads: b, thinks: text"),
        "t.yaml:4: agents.b.reads",
        "a text agent hands over text, not memory",
    ),
    "cycle": (
        _agents("name: a, thinks: text, reads: b", "name: b, reads: d", "name: c, reads: b", "name: d, reads: c"),
        "t.yaml:4: agents.b.reads",
        "'b reads d reads c reads b'",
    ),
    "two answering agents": (
        _agents("name: a", "name: b, reads: a, thinks: text", "name: c, thinks: text"),
        "t.yaml:5: agents.c",
        "'b, c'; no agent reads these",
    ),
    "the answering agent is latent": (_agents("name: a, thinks: latent"), "t.yaml:3: agents.a.thinks", "thinks: text"),
    "the answering agent is latent by default": (_agents("name: a"), "t.yaml:3: agents.a.thinks", "thinks: text"),
    "too many agents": (_agents(*["name: a"] * 1001), "t.yaml:2: agents", "1 to 1000"),
    "memory too deep": (
        _chain(102),
        "t.yaml:104: agents.a101.reads",
        "at most 100",
    ),
    "memory too wide": (
        _ladder(14),
        "t.yaml:39: agents.a12.reads",
        "10000 paths",
    ),
    "Jinja2 in a line": (
        _replaced("Plan. {{ question }}", "Plan. {{ question"),
        "t.yaml:5: agents.planner.prompt",
        "Jinja2",
    ),
    "Jinja2 in a block": (
        _replaced("      {{ question }}\n", "      {% if %}\n"),
        "t.yaml:11: agents.judger.prompt",
        "Jinja2",
    ),
    "unknown filter": (
        _replaced("      {{ question }}\n", "      {{ x | randm }}\n"),
        "t.yaml:11: agents.judger.prompt",
        "randm",
    ),
    "random": (
        _replaced("      {{ question }}\n", "      {{ [1] | random }}\n"),
        "t.yaml:11: agents.judger.prompt",
        "random",
    ),
    "Jinja2 in system": _planner("system: '{% endif %}'", "system", "Jinja2"),
    "Jinja2 in suffix": _planner("suffix: '{{ }}'", "suffix", "Jinja2"),
    "nested too deeply for Python": _planner("suffix: '{{ " + "(" * 5000 + "'", "suffix", "compile"),
    "number too long for Python": _planner("suffix: '{{ " + "1" * 5000 + " }}'", "suffix", "compile"),
    "include": _planner("suffix: '{% include \"a\" %}'", "suffix", "other templates"),
    "gold": (
        _replaced("      {{ question }}\n", "      {{ gold }}\n"),
        "t.yaml:11: agents.judger.prompt",
        "no agent may see",
    ),
    "gold, guarded": _planner("system: \"{{ gold | default('') }}\"", "system", "no agent may see"),
    "too large": ("# " + "x" * 1_000_000, "t.yaml", "at most 1000000 bytes"),
}


def test_the_good_file_is_good() -> None:
    assert [agent.name for agent in parse_topology(GOOD, "t.yaml").agents] == ["planner", "judger"]


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file(case: str) -> None:
    text, field, part = BAD_FILES[case]
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "t.yaml")
    assert caught.value.field == field
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "field", "part"),
    [
        ("latin.yaml", b"name: x\nagents: caf\xe9\n", "{path}:2", "UTF-8"),
        ("large.yaml", b"#" * 1_000_001, "{path}", "too large"),
        ("missing.yaml", None, "topology", "No such file"),
        ("two.yaml", b"name: 1\n", "{path}:1: agents", "missing"),
        ("text.txt", b"name: x\n", "topology", "FILE.yaml"),
    ],
)
def test_bad_path(tmp_path: Path, name: str, content: bytes | None, field: str, part: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TopologyError) as caught:
        load_topology(str(path))
    assert caught.value.field == field.format(path=path)
    assert part in str(caught.value)


def test_folder_and_impossible_path(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(TopologyError, match="must be a file"):
        load_topology(str(folder))
    with pytest.raises(TopologyError, match="cannot be read"):
        load_topology("a\0b.yaml")


def test_unknown_name_suggests_a_built_in() -> None:
    with pytest.raises(TopologyError, match=r"did you mean sequential\? it must be a built-in .*hierarchical"):
        load_topology("sequental")


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    noise = st.text(st.sampled_from("{}[]:-|>&*!%#'\"\\ \n\tax1\x85\ufeff\x00"), max_size=4)
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 8))
        text = text[:at] + data.draw(noise) + text[at + cut :]
    field = "t.yaml:"
    try:
        parse_topology(text, "t.yaml")
    except TopologyError as error:
        field = error.field
    assert field.startswith("t.yaml:")
