"""Limits from a configuration file, as an application of Ray Serve gets them."""

from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.admission.keys import add_key, make_key
from latentmas_ray.serve.admission.limits import ServeLimits, read_limits
from latentmas_ray.serve.api.messages import MessageLimits


def test_a_mapping_has_the_fields() -> None:
    found = read_limits({"max_running": 8, "request_seconds": 5, "messages": {"max_message_chars": 10}})
    assert found == ServeLimits(max_running=8, request_seconds=5, messages=MessageLimits(max_message_chars=10))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_running": "many"}, "limits.max_running"),
        ({"max_running": 0}, "limits.max_running"),
        ({"max_running": None}, "limits.max_running"),
        ({"most": 3}, "limits.most"),
        ({"keys": "a"}, "limits.keys"),
        ({"api_keys": 3}, "limits.api_keys"),
        ({"api_keys": "/no/such/file"}, "limits.api_keys"),
        ({"allow_origins": ["a.example"]}, "limits.allow_origins"),
        ({"allow_origins": "https://a.example"}, "limits.allow_origins"),
        ({"allow_hosts": ["a b"]}, "limits.allow_hosts"),
        ({"messages": {"chars": 3}}, "limits.messages.chars"),
        ({"messages": {"max_message_chars": 0}}, "limits.messages.max_message_chars"),
        ({"conversations": {"chars": 3}}, "limits.conversations.chars"),
        ({"conversations": {"max_number": -1}}, "limits.conversations.max_number"),
        ({"conversations": 3}, "limits.conversations"),
    ],
)
def test_a_wrong_field_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_limits(given)
    assert caught.value.field == field
    assert len(str(caught.value).splitlines()) == 1
    assert not any(word in str(caught.value) for word in ("tuple", "Extra", "Unexpected", "ConversationLimits"))


def test_hosts_are_compared_as_they_are_sent() -> None:
    assert read_limits({"allow_hosts": ["Chat.Example.org"]}).allows_host("chat.example.org:8000")


def test_keys_come_from_a_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_limits({}).keys is None
    made = make_key("ann")
    monkeypatch.setenv("LATENTMAS_API_KEYS", made.entry)
    keys = read_limits({}).keys
    assert keys is not None
    assert keys.name_of(f"Bearer {made.key}") == "ann"
    key = add_key(str(tmp_path / "keys"), "bob")
    keys = read_limits({"api_keys": str(tmp_path / "keys")}).keys
    assert keys is not None
    assert keys.name_of(f"Bearer {key}") == "bob"
