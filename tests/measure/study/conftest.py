"""A small study: three models, four prompts, one of them hostile."""

import pytest
from PIL import Image, PngImagePlugin

PROMPTS = ["a red circle", '<script>alert("x")</script> & "quotes"', "two birds", "a house"]
COLOURS = {"secret-alpha": "red", "secret-beta": "green", "secret-gamma": "blue"}


@pytest.fixture
def sources(tmp_path):
    """Folders of images by model name, and the prompts' file. The images' own metadata name the model."""
    for model, colour in COLOURS.items():
        folder = tmp_path / "images of" / model
        folder.mkdir(parents=True)
        for i in range(len(PROMPTS)):
            told = PngImagePlugin.PngInfo()
            told.add_text("model", model)
            Image.new("RGB", (64 + i, 64), colour).save(folder / f"{i}.png", pnginfo=told)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    return {model: tmp_path / "images of" / model for model in COLOURS}, prompts
