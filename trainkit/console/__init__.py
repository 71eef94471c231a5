"""What a person sees of a run: live while it goes, a table when it ends. Reads the run folder only."""

from trainkit.console.events import TOLD, describe
from trainkit.console.live import Console
from trainkit.console.screen import screen
from trainkit.console.summary import closing, summarise
from trainkit.console.units import duration

__all__ = ["TOLD", "Console", "closing", "describe", "duration", "screen", "summarise"]
