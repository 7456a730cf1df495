"""Finds the finished runs below folders, and says of each other run why it is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.config import is_url
from latentmas_ray.errors import ConfigError, JournalError
from latentmas_ray.paths import expand_home
from latentmas_ray.report.compared_run import ComparedRun, read_compared
from latentmas_ray.runs.journal import CONFIG_NAME, RESULTS_NAME
from latentmas_ray.seeds import seed_folders

_EXPECTED = "give folders with output folders of runs"
_MAX_DEPTH = 8  # folders below those that are given
_MAX_FOLDERS = 20_000  # that are looked into


@dataclass(frozen=True)
class LeftOut:
    """A folder that is not in the table."""

    folder: str
    why: str


@dataclass(frozen=True)
class FoundRuns:
    """The runs below some folders. Runs of several seeds are one."""

    runs: tuple[ComparedRun, ...]  # in the order of their folders
    left_out: tuple[LeftOut, ...]


def find_results(folders: Sequence[str]) -> FoundRuns:
    """Read all runs below these folders.

    What cannot be read and what is not finished is left out, and named. Raises ConfigError for a folder that is not
    there, and if there is no run at all.
    """
    runs, left_out, known = [], [], set[Path]()
    for given in folders:
        for folder in _run_folders(_existing(given)):
            if (place := folder.resolve()) in known:
                continue
            known.add(place)
            try:
                run = read_compared(str(folder), str(folder))
                if run.is_complete:
                    runs.append(run)
                else:
                    left_out.append(LeftOut(str(folder), "it is not finished: --resume continues it"))
            except JournalError as error:
                left_out.append(LeftOut(str(folder), str(error)))
    if not runs and not left_out:
        raise ConfigError(
            "FOLDER", " ".join(folders), "there is no run in it; give folders with output folders of runs"
        )
    return FoundRuns(tuple(runs), tuple(left_out))


def _existing(given: str) -> Path:
    if is_url(given):
        raise ConfigError("FOLDER", given, "it must be a folder on this machine; copy the runs to one")
    path = Path(expand_home("FOLDER", given))
    try:
        if path.is_dir():
            return path
    except OSError:  # such as a name that is too long
        pass
    raise ConfigError("FOLDER", given, f"there is no such folder; {_EXPECTED}")


def _run_folders(top: Path) -> Iterator[Path]:
    """Yield the output folders of runs, in the order of their names; one for all seeds of a run. Links are not
    followed."""
    waiting, num_seen = [(top, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        num_seen += 1
        if num_seen > _MAX_FOLDERS:
            raise ConfigError("FOLDER", str(top), f"it has more than {_MAX_FOLDERS} folders: give those of the runs")
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        except OSError:  # not ours to read
            continue
        seeds = set(seed_folders(folder).values())
        if any((folder / name).exists() for name in (CONFIG_NAME, RESULTS_NAME)) or seeds:
            yield folder
        if depth < _MAX_DEPTH:
            hidden = (path.name.startswith(".") for path in inner)
            deeper = [
                path for path, is_hidden in zip(inner, hidden, strict=True) if not is_hidden and path not in seeds
            ]
            waiting += [(path, depth + 1) for path in reversed(deeper)]
