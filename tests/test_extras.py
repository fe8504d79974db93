"""Commands that need an extra say so before any work."""

import pytest
from typer.testing import CliRunner

from ddmd import cli, extras
from ddmd.errors import InputError
from ddmd.extras import MODULES, missing, require


@pytest.mark.parametrize(
    ("extra", "words"),
    [("lab", ["lab", "fig2"]), ("demo", ["demo"]), ("study", ["study", "serve", "nowhere"]), ("study", ["study", "report", "nowhere"])],
)
def test_a_command_without_its_extra_does_nothing(extra, words, monkeypatch):
    monkeypatch.setattr(extras, "missing", lambda modules: modules[-1])
    found = CliRunner().invoke(cli.app, words).exception
    assert isinstance(found, InputError) and f"decoupled-dmd[{extra}]" in str(found) and MODULES[extra][-1] in str(found)


def test_the_emoji_world_asks_for_its_scorers_packages_when_opened(monkeypatch):
    from ddmd.teachers.builtin import WEIGHTS
    from ddmd.teachers.builtin.emoji.suite import EmojiSuite

    monkeypatch.setattr(extras, "missing", lambda modules: "torchmetrics")
    with pytest.raises(InputError, match=r"torchmetrics: found not installed; .*\[emoji\]"):
        EmojiSuite(WEIGHTS / "emoji" / "judge")


def test_what_is_missing():
    assert missing(("json", "no_such_package_at_all", "other")) == "no_such_package_at_all" and missing(("json",)) is None
    with pytest.raises(InputError, match="no_such_package_at_all: found not installed"):
        require("lab", ("no_such_package_at_all",))
