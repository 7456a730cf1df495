"""The file from which a later driver finds the run's actors."""

import json
from pathlib import Path

import pytest

from latentmas_ray.actors.detached import record as module
from latentmas_ray.actors.detached.record import RECORD_NAME, DetachedRecord
from latentmas_ray.errors import RunError


def test_only_its_owner_can_read_the_key(tmp_path: Path) -> None:
    record = DetachedRecord.new("facts")
    record.write(tmp_path)
    record.write(tmp_path)  # over an older one
    assert (tmp_path / RECORD_NAME).stat().st_mode & 0o777 == 0o600
    assert DetachedRecord.read(tmp_path) == record
    assert record.run_key.run_id not in (tmp_path / RECORD_NAME).read_bytes()
    DetachedRecord.remove(tmp_path)
    DetachedRecord.remove(tmp_path)
    assert DetachedRecord.read(tmp_path) is None


def test_every_run_has_a_namespace_and_a_key_of_its_own() -> None:
    one, other = DetachedRecord.new("facts"), DetachedRecord.new("facts")
    assert one.namespace != other.namespace
    assert one.run_key != other.run_key


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"namespace": "n", "key": "00", "facts": "f"}),
        json.dumps({"namespace": "n", "key": 5, "facts": "f"}),
        json.dumps({"namespace": 1, "key": "00" * 32, "facts": "f"}),
        json.dumps({"namespace": "n", "key": "00" * 32, "facts": "f", "more": 1}),
        "[" * 100_000,
    ],
)
def test_a_damaged_record_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / RECORD_NAME).write_text(content)
    (tmp_path / RECORD_NAME).chmod(0o600)
    assert DetachedRecord.read(tmp_path) is None


def test_a_record_that_others_could_read_or_that_is_a_link_is_none(tmp_path: Path) -> None:
    record = DetachedRecord.new("facts")
    record.write(tmp_path)
    (tmp_path / RECORD_NAME).chmod(0o640)
    assert DetachedRecord.read(tmp_path) is None
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / RECORD_NAME).unlink()
    (tmp_path / RECORD_NAME).symlink_to(tmp_path / "elsewhere")
    assert DetachedRecord.read(tmp_path) is None
    record.write(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "mine"
    with pytest.raises(RunError, match="cannot be written"):
        record.write(tmp_path / "missing")


def test_no_key_is_written_where_files_have_no_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on some network disks: others could read it, so the next driver would not use it."""
    monkeypatch.setattr(module, "_MODE", 0o644)
    with pytest.raises(RunError, match=r"actors\.json cannot be written: others could read it there; leave out detach"):
        DetachedRecord.new("facts").write(tmp_path)
    assert not (tmp_path / RECORD_NAME).exists()
