"""What the README promises is run, not believed."""

import re
from pathlib import Path

import typer.main

from ddmd.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_library_example_runs():
    example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Distiller(" in block)
    scope: dict = {}
    exec(example, scope)
    assert scope["update"].metrics["generator_loss"] > 0


def test_every_command_is_named_and_every_link_leads_somewhere():
    commands = typer.main.get_command(app).commands
    assert all(f"ddmd {name}" in README for name in commands)
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (Path(__file__).parent.parent / target).exists(), target


def test_the_makefile_has_the_promised_targets():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
