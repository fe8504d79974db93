"""Keep other libraries' notices and progress bars out of ours."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Silence the loading bars and information notices of diffusers and transformers; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
