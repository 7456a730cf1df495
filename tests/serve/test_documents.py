"""Every example of docs/serving.md that asks a server, as it stands there, against the real one.

Only the port is another one. What needs a package that is not ours runs in the environment of `make clients`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.running_server import RunningServer
from tests.documents import ROOT, SERVER, Block, blocks

DOCUMENT = "docs/serving.md"
CLIENTS = ROOT / "tests/serve/clients"
OWN_ENVIRONMENTS = {"crewai": ".venv-crewai"}  # of clients that cannot be in the one of the others
# What makes an example one of another environment, and what it must print.
OF_CLIENTS = {
    "langgraph": r"\boxed{8}",
    "autogen_agentchat": r"\boxed{8}",
    "inspect_ai": "success 1.0",
    "lm_eval": "exact_match",
    "crewai": r"\boxed{",
}
PRINTED = {"curl ": r"\\boxed{8}", "print(answer.": r"\boxed{8}", "for chunk in stream": r"\boxed{5}"}


def asks(block: Block) -> bool:
    is_example = block.language in ("python", "sh") and "bench serve" not in block.text
    return is_example and block.asks_server


def client_of(block: Block) -> str | None:
    return next((name for name in OF_CLIENTS if name in block.text), None)


EXAMPLES = {
    block: f"{client_of(block) or 'own'}-{number}" for number, block in enumerate(filter(asks, blocks(DOCUMENT)))
}


def run(block: Block, url: str, folder: Path) -> str:
    text = block.text.replace(SERVER, url)
    client = client_of(block)
    programs = CLIENTS / OWN_ENVIRONMENTS.get(client or "", ".venv") / "bin"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI"))}
    if client is not None:
        environment["PATH"] = f"{programs}:{environment['PATH']}"
    environment |= {"HF_HOME": str(folder / "hub"), "TOKENIZERS_PARALLELISM": "false", "HOME": str(folder)}
    program = sys.executable if client is None else str(programs / "python")
    command = [program, "-c", text] if block.language == "python" else ["sh", "-euc", text]
    (folder / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_document_shows_every_client() -> None:
    assert {client_of(block) for block in EXAMPLES} == {None, *OF_CLIENTS}


@pytest.mark.parametrize("block", [block for block in EXAMPLES if client_of(block) is None], ids=EXAMPLES.get)
def test_own_examples_run_as_shown(block: Block, server: RunningServer, tmp_path: Path) -> None:
    expected = next(printed for words, printed in PRINTED.items() if words in block.text)
    assert expected in run(block, server.url, tmp_path)


@pytest.mark.clients
@pytest.mark.parametrize("block", [block for block in EXAMPLES if client_of(block) is not None], ids=EXAMPLES.get)
def test_examples_with_other_packages_run_as_shown(block: Block, server: RunningServer, tmp_path: Path) -> None:
    client = client_of(block)
    assert client is not None
    printed = run(block, server.url, tmp_path)
    assert OF_CLIENTS[client] in printed
    if client == "lm_eval":
        # The embedded model was trained for these questions.
        (row,) = [line for line in printed.splitlines() if "exact_match" in line]
        assert float(row.split("|")[7]) >= 0.9
