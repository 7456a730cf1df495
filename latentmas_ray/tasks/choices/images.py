"""Finds images in a question's record: only text is read here, also by a vision-language model."""

import re
from collections.abc import Mapping
from typing import Any

from latentmas_ray.errors import TaskError

_NAMES = re.compile(r"(?:\w+_)?(?:image|img|picture|photo|figure|screenshot|video)s?(?:_?\w+)?", re.IGNORECASE)
_DATA = re.compile(r"data:(?:image|video)/", re.IGNORECASE)
_FILE = re.compile(r"\S+\.(?:png|jpe?g|gif|webp|bmp|tiff?|heic|svg|mp4|mov|avi|mkv|webm)(?:\?\S*)?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?|s3|gs|file)://\S+", re.IGNORECASE)
_ENCODED = re.compile(r"[A-Za-z0-9+/_=-]{200,}")  # base64: no text has words that long
# Of a message's parts, as chat APIs and chat templates have them.
_PARTS = frozenset({"image", "image_url", "input_image", "video", "video_url", "input_video"})
_SHOWN_CHARS = 40
_EXPECTED = "images are not read, not even by vision-language models: ask in text alone, and leave this field out"


def check_no_image(record: Mapping[str, Any], where: str) -> None:
    """Raise TaskError, its field `where` and the key, if a field of a record holds an image or a video: bytes, an image
    object, a part of a message, a data URL, or, under a name such as `image`, a file's name, an address or base64.

    A text under such a name, as of a caption, is none; nor is a file's name under another name, as of an option.
    """
    for key, value in record.items():
        if _holds_image(value, is_named=_NAMES.fullmatch(key) is not None):
            raise TaskError(f"{where}{key}", _shown(value), _EXPECTED)


def _holds_image(value: Any, *, is_named: bool) -> bool:
    if isinstance(value, str):
        text = value.strip()
        forms = (_FILE, _ADDRESS, _ENCODED) if is_named else ()
        return _DATA.match(text) is not None or any(form.fullmatch(text) for form in forms)
    if isinstance(value, bytes | bytearray):
        return True
    if isinstance(value, Mapping):
        if value.get("type") in _PARTS or (is_named and value.get("bytes")):
            return True
        return any(_holds_image(inner, is_named=is_named or key in _PARTS) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return any(_holds_image(inner, is_named=is_named) for inner in value)
    return type(value).__module__.partition(".")[0] == "PIL"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]}…"
    return f"a {type(value).__name__}"
