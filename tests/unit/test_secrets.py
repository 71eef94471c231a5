"""What a tracker and an error message are told of the configuration."""

from __future__ import annotations

import pytest

from trainkit.secrets import flat, hidden, shown_word


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("max_tokens", 512, "512"),
        ("tokenizer", "byte", "byte"),
        ("key", None, "None"),
        *[(key, "x1", "(not shown)") for key in ("token", "hf_token", "api_key", "apikey", "db_password", "Secret")],
        ("uri", "postgresql://me:pass@host/db", "postgresql://(not shown)@host/db"),
        ("uri", "postgresql://me:p@ss@host/db", "postgresql://(not shown)@host/db"),
        ("uri", "postgresql://host/db?user=me&password=x1", "postgresql://host/db?user=me&password=(not shown)"),
        ("uri", "https://host/a?sig_token=x1&b=2#c", "https://host/a?sig_token=(not shown)&b=2#c"),
        ("uri", "http://host:5000/a@b", "http://host:5000/a@b"),
        ("uri", "http://host/a?max_tokens=5&by=a@b", "http://host/a?max_tokens=5&by=a@b"),
        ("files", ["a", "s3://me:x1@b/c"], "['a', 's3://(not shown)@b/c']"),
        ("services", [{"password": "x1", "port": 1}], "[{'password': '(not shown)', 'port': 1}]"),
        ("credentials", {"user": "x1"}, "(not shown)"),
    ],
)
def test_secrets_are_not_told_and_nothing_else_is_held_back(key: str, value: object, told: str) -> None:
    assert dict(flat({"recipe": {"deep": {key: value}}})) == {f"recipe.deep.{key}": told}


def test_a_configuration_keeps_its_shape_and_what_is_no_secret() -> None:
    config = {"a": {"steps": 5, "token": "x1", "names": ["b", None]}, "uri": "http://me:x1@h", "api_key": {"deep": 1}}
    told = {"a": {"steps": 5, "token": "(not shown)", "names": ["b", None]}, "uri": "http://(not shown)@h"}
    assert hidden(config) == told | {"api_key": "(not shown)"}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("train.steps=5", "train.steps=5"),
        ("recipe.hf_token=x1", "recipe.hf_token=(not shown)"),
        ("tracker.uri=http://me:x=1@h", "tracker.uri=http://(not shown)@h"),
        ("http://me:x1@h", "http://(not shown)@h"),
    ],
)
def test_a_word_of_the_command_line_is_told_without_its_secret(word: str, told: str) -> None:
    assert shown_word(word) == told
