"""Two processes, by torchrun, on the CPU: networks whole in each and divided by FSDP2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from ddmd import cli
from tiny import save_twin

HERE = Path(__file__).parent
FAMILIES = (
    "sd15_ddmd_lora:sd15", "sdxl_dmd2:sdxl-kl", "sdxl_ddmd_lora:sdxl-kl", "sd3_ddmd:sd3", "lumina2_ddmd:lumina2", "zimage_ddmd_8step_lora:z_image",
    "flux_ddmd_lora:flux", "sd3_ddmd_lora:pixart", "sd3_ddmd:sana", "sd3_ddmd_lora:qwen_image", "sd3_ddmd:chroma",
)  # fmt: skip
GAN = ["objective.gan.reals=data", "objective.mean_variance.targets=[0.1,0.5]"]
CASES = {
    "copies, judged by the fake": ["shapes_dmd2", *GAN],
    "copies, judged by a discriminator": ["shapes", "objective.gan.where=teacher_init", *GAN],
    "adapters, judged by the fake": ["shapes_lora", "objective.gan.where=fake", *GAN],
    "adapters, judged by a discriminator": ["shapes_lora", "objective.gan.where=teacher_init", *GAN],
}
SMALL = [
    "train.batch=2", "train.prompt_count=8", "train.evaluate_prompts=2", "train.evaluate_every=2", "train.reals_count=4",
    "report.prompts=2", "report.teacher_steps=2", "train.keep_checkpoints=2", "train.checkpoint_every=1", "train.cycles=2",
]  # fmt: skip


def torchrun(*words):
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def said(untrained, tmp_path_factory):
    """What both processes of sharded_worker.py found."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "prompts.txt").write_text("a red circle\na small blue star at the left on a gray background\n")
    for name in {asked.split(":")[1] for asked in FAMILIES}:
        save_twin(name, folder / name)
    common = [f"model={untrained}", *SMALL, "student.steps=2", "optim.gradient_accumulation=2", "optim.clip=1e6", "adapters.rank=2"]
    cases = {name: [*words, *(common if "adapters" in name else common[:-1])] for name, words in CASES.items()}
    (folder / "request.json").write_text(json.dumps({"families": FAMILIES, "gradients": cases}))
    torchrun(HERE / "sharded_worker.py", folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_every_family_learns_the_same_in_halves(said):
    """Copies and adapters, with a GAN and without, in bf16: the same losses and gradient norms whole and by FSDP2."""
    for found in said:
        for asked, (whole, halves) in found["families"].items():
            assert whole.pop("held") == 1 and 0.4 < halves.pop("held") < 0.62, asked  # a tensor of odd length is divided unevenly
            assert halves == pytest.approx(whole, rel=2e-3, abs=1e-6), asked


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_mean_of_the_processes_own(said, name):
    """Each role's, in parts of a batch, with every term, before the optimiser's step; and both begin with the same weights."""
    for found in said:
        gaps = found["gradients"][name]
        assert gaps["drawn"] == {"all": 0}
        assert gaps["own"].keys() == gaps["whole"].keys() >= {"student", "fake"}
        assert ("discriminator" in gaps["own"]) == ("discriminator" in name)
        assert min(gaps["own"].values()) > 0.05  # or there would be nothing to see
        assert max(gaps["whole"].values()) < 1e-5
        if "adapters" in name:
            assert gaps["divided"].keys() == gaps["whole"].keys() and max(gaps["divided"].values()) < 1e-5


@pytest.fixture(scope="module")
def runs(untrained, tmp_path_factory):
    """Two cycles with a discriminator of its own, whole and in halves."""
    root = tmp_path_factory.mktemp("runs")
    words = ["-m", "ddmd.cli", "distill", "shapes_ca_gan", f"model={untrained}", *SMALL]
    for name, sharded in (("whole", "false"), ("halves", "true")):
        torchrun(*words, f"optim.sharded={sharded}", "--out", root / name)
    return root, words


def test_a_sharded_run_keeps_whole_checkpoints(runs):
    """The gradients of the first cycle are those of whole networks, in every network and in the head."""
    root, _ = runs
    compared = 0
    for file in sorted((root / "whole" / "checkpoints" / "step-000001").glob("*_optimizer.safetensors")):
        whole, halves = load_file(file), load_file(root / "halves" / file.relative_to(root / "whole"))
        assert whole.keys() == halves.keys()
        moments = [name for name in whole if name.endswith("exp_avg")]
        gap = sum((whole[name] - halves[name]).square().sum() for name in moments) ** 0.5
        assert gap < 1e-5 * sum(whole[name].square().sum() for name in moments) ** 0.5, file.name
        compared += len(moments)
    assert compared > 100
    assert (root / "halves" / "student" / "model_index.json").is_file()
    assert set(json.loads((root / "halves" / "results.json").read_text())["scores"]) >= {"teacher", "student"}


def test_a_sharded_run_resumes_bit_for_bit(runs):
    root, words = runs
    run, last = root / "halves", root / "halves" / "checkpoints" / "step-000002"
    before = {file.name: load_file(file) for file in last.glob("*.safetensors")}
    shutil.rmtree(last)
    torchrun(*words, "optim.sharded=true", "--out", run, "--resume")
    for name, tensors in before.items():
        again = load_file(last / name)
        assert all(again[key].equal(value) for key, value in tensors.items()), name


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "torchrun"),
        (("adapters={rank: 2, base: int8}",), "optim.sharded"),
        (("optim.optimizer=adamw8bit",), "optim.sharded"),
    ],
)
def test_what_cannot_be_sharded_is_said_in_one_line(words, named, untrained, tmp_path):
    command = ["distill", "shapes", f"model={untrained}", *SMALL, "optim.sharded=true", *words, "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code != 0
    assert named in str(result.exception)
