"""`latentmas serve` and SIGHUP, as a process."""

import signal
from pathlib import Path

import httpx

from tests.unit.cli.test_serve_command import serving

TEAM = """name: mine
agents:
- {name: scout, prompt: "{{ question }}"}
- {name: judger, thinks: text, reads: [scout], prompt: "{{ question }}"}
"""


def test_a_signal_reads_the_topologies_again(tmp_path: Path) -> None:
    mine, names = tmp_path / "mine.yaml", tmp_path / "list.yaml"
    mine.write_text(TEAM)
    names.write_text("topologies: []\n")
    with serving("--latent-steps", "1", "--topologies-file", str(names)) as (process, url, lines):
        assert "latentmas/mine" not in lines[0]
        assert process.stderr is not None
        said: list[str] = []
        for content, expected in [
            ("topologies: [mine.yaml]\n", "reloaded: serving latentmas/sequential, "),
            ("topologies: [mine\n", "not reloaded, what was served before is served: "),
        ]:
            names.write_text(content)
            process.send_signal(signal.SIGHUP)
            while expected not in (line := process.stderr.readline()):
                assert line, said
                said.append(line)
            found = {one["id"] for one in httpx.get(f"{url}/v1/models").json()["data"]}
            assert {"latentmas/mine", "latentmas/mine/text", "latentmas/sequential"} <= found
        assert "Traceback" not in "".join(said)
