import os
import signal
from types import SimpleNamespace

import pytest

from ddmd.errors import InputError
from ddmd.run.processes import gather, lead_finds, stop_signals

ALONE = SimpleNamespace(num_processes=1, is_main_process=True)


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP; the others ask to stop."""
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.requested
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_one_process_finds_for_itself():
    assert gather(ALONE, "mine") == ["mine"]
    assert lead_finds(ALONE, lambda: 7) == 7

    def refuse():
        raise InputError("--out", "a file", "give a folder")

    with pytest.raises(InputError, match="--out"):
        lead_finds(ALONE, refuse)
