"""Who keeps ranks for a run on several machines, as the agent sees it: who is there, who is lost, and who has come to
take the place of one that is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trainkit.launcher._order import Order
from trainkit.launcher._wire import Message, Wire


@dataclass
class Keeper:
    """One of them, as it is seen from here. `slot`: the first of its places on its machine; `size`: of its `group`."""

    number: int
    host: str
    slot: int
    wire: Wire
    reaches: Sequence[str]
    group: int = 0
    size: int = 0
    ready: bool = False
    state: Message = field(default_factory=dict)
    load: Message = field(default_factory=dict)
    news: list[Message] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.wire.closed

    @property
    def there(self) -> bool:
        """Whether it does what it is told."""
        return self.ready and not self.lost

    def hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message["what"] == "state":
                self.state = message
            elif message["what"] == "load":
                self.load = message["load"]
            elif message["what"] == "ready":
                self.ready = True
            elif message["what"] != "alive":
                self.news.append(message)


class Roll:
    """The keepers by number. One that comes when its number is a lost one's is a newcomer until `take_in`: between two
    attempts, or nobody would see that the other one is lost. `address`: where the ranks meet, once that is known."""

    def __init__(self, order: Order) -> None:
        self.keepers: dict[int, Keeper] = {}
        self.address: str | None = None
        self.order, self.newcomers = order, dict[int, Keeper]()

    def __iter__(self) -> Iterator[Keeper]:
        return iter([*self.keepers.values(), *self.newcomers.values()])

    def admit(self, wire: Wire, hello: Message, more: Sequence[Message]) -> None:
        """Let one in that knows the token, or tell it why not."""
        host, slot, number = hello["host"], hello["slot"], hello["number"]
        if number is None:
            number = self._free(host)
        if why := self._against(number, host, slot, hello["reaches"]):
            wire.send("refused", why=why)
            wire.close()
            return
        wire.send("welcome")
        keeper = Keeper(int(number), host, slot, wire, hello["reaches"])
        keeper.hear(more)
        (self.newcomers if number in self.keepers else self.keepers)[keeper.number] = keeper

    def _free(self, host: str) -> int | None:
        """A guest's number: its own of before, if it is back."""
        order = self.order
        taken = {keeper.number for keeper in self if not keeper.lost}
        free = [number for number in range(order.keepers - order.guests, order.keepers) if number not in taken]
        before = [number for number in free if number in self.keepers and self.keepers[number].host == host]
        return next(iter([*before, *free]), None)

    def _against(self, number: int | None, host: str, slot: int, reaches: Sequence[str]) -> str:
        living = [keeper for keeper in self if not keeper.lost]
        if any((keeper.host, keeper.slot) == (host, slot) for keeper in living):
            return f"{host} is there already"
        if number is None or any(keeper.number == number for keeper in living):
            return f"all {self.order.keepers} places are taken"
        if self.address is not None and self.address not in reaches:
            return f"it cannot reach {self.address}, where the ranks meet"
        return ""

    @property
    def whole(self) -> bool:
        """Whether all that are to be there are."""
        return sum(keeper.ready for keeper in self) >= self.order.keepers

    @property
    def broken(self) -> bool:
        """Whether one of them is lost."""
        return any(keeper.lost for keeper in self.keepers.values())

    @property
    def coming(self) -> list[Keeper]:
        """Those that have called since the run waits for them."""
        return [*self]

    def there(self) -> list[int]:
        """The places of those that are not lost."""
        numbers = sorted(number for number, keeper in self.keepers.items() if not keeper.lost)
        return _places(self.order, numbers)

    def forget(self) -> None:
        """Guests that have gone again before the run began may come back."""
        started = self.order.keepers - self.order.guests
        self.keepers = {n: keeper for n, keeper in self.keepers.items() if n < started or not keeper.lost}

    def gone(self) -> list[int]:
        """The places of those that are lost, and that nobody can take yet."""
        there = {number for number, keeper in self.newcomers.items() if keeper.there}
        return _places(self.order, [n for n, keeper in self.keepers.items() if keeper.lost and n not in there])

    def take_in(self) -> None:
        """The newcomers that are ready belong to it from now on."""
        self.newcomers = {n: keeper for n, keeper in self.newcomers.items() if not keeper.lost}
        ready = {n: keeper for n, keeper in self.newcomers.items() if keeper.there and self.keepers[n].lost}
        self.keepers |= ready
        for number in ready:
            del self.newcomers[number]


class Relay(Roll):
    """Groups of keepers that follow each other. Those of a group that has just been started are newcomers until it is
    whole, and take the place of the group before."""

    def admit(self, wire: Wire, hello: Message, more: Sequence[Message]) -> None:
        group, number = int(hello["group"]), int(hello["number"])
        if group < max((other.group for other in self), default=group):
            wire.send("refused", why="others have been started in its place")
            wire.close()
            return
        wire.send("welcome")
        for other in self.newcomers.values():
            if other.group < group:
                other.wire.close()
        size = int(hello["size"] or self.order.keepers)
        keeper = Keeper(number, hello["host"], hello["slot"], wire, hello["reaches"], group, size)
        keeper.hear(more)
        same = {n: other for n, other in self.newcomers.items() if other.group == group}
        self.newcomers = same | {number: keeper}

    @property
    def whole(self) -> bool:
        return bool(self.newcomers) and all(k.there and k.size == len(self.newcomers) for k in self.coming)

    @property
    def coming(self) -> list[Keeper]:
        return [*self.newcomers.values()]

    def gone(self) -> list[int]:
        """The places that the group lacks. Those of one that is lost are another's with the next group."""
        return _places(self.order, [n for n in range(self.order.keepers) if n not in self.keepers])

    def forget(self) -> None:
        """Nobody: another group may be on its way."""

    def take_in(self) -> None:
        """The newcomers, if they are whole, are all that belong to it."""
        if self.whole:
            for keeper in self.keepers.values():
                keeper.wire.close()
            self.keepers, self.newcomers = self.newcomers, {}


def _places(order: Order, numbers: Sequence[int]) -> list[int]:
    """Of the keepers with these numbers."""
    return [seat for number in numbers for seat in range(number * order.places, (number + 1) * order.places)]
