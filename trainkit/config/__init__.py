"""From the words on the command line to checked objects.

compose   words -> resolved dict        (hydra; in the front only)
build     dict  -> Settings             (pydantic; in the front and again in every rank)
check     what only shows when the parts are seen together, and the state of the run folder
"""

from trainkit.config.build import build, load
from trainkit.config.bundle import components, describe
from trainkit.config.check import check, fitting, refused
from trainkit.config.compose import compose, draft, spaces
from trainkit.config.saved import newest
from trainkit.config.sound import sound

__all__ = [
    "build",
    "check",
    "components",
    "compose",
    "describe",
    "draft",
    "fitting",
    "load",
    "newest",
    "refused",
    "sound",
    "spaces",
]
