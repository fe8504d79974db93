"""Keep other libraries' notices and progress bars out of ours."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence the loading bars and information notices of diffusers and transformers; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # torchao, where it is installed, speaks up as diffusers imports it: of GPU kernels that a CPU lacks, and through torch.
    for name in ("torchao", "torch.utils._pytree", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "torchao" else logging.ERROR)
    warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters on one base are what we want
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
