"""A command that has subcommands: `jobs stop RUN`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

WITH = ("checkpoint", "runs", "slurm", "ray", "jobs", "completion", "mlflow")
"""The commands that have some, so that completion imports no others: some take long."""

Details = Mapping[str, Mapping[str, str]]
"""What `COMMAND --help` explains besides its examples, by title: DETAILS of the command's module, if it has some."""


@dataclass(frozen=True)
class Subcommands:
    """Those of `command`. `calls`: how each is called, and what it does. A subcommand is the function
    `main(words) -> exit code` of the module of its name, or of the one that `modules` names for it, imported when it is
    called."""

    command: str
    calls: Mapping[str, str]
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [call.split()[0] for call in self.calls]

    @property
    def details(self) -> Details:
        return {"subcommands": {f"{self.command} {call}": about for call, about in self.calls.items()}}

    def main(self, words: Sequence[str]) -> int:
        name = words[0] if words else ""
        if name not in self.names:
            found = f"there is no {self.command} {name}; there are" if name else "the commands are"
            listed = "".join(f"\n    {self.command} {call:<30} {about}" for call, about in self.calls.items())
            raise ConfigError([Problem("", "", f"{found}:{listed}", suggest(name, self.names))])
        module = self.modules.get(name, f"trainkit.cli.{self.command}.{name}")
        code: int = importlib.import_module(module).main(words[1:])
        return code

    def call(self, name: str) -> str:
        """How it is called."""
        return next(f"{self.command} {call}" for call in self.calls if call.split()[0] == name)

    def usage(self, name: str) -> ConfigError:
        """For words that it does not understand."""
        return ConfigError([Problem("", "", f"the command is: {self.call(name)}")])
