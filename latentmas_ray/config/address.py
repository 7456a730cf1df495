"""The forms of addresses: that of a Ray cluster, and the base URL of a server."""

from urllib.parse import urlsplit

from latentmas_ray.errors import ConfigError

ADDRESS_FORM = "it must be HOST:PORT of the cluster's head (usually port 6379), or auto"
RAY_CLIENT = f"Ray Client is not supported; run it on a node of the cluster, or with `ray job submit`: {ADDRESS_FORM}"
_DASHBOARD = f"http is for `ray job submit --address`, the dashboard's address; {ADDRESS_FORM}"
_SCHEMES = {"ray": RAY_CLIENT, "http": _DASHBOARD, "https": _DASHBOARD}
_NAMES = ("auto", "local")


def split_address(address: str) -> tuple[str, int] | None:
    """Return the host and port of an address; None for `auto` and `local`, which Ray resolves.

    An IPv6 host may be in brackets, which are removed. Raises ValueError with what would be right.
    """
    if address in _NAMES:
        return None
    scheme, separator, _ = address.partition("://")
    if separator:
        raise ValueError(_SCHEMES.get(scheme.lower(), f"an address has no scheme; {ADDRESS_FORM}"))
    host, colon, port = address.rpartition(":")
    if not colon or not host or host != host.strip() or "/" in address:
        raise ValueError(ADDRESS_FORM)
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError("its port must be a number from 1 to 65535")
    return host.strip("[]"), int(port)


def describe_other_service(port: int) -> str:
    """Return what to say where something else than a Ray head listens at this port."""
    return f"a Ray cluster must answer there: what listens is not Ray's head{_hint(port)}"


def check_base_url(field: str, url: str) -> None:
    """Raise ConfigError unless `url` is the base URL of a server, such as http://127.0.0.1:8000/v1."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no port
        is_right = False
    if not is_right or any(character.isspace() for character in url):
        raise ConfigError(field, url, "it must be a base URL, as in http://127.0.0.1:8000/v1")


def _hint(port: int) -> str:
    names = {8265: "the dashboard", 10001: "Ray Client"}
    return f" (port {port} is usually {names[port]}, and the head's is 6379)" if port in names else ""
