"""Checks and renders prompt templates."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables

from latentmas_ray.topology.sandbox import MAX_CHARS, Sandbox, within_budget

_LOADS_FILES = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


@lru_cache(maxsize=4096)
def find_problem(template: str) -> tuple[int, str] | None:
    """Return the line (from 1) and the reason why a template is invalid; None if it is valid."""
    if "{" not in template:
        return None  # plain text
    try:
        tree = _PROMPTS.parse(template)
        for node in tree.find_all(_LOADS_FILES):
            return node.lineno, "a prompt cannot load other templates; write the text into it"
        if "gold" in find_undeclared_variables(tree):
            line = next(node.lineno for node in tree.find_all(nodes.Name) if node.name == "gold")
            return line, "gold is the reference answer, which no agent may see"
        _compile(template, keep_trailing_newline=False)
    except jinja2.TemplateSyntaxError as error:
        return error.lineno, f"Jinja2: {error.message}"
    except Exception as error:  # noqa: BLE001 - generated code can exceed Python's limits on nesting and numbers
        return 1, f"Jinja2 cannot compile it: {error}"
    return None


@lru_cache(maxsize=4096)
def variables_of(template: str) -> frozenset[str]:
    """Return the variables that a template uses. Raises jinja2.TemplateSyntaxError."""
    return frozenset(find_undeclared_variables(_PROMPTS.parse(template)))


def render(template: str, variables: Mapping[str, Any], *, keep_trailing_newline: bool = False) -> str:
    """Return the rendered text. May raise any exception, not only jinja2.TemplateError: a template is a program."""
    compiled = _compile(template, keep_trailing_newline=keep_trailing_newline)
    chunks: list[str] = []
    num_chars = 0
    with within_budget():
        for chunk in compiled.generate(variables):
            num_chars += len(chunk)
            if num_chars > MAX_CHARS:
                raise SecurityError(f"it renders to more than {MAX_CHARS} characters")
            chunks.append(chunk)
    return "".join(chunks)


@lru_cache(maxsize=4096)
def _compile(template: str, *, keep_trailing_newline: bool) -> jinja2.Template:
    environment = _SUFFIXES if keep_trailing_newline else _PROMPTS
    return environment.compile_measured(environment.parse(template))


_PROMPTS = Sandbox(keep_trailing_newline=False)
_SUFFIXES = Sandbox(keep_trailing_newline=True)
