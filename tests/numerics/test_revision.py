"""A revision of a hub model: given to every call that asks the hub, and refused where there is none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import RevisionNotFoundError

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.load import load_runner
from latentmas_ray.errors import ModelError
from latentmas_ray.models import check_name, load_model
from latentmas_ray.models import load as load_module
from latentmas_ray.models.load import load_config
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer


class Hub:
    """Has one model, in a folder, with the revisions `main` and `v2`; notes what it is asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny_model(torch.float32).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        self.folder, self.asked, self.cached = folder, list[str | None](), {"v2"}
        for kind in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
            monkeypatch.setattr(load_module, kind, self._stand_in(getattr(load_module, kind)))
        monkeypatch.setattr(load_module, "try_to_load_from_cache", self._look)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", self._info)

    def _stand_in(self, kind: Any) -> type:
        def from_pretrained(name: str, *, revision: str | None = None, **more: Any) -> Any:
            assert name == "someone/model"
            self.asked.append(revision)
            return kind.from_pretrained(self.folder, **more)

        return type(kind.__name__, (), {"from_pretrained": staticmethod(from_pretrained)})

    def _look(self, name: str, file: str, revision: str | None = None) -> str | None:
        return str(self.folder / file) if (revision or "main") in self.cached else None

    def _info(self, name: str, *, timeout: float, revision: str | None = None) -> None:
        if revision not in (None, "main", "v2"):
            answer: Any = SimpleNamespace(headers={}, request=None)
            raise RevisionNotFoundError("404 Client Error.\n\nRevision Not Found for url: …", response=answer)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "model", monkeypatch)


def test_every_call_is_for_it(hub: Hub, tmp_path: Path) -> None:
    check_name("someone/model", "v2")
    load_config("someone/model", "v2")
    load_model("someone/model", device="cpu", revision="v2")
    load_runner("someone/model", dtype="auto", device="cpu", realign=False, cache_dir=tmp_path, revision="v2")
    assert set(hub.asked) == {"v2"}
    assert len(hub.asked) >= 8


def test_without_one_none_is_asked_for(hub: Hub) -> None:
    load_model("someone/model", device="cpu")
    assert set(hub.asked) == {None}


def test_one_that_the_hub_does_not_have_is_told_in_one_line(hub: Hub) -> None:
    with pytest.raises(ModelError, match="revision: got 'v3'; the hub has no branch, tag or commit") as caught:
        check_name("someone/model", "v3")
    assert "someone/model" in str(caught.value)
    assert hub.asked == []


def test_without_the_hub_it_must_be_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("nobody there")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    check_name("someone/model", "v2")
    with pytest.raises(ModelError, match=r"its revision main is not in the local cache.*nobody there"):
        check_name("someone/model", "main")


def test_what_has_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name, told in (("tiny", "the embedded model tiny has no revisions"), (str(tmp_path / "model"), "is a folder")):
        with pytest.raises(ModelError, match=rf"revision: got 'v2'; .*{told}"):
            check_name(name, "v2")
        with pytest.raises(ModelError, match="revision"):
            load_model(name, revision="v2")


def test_it_is_part_of_what_a_run_is() -> None:
    assert RunConfig().identity()["revision"] is None
    assert RunConfig(revision="v2").identity()["revision"] == "v2"
