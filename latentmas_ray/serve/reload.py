"""A change of topologies without a lost request: `SIGHUP` reads them again.

Requests that come from then on go to the new topologies, those that came before end on the old ones. The actors stay,
and execute the turns of both. What cannot be served leaves everything as it was, and is said in one line.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from latentmas_ray.errors import ConfigError, LatentMASError
from latentmas_ray.paths import expand_home
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.system.serving import is_topology_file
from latentmas_ray.topology.marked_yaml import MarkedYAML

_FORM = "it must have `topologies:`, and below it built-in ones and FILE.yaml, each on a line that begins with `- `"
_MAX_BYTES = 100_000


class TopologyList:
    """The topologies that are served besides the first: those of the command line, then those of a file, which may
    change."""

    def __init__(self, names: Sequence[str], path: str | None) -> None:
        """`path` is a YAML file, whose `topologies` is a list of names and files; files are relative to its folder."""
        self._names = tuple(names)
        self._path = None if path is None else Path(expand_home("topologies_file", path)).absolute()

    def read(self) -> tuple[str, ...]:
        """Return them. Raises ConfigError for a file that cannot be read or has another form, TopologyError if it is no
        YAML."""
        return (*self._names, *(() if self._path is None else _read(self._path)))

    def located(self, error: ConfigError) -> ConfigError:
        """Return the error of a topology that cannot be served, with the file, if that is where it is named."""
        if error.field != "topologies" or self._path is None or error.value in self._names:
            return error
        named = str(error.value).removeprefix(f"{self._path.parent}/")
        return ConfigError("topologies_file", f"{named} (in {self._path})", error.expected)


class Reloader:
    """Reloads the topologies of an endpoint; one reload at a time."""

    def __init__(self, endpoint: Endpoint, topologies: TopologyList, tell: Callable[[str], None]) -> None:
        """`tell` gets lines for the user."""
        self._endpoint, self._topologies, self._tell = endpoint, topologies, tell
        self._reloading: asyncio.Task[bool] | None = None
        self._is_wanted = False

    def install(self, *, wanted: bool = False) -> None:
        """Reload at every SIGHUP, in the running event loop, which must be the main thread's. `wanted`: one came
        before."""
        self._is_wanted = wanted
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def reload_if_wanted(self) -> None:
        """Reload now, when the models are loaded, if a signal came before that."""
        if self._is_wanted:
            self._is_wanted = False
            self._on_signal()

    async def reload(self) -> bool:
        """Serve the topologies as they are now. Returns whether it could."""
        before = self._endpoint.teams
        if self._is_ending():
            return False
        if not before.is_ready:
            self._tell("not reloaded: the models are still being loaded")
            return False
        try:
            names = await asyncio.to_thread(self._topologies.read)
            teams = await asyncio.to_thread(before.with_topologies, names)
            if self._is_ending():
                return False
            await teams.start()
        except ConfigError as error:
            return self._failed(str(self._topologies.located(error)))
        except LatentMASError as error:
            return self._failed(str(error))
        except Exception as error:  # noqa: BLE001  it ends no server
            return self._failed(f"{type(error).__name__}: {error}")
        num_open = self._endpoint.replace_teams(teams)
        gone = sorted(before.models.keys() - teams.models.keys())
        parts = [f"reloaded: serving {', '.join(teams.models)}"]
        parts += [f"{', '.join(gone)} not any more"] if gone else []
        parts += [f"{num_open} earlier request{'' if num_open == 1 else 's'} still run"] if num_open else []
        self._tell("; ".join(parts))
        return True

    def _is_ending(self) -> bool:
        """Whether the server drains: its actors end, and a reload would start others."""
        if self._endpoint.is_draining:
            self._tell("not reloaded: the server ends")
        return self._endpoint.is_draining

    def _failed(self, reason: str) -> bool:
        self._tell(f"not reloaded, what was served before is served: {' '.join(reason.split())}")
        return False

    def _on_signal(self) -> None:
        if not self._endpoint.teams.is_ready and not self._endpoint.is_draining:
            self._is_wanted = True
            self._tell("SIGHUP: the topologies are read again once the models are loaded")
            return
        if self._reloading is not None and not self._reloading.done():
            self._tell("a reload is running; send SIGHUP again after it")
            return
        self._reloading = asyncio.create_task(self.reload())


def _read(path: Path) -> list[str]:
    def refused(value: Any, expected: str) -> ConfigError:
        return ConfigError("topologies_file", value, expected)

    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise refused(str(path), "it must be a YAML file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refused(str(path), f"it cannot be read: {reason}; it must be a YAML file") from None
    if len(content) > _MAX_BYTES:
        raise refused(str(path), f"it must have at most {_MAX_BYTES} bytes")
    if not content.strip():
        raise refused(f"{path}: nothing", _FORM)
    try:
        data = MarkedYAML.read(content.decode(), str(path)).data
    except UnicodeDecodeError:
        raise refused(str(path), "it must be text in UTF-8") from None
    if more := sorted(map(str, data.keys() - {"topologies"})):
        raise refused(f"{path}: {more[0]}", _FORM)
    names = data.get("topologies")
    if not isinstance(names, list) or not all(isinstance(one, str) and one.strip() for one in names):
        raise refused(f"{path}: topologies", _FORM)
    return [
        str(path.parent / expand_home("topologies_file", one)) if is_topology_file(one) else one
        for one in map(str.strip, names)
    ]
