"""One Trainer over the distributed-training frameworks. A recipe needs what is named here, and nothing else."""

from trainkit.errors import Problem
from trainkit.protocols import Batch, Data, Source, Task

__version__ = "0.1.0"
__all__ = ["Batch", "Data", "Problem", "Source", "Task", "__version__"]
