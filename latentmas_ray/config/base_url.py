"""The form of a server's base URL."""

from urllib.parse import urlsplit

from latentmas_ray.errors import ConfigError


def check_base_url(field: str, url: str) -> None:
    """Raise ConfigError unless `url` is the base URL of a server, such as http://127.0.0.1:8000/v1."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no port
        is_right = False
    if not is_right or any(character.isspace() for character in url):
        raise ConfigError(field, url, "it must be a base URL, as in http://127.0.0.1:8000/v1")
