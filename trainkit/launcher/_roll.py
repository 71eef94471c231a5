"""Who keeps ranks for a run on several machines, as the agent sees it: who is there, who is lost, and who has come to
take the place of one that is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trainkit.launcher._order import Order
from trainkit.launcher._wire import Message, Wire


@dataclass
class Keeper:
    """One of them, as it is seen from here. `slot`: the first of its places on its machine."""

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

    @property
    def there(self) -> bool:
        """Whether it does what it is told."""
        return self.ready and not self.lost

    def hear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message["what"] == "state":
                self.state = message
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
        self._order, self._newcomers = order, dict[int, Keeper]()

    def __iter__(self) -> Iterator[Keeper]:
        return iter([*self.keepers.values(), *self._newcomers.values()])

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
        (self._newcomers if number in self.keepers else self.keepers)[keeper.number] = keeper

    def _free(self, host: str) -> int | None:
        """A guest's number: its own of before, if it is back."""
        order = self._order
        taken = {keeper.number for keeper in self if not keeper.lost}
        free = [number for number in range(order.keepers - order.guests, order.keepers) if number not in taken]
        before = [number for number in free if number in self.keepers and self.keepers[number].host == host]
        return next(iter([*before, *free]), None)

    def _against(self, number: int | None, host: str, slot: int, reaches: Sequence[str]) -> str:
        living = [keeper for keeper in self if not keeper.lost]
        if any((keeper.host, keeper.slot) == (host, slot) for keeper in living):
            return f"{host} is there already"
        if number is None or any(keeper.number == number for keeper in living):
            return f"all {self._order.keepers} places are taken"
        if self.address is not None and self.address not in reaches:
            return f"it cannot reach {self.address}, where the ranks meet"
        return ""

    def forget(self) -> None:
        """Guests that have gone again before the run began may come back."""
        started = self._order.keepers - self._order.guests
        self.keepers = {n: keeper for n, keeper in self.keepers.items() if n < started or not keeper.lost}

    def gone(self) -> list[int]:
        """The places of those that are lost, and that nobody can take yet."""
        places = self._order.places
        there = {number for number, keeper in self._newcomers.items() if keeper.there}
        lost = [number for number, keeper in self.keepers.items() if keeper.lost and number not in there]
        return [seat for number in lost for seat in range(number * places, (number + 1) * places)]

    def take_in(self) -> None:
        """The newcomers that are ready belong to it from now on."""
        self._newcomers = {n: keeper for n, keeper in self._newcomers.items() if not keeper.lost}
        ready = {n: keeper for n, keeper in self._newcomers.items() if keeper.there and self.keepers[n].lost}
        self.keepers |= ready
        for number in ready:
            del self._newcomers[number]
