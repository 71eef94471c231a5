"""What a tracker and an error message are told of the configuration."""

from __future__ import annotations

import pytest

from trainkit.secrets import flat


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("max_tokens", 512, "512"),
        ("tokenizer", "byte", "byte"),
        ("key", None, "None"),
        *[(key, "x1", "(not shown)") for key in ("token", "hf_token", "api_key", "apikey", "db_password", "Secret")],
        ("uri", "postgresql://me:pass@host/db", "postgresql://(not shown)@host/db"),
        ("uri", "http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_secrets_are_not_told_and_nothing_else_is_held_back(key: str, value: object, told: str) -> None:
    assert dict(flat({"recipe": {"deep": {key: value}}})) == {f"recipe.deep.{key}": told}
