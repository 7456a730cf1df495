"""The output of a run: a local folder, or a URL of any store that fsspec supports.

Stores such as S3 cannot append to an object. So the journal of a run with a URL is written to a local folder, and its
files are uploaded as wholes: when the run starts, every UPLOAD_SECONDS if they have changed, and when the run ends, by
an error too. A process that is killed loses the results since the last upload; a resumed run computes them again. A URL
is not locked: only one run at a time may write to it.
"""

import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from latentmas_ray.config import is_url
from latentmas_ray.errors import JournalError, RunError, hide_password, hide_passwords, password_of
from latentmas_ray.runs.journal import CONFIG_NAME, FAILURES_NAME, RESULTS_NAME, SUMMARY_NAME, TOPOLOGY_NAME
from latentmas_ray.runs.timeline import TIMELINE_NAME
from latentmas_ray.runs.traces import EMBEDDINGS_NAME, TRACES_NAME

UPLOAD_SECONDS = 15.0
# The configuration is first, after the topology that it names: results without it cannot be resumed. Traces come before
# results: a question with an answer is not traced again.
_NAMES = (
    *(TOPOLOGY_NAME, CONFIG_NAME, TRACES_NAME, EMBEDDINGS_NAME, RESULTS_NAME, TIMELINE_NAME, FAILURES_NAME),
    SUMMARY_NAME,
)
_LOG = logging.getLogger(__name__)


class Output:
    """A local folder. A context manager: after it, the files written to `folder` are at the destination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> None:
        """Start uploading the files of `folder`. Raises JournalError if the destination is not writable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_output(output: str, *, upload_seconds: float = UPLOAD_SECONDS) -> Output:
    """Return the output for a folder or URL. Raises JournalError for a URL that no installed library supports, or that
    cannot be reached or read."""
    if not is_url(output):
        return Output(Path(output))
    try:
        store, root = fsspec.url_to_fs(output)
    except (ImportError, ValueError) as error:
        expected = "it must be a folder, or a URL that fsspec and its installed packages support"
        raise JournalError("output", hide_password(output), f"{expected}: {_reason(error, output)}") from error
    except Exception as error:  # many clients connect when they are made, and each library has its own errors
        expected = f"its store must be reachable: {_reason(error, output)}"
        raise JournalError("output", hide_password(output), expected) from error
    if isinstance(store, LocalFileSystem):
        return Output(Path(root))
    return _RemoteOutput(output, store, root.rstrip("/"), upload_seconds)


class _RemoteOutput(Output):
    """A local folder whose files a thread uploads to a store, so that no run waits for it."""

    def __init__(self, url: str, store: Any, root: str, upload_seconds: float) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="latentmas-")))
        self._url = hide_password(url)  # as messages show it
        self._reason = partial(_reason, url=url)
        self._store = store
        self._root = root
        self._upload_seconds = upload_seconds
        self._uploaded: dict[str, tuple[int, int] | None] = {}  # time and size of each local file when it was uploaded
        self._closed = Event()
        self._thread: Thread | None = None
        try:
            self._download()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def start(self) -> None:
        """Upload all files, which fails if the store is not writable, and start the thread."""
        try:
            self._upload()
        except Exception as error:
            raise JournalError("output", self._url, f"it must be writable: {self._reason(error)}") from error
        self._thread = Thread(target=self._upload_until_closed, name="output", daemon=True)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Upload the changed files. If that fails the local folder is kept: raises RunError with its path, or adds a
        note to the error that ended the run. JournalErrors name the URL instead of the local folder."""
        if self._thread is not None:
            self._closed.set()
            self._thread.join()
            try:
                self._upload()
            except Exception as failure:
                message = (
                    f"results cannot be uploaded to {self._url} ({self._reason(failure)}); they are in {self.folder}"
                )
                if error is None:
                    raise RunError(message) from failure
                error.add_note(message)
                return
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, JournalError):
            here = str(self.folder)
            parts = (part.replace(here, self._url) for part in (error.field, error.value, error.expected))
            raise JournalError(*parts) from error

    def _download(self) -> None:
        try:
            for name in _NAMES:
                path = f"{self._root}/{name}"
                if self._store.exists(path):
                    (self.folder / name).write_bytes(self._store.cat_file(path))
                    self._uploaded[name] = _version(self.folder / name)
        except Exception as error:
            raise JournalError("output", self._url, f"it must be readable: {self._reason(error)}") from error

    def _upload_until_closed(self) -> None:
        while not self._closed.wait(self._upload_seconds):
            try:
                self._upload()
            except Exception as error:  # noqa: BLE001  each store's library has its own errors
                _LOG.warning("results are not uploaded to %s for now: %s", self._url, self._reason(error))

    def _upload(self) -> None:
        """Upload the files that have changed, and remove files that no longer exist here.

        Files are read in reverse order, so that a file never has content newer than the files before it.
        """
        changed: dict[str, tuple[tuple[int, int] | None, bytes]] = {}
        for name in reversed(_NAMES):
            version = _version(self.folder / name)
            if version != self._uploaded.get(name):
                # A partial last row is handled by a resumed run, as after a kill.
                changed[name] = version, b"" if version is None else (self.folder / name).read_bytes()
        for name, (version, content) in reversed(changed.items()):
            if version is None:
                self._store.rm_file(f"{self._root}/{name}")
            else:
                self._put(f"{self._root}/{name}", content)
            self._uploaded[name] = version

    def _put(self, path: str, content: bytes) -> None:
        try:
            self._store.pipe_file(path, content)
        except FileNotFoundError:
            # Without its parents: some stores would create a bucket for a mistyped name.
            self._store.mkdir(self._root, create_parents=False)
            self._store.pipe_file(path, content)


def _version(path: Path) -> tuple[int, int] | None:
    """Return time and size of a file, which change with its content; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _reason(error: BaseException, url: str) -> str:
    """What an error says, in one line and without the password of the URL."""
    text = " ".join(str(error).split()) or type(error).__name__
    secret = password_of(url)
    for one in {secret, unquote(secret)} if secret else ():
        text = text.replace(one, "***")
    return hide_passwords(text)
