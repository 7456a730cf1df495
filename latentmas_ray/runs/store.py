"""Where a run's output goes: a folder of this machine, or a URL of any store that fsspec knows.

A store such as S3 cannot append to an object. So the journal of a run with a URL is kept in a folder here, with all
that a journal guarantees, and its files are copied there as wholes: when the run begins, while it goes on whenever
something is new and UPLOAD_SECONDS have gone by, and at the end, whatever the end is. A process that is killed outright
loses what came after the last copy; a resumed run computes that again. Nothing locks a URL: one run at a time writes
into it.
"""

import logging
import shutil
import tempfile
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentmas_ray.config import is_url
from latentmas_ray.runs.journal import CONFIG_NAME, FAILURES_NAME, RESULTS_NAME, SUMMARY_NAME
from latentmas_ray.runs.traces import EMBEDDINGS_NAME, TRACES_NAME
from latentmas_ray.errors import JournalError, RunError

UPLOAD_SECONDS = 15.0
# What says which run it is goes first: results without it could not be resumed. Traces go before results: a question
# that has its answer is not traced again.
_NAMES = (CONFIG_NAME, TRACES_NAME, EMBEDDINGS_NAME, RESULTS_NAME, FAILURES_NAME, SUMMARY_NAME)
_LOG = logging.getLogger(__name__)


class Output:
    """A folder of this machine. A context manager: what was written into `folder` is where it belongs at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self) -> None:
        """The journal in `folder` is open: from now on it may be copied. Raises JournalError if that cannot be."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_output(output: str, *, upload_seconds: float = UPLOAD_SECONDS) -> Output:
    """The output that a user has named. Raises JournalError for a URL that no library here knows, or whose store does
    not let us look at it."""
    if not is_url(output):
        return Output(Path(output))
    try:
        store, root = fsspec.url_to_fs(output)
    except (ImportError, ValueError) as error:
        expected = f"it must be a folder, or a URL that fsspec and its packages installed here know: {_reason(error)}"
        raise JournalError("output", output, expected) from error
    if isinstance(store, LocalFileSystem):
        return Output(Path(root))
    return _RemoteOutput(output, store, root.rstrip("/"), upload_seconds)


class _RemoteOutput(Output):
    """A folder here whose files are copied to a store by a thread of its own, so that no run waits for it."""

    def __init__(self, url: str, store: Any, root: str, upload_seconds: float) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="latentmas-")))
        self._url = url
        self._store = store
        self._root = root
        self._upload_seconds = upload_seconds
        self._there: dict[str, tuple[int, int] | None] = {}  # what the store has, by time and size of our file
        self._ended = Event()
        self._thread: Thread | None = None
        try:
            self._fetch()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def begin(self) -> None:
        """Copy what there is at once, which tells whether the store can be written to, and go on with that."""
        try:
            self._send()
        except Exception as error:
            raise JournalError("output", self._url, f"it must be writable: {_reason(error)}") from error
        self._thread = Thread(target=self._keep_sending, name="output", daemon=True)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Copy what is new. If that fails the folder here stays: raises RunError that says so, or tells it beside the
        error that ends the run. Complaints of the journal name the URL instead of the folder."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            try:
                self._send()
            except Exception as failure:
                said = f"results cannot be copied to {self._url} ({_reason(failure)}); they are in {self.folder}"
                if error is None:
                    raise RunError(said) from failure
                error.add_note(said)
                return
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, JournalError):
            here = str(self.folder)
            parts = (part.replace(here, self._url) for part in (error.field, error.value, error.expected))
            raise JournalError(*parts) from error

    def _fetch(self) -> None:
        try:
            for name in _NAMES:
                path = f"{self._root}/{name}"
                if self._store.exists(path):
                    (self.folder / name).write_bytes(self._store.cat_file(path))
                    self._there[name] = _version(self.folder / name)
        except Exception as error:
            raise JournalError("output", self._url, f"it must be readable: {_reason(error)}") from error

    def _keep_sending(self) -> None:
        while not self._ended.wait(self._upload_seconds):
            try:
                self._send()
            except Exception as error:  # noqa: BLE001  every store's library has errors of its own
                _LOG.warning("results are not copied to %s for now: %s", self._url, _reason(error))

    def _send(self) -> None:
        """Copy the files that have changed, as wholes, and remove there what is no more here.

        They are read in the other direction, so that what is written meanwhile does not come without what goes before.
        """
        changed: dict[str, tuple[tuple[int, int] | None, bytes]] = {}
        for name in reversed(_NAMES):
            version = _version(self.folder / name)
            if version != self._there.get(name):
                # Half a row at its end is what a killed run leaves too: a resumed one knows what to do.
                changed[name] = version, b"" if version is None else (self.folder / name).read_bytes()
        for name, (version, content) in reversed(changed.items()):
            if version is None:
                self._store.rm_file(f"{self._root}/{name}")
            else:
                self._put(f"{self._root}/{name}", content)
            self._there[name] = version

    def _put(self, path: str, content: bytes) -> None:
        try:
            self._store.pipe_file(path, content)
        except FileNotFoundError:
            # Only this one folder: with its parents, some stores would make a bucket of a name that was mistyped.
            self._store.mkdir(self._root, create_parents=False)
            self._store.pipe_file(path, content)


def _version(path: Path) -> tuple[int, int] | None:
    """Changes with the file; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
