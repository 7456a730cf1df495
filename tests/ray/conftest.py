"""What all tests of this folder share, besides the Ray of `tests/conftest.py`."""

import pytest
import ray


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had no connection to Ray; it must not try to get one. The connection of other tests stays."""

    def refuse(*_: object, **more: object) -> None:
        raise AssertionError(f"Ray was asked for a connection: {more}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
