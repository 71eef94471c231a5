"""What the recipes share about transformers: being quiet."""

from __future__ import annotations

import warnings


def quiet() -> None:
    """Keep transformers' progress bars and advice out of the run's log."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
