"""A keeper (trainkit/keeper.py) as the agent sees it: who it is, and what it has said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainkit.launcher._wire import Message, Wire


@dataclass
class Keeper:
    """One of them. `slot`: the first of its places on its machine; `size`: of its `group`."""

    group: int
    size: int
    number: int
    host: str
    slot: int
    wire: Wire
    reaches: Sequence[str]
    ready: bool = False
    state: Message = field(default_factory=dict)
    news: list[Message] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.wire.closed

    def hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message["what"] == "state":
                self.state = message
            elif message["what"] == "ready":
                self.ready = True
            else:
                self.news.append(message)
