"""The scripts in the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.conftest import write
from trainkit.cli.completion import SHELLS, script
from trainkit.cli.main import main

ASK = {
    "bash": '{script}\nCOMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; typed=($COMP_LINE); COMP_CWORD={number}\n'
    "_trainkit; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    "zsh": "compdef() {{}}; _files() {{ print -l -- *; }}; compadd() {{ shift 4; print -l -- $@; }}\n{script}\n"
    'words=({line} ""); CURRENT={at}; _trainkit',
    "fish": "{script}\ncomplete -C '{line}'",
}
"""How each is asked what could follow a line; of zsh's own completion system the parts that the script calls."""


def offered(shell: str, line: str, folder: Path) -> set[str]:
    """What Tab would offer at the end of `line`."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    number = len(line.split()) - (not line.endswith(" "))
    last = "" if line.endswith(" ") else line.split()[-1]
    text = ASK[shell].format(script=script(shell), line=line, number=number, at=number + 1)
    command = [shell, *({"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]), "-c", text]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert said.stderr == ""
    return {
        word.split("\t")[0] for word in said.stdout.split("\n") if word and (shell != "zsh" or word.startswith(last))
    }


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_keys_and_choices(shell: str, tmp_path: Path) -> None:
    write(tmp_path / "conf/recipe/mine.yaml", "")
    assert {"audit", "recipe=llm_finetune", "train.steps=", "strategy=fsdp"} <= offered(shell, "trainkit ", tmp_path)
    assert offered(shell, "trainkit au", tmp_path) == {"audit"}
    assert offered(shell, "trainkit recipe=mine train.st", tmp_path) == {"train.steps="}
    files = {"conf/"} if shell == "fish" else set()  # fish offers them beside the words
    assert offered(shell, "trainkit jobs ", tmp_path) - files == {"ls", "status", "logs", "wait", "stop"}
    assert offered(shell, "trainkit ray ", tmp_path) - files == {"submit", "status", "logs", "stop", "render"}
    assert offered(shell, "trainkit completion ", tmp_path) - files == {*SHELLS}
    assert "strategy.timeout_s=" in offered(shell, "trainkit validate recipe=mine stra", tmp_path)


@pytest.mark.parametrize("shell", SHELLS)
def test_choices_after_the_equals_sign_and_ones_own(shell: str, tmp_path: Path) -> None:
    write(tmp_path / "conf/recipe/mine.yaml", "")
    found = offered(shell, "trainkit recipe=", tmp_path)
    prefix = "" if shell == "bash" else "recipe="  # bash replaces only what comes after the =
    assert {f"{prefix}mine", f"{prefix}llm_finetune"} <= found


@pytest.mark.parametrize("words", [[], ["bsh"], ["bash", "x"]])
def test_what_is_typed_wrong(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", *words]) == 2
    assert "the command is: completion bash|zsh|fish" in capsys.readouterr().err
