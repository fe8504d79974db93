import pytest
import torch

torch.set_num_threads(1)  # `make test` runs several processes


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What ddmd keeps for its user is not the tests' business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDMD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A narrow twin of the shapes teacher with random weights, as a pipeline folder."""
    from ddmd.quiet import quiet_libraries
    from ddmd.teachers.builtin.shapes.build import build_pipeline

    quiet_libraries()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "pipeline"
    build_pipeline(widths=(8, 16, 16, 16)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def denoiser(untrained):
    from ddmd.teachers.denoisers import load_denoiser

    return load_denoiser(untrained)
