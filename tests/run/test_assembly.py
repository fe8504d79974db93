import pytest
import torch

from ddmd.errors import InputError
from ddmd.method.noise import DiffusionPath, FlowPath
from ddmd.run.assembly import check_levels
from ddmd.run.recipe import load_recipe

TABLE = DiffusionPath(torch.linspace(0.999, 0.01, 1000, dtype=torch.float64))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("renoise.clamp=[0.5001, 0.5009]", "renoise.clamp"),
        ("renoise.ca_window=[0.9799, 1.0]", "renoise.ca_window"),  # what the clamp leaves of it
        ("renoise.dm_window=[0.5001, 0.5009]", "renoise.dm_window"),
        ("fake.range=[0.9995, 1.0]", "fake.range"),
        ("objective.gan.levels=[0.5001, 0.5009]", "objective.gan.levels"),
        ("student.grid=[1.0, 0.5004, 0.5002]", "student.grid"),
        ("student.grid=[1.0, 0.9995, 0.0004]", "student.grid"),  # the last is the clean image
    ],
)
def test_levels_that_a_noise_table_does_not_have_are_refused(override, key):
    recipe = load_recipe("shapes", ["objective.gan.where=fake", "renoise.clamp=[0.02, 0.97995]", override])
    check_levels(recipe, FlowPath())
    with pytest.raises(InputError) as error:
        check_levels(recipe, TABLE)
    assert error.value.key == key and "noise table" in str(error.value)


@pytest.mark.parametrize("name", ["shapes", "sdxl_dmd2", "sdxl_ddmd", "sd15_ddmd", "shapes_one_step"])
def test_the_presets_have_their_levels(name):
    given = ["train.prompts=prompts.txt"] if name.startswith("sd") else []
    check_levels(load_recipe(name, given), TABLE)
