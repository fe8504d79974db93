import json
import os
import re
import signal

import pytest
import torch
import yaml

from ddmd.errors import InputError
from ddmd.run.finish import finish
from ddmd.run.recipe import load_recipe
from ddmd.run.train import Interrupted, NonFiniteLoss, Training
from ddmd.teachers.prompts import to_device

SMALL = [
    "train.batch=2", "train.evaluate_prompts=4", "train.log_every=1", "train.evaluate_every=4", "train.checkpoint_every=2",
    "report.prompts=4", "report.teacher_steps=2", "train.prompt_count=20",
]  # fmt: skip


class Silent:
    def __init__(self, on_cycle=None):
        self.lines, self.on_cycle = [], on_cycle

    def start(self, total, position):
        self.began = position

    def cycle(self, position, metrics):
        if self.on_cycle:
            self.on_cycle(position)

    def count(self, what, done, total):
        assert 0 < done <= total

    def say(self, text):
        self.lines.append(text)


def recipe(untrained, cycles=4, *more, name="shapes"):
    return load_recipe(name, [f"model={untrained}", f"train.cycles={cycles}", *SMALL, *more])


def weights(training):
    return {f"{role}.{k}": v.clone() for role in ("student", "fake") for k, v in training.parts.roles.state_dict(role).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_without_warm_up_the_average_keeps_the_teachers_share(untrained, tmp_path):
    seen = []
    keys = ("optim.ema=0.5", "optim.ema_warmup=false", "train.evaluate_every=2")
    training = Training(recipe(untrained, 2, *keys), tmp_path / "run", Silent(lambda position: seen.append(student())))

    def student():
        return {name: p.detach().clone() for name, p in training.parts.roles.named_parameters("student").items()}

    seen.append(student())
    training.run()
    for name, value in training.average.items():
        torch.testing.assert_close(value, 0.25 * seen[0][name] + 0.25 * seen[1][name] + 0.5 * seen[2][name], msg=name)
    assert any(not torch.equal(seen[0][name], seen[2][name]) for name in seen[0])


@pytest.mark.parametrize(
    ("number", "more"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGINT, ("adapters.rank=2",)),
        (signal.SIGUSR1, ("fake.turn=alternate", "fake.updates=2", "fake.reuse_rollout=true")),
        (signal.SIGHUP, ("fake.turn=ahead", "fake.updates=2")),
        (signal.SIGTERM, ("objective.gan.where=teacher_init",)),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(untrained, tmp_path, number, more):
    straight = Training(recipe(untrained, 4, *more), tmp_path / "straight", Silent())
    straight.run()

    def interrupt(position):
        if position == 2:
            os.kill(os.getpid(), number)

    halved = Training(recipe(untrained, 4, *more), tmp_path / "halved", Silent(interrupt))
    with pytest.raises(Interrupted):
        halved.run()
    assert halved.cycle == 2
    resumed = Training(recipe(untrained, 4, *more), tmp_path / "halved", Silent(), resume=True)
    assert resumed.cycle == 2
    resumed.run()
    assert same(weights(resumed), weights(straight))
    assert same(resumed.average, straight.average)
    rows = [[json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in ("straight", "halved")]
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        assert all(a[k] == b[k] for k in a if k != "seconds")
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.parametrize(
    ("turn", "reuse", "order", "shared"),
    [
        ("joint", False, "gff", (True, False)),
        ("joint", True, "gff", (True, True)),
        ("alternate", False, "gff", (False, False)),
        ("alternate", True, "gff", (False, True)),
        ("ahead", False, "ffg", (False, False)),
        ("ahead", True, "ffg", (True, False)),
    ],
)
def test_the_order_of_a_cycle(untrained, tmp_path, turn, reuse, order, shared):
    """Which update comes when, and which follow each other on one student output; ahead, all of a cycle are at one exit step, and over a
    run every step is met."""
    training = Training(
        recipe(untrained, 1, f"fake.turn={turn}", f"fake.reuse_rollout={reuse}", "fake.updates=2"), tmp_path / "run", Silent()
    )
    distiller, done = training.parts.distiller, []

    def told(name, update):
        def call(*args, **keys):
            result = update(*args, **keys)
            done.append((name, result.sample))
            return result

        return call

    distiller.generator_update = told("g", distiller.generator_update)
    distiller.fake_update = told("f", distiller.fake_update)
    met = []
    for _ in range(12):
        done.clear()
        training._one_cycle()
        assert "".join(name for name, _ in done) == order
        levels = {sample.u_gen[0].item() for _, sample in done}
        met.append(levels)
        assert turn != "ahead" or len(levels) == 1
        first, second, third = (sample.x for _, sample in done)
        assert (torch.equal(first, second), torch.equal(second, third)) == shared
    assert set.union(*met) == set(training.recipe.grid)
    assert turn == "ahead" or all(shared) or max(map(len, met)) > 1


def test_a_run_leaves_everything_it_promises(untrained, tmp_path):
    training = Training(recipe(untrained, 4, "report.student_steps=[1]"), tmp_path / "run", Silent())
    training.run()
    results = finish(training, lambda *a: None)
    folder = tmp_path / "run"
    for name in ("recipe.yaml", "metrics.jsonl", "results.json", "report.html", "student/model_index.json", "student/ddmd.json"):
        assert (folder / name).is_file(), name
    assert load_recipe(str(folder / "recipe.yaml")) == training.recipe
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["cycle-000000.png", "cycle-000004.png"]
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best-000000", "step-000002", "step-000004"}
    assert any((folder / "tensorboard").iterdir())
    assert set(results["scores"]) == {"teacher", "teacher-no-cfg", "teacher-few-step", "student", "student-1"}
    for row in results["scores"].values():
        assert {
            "steps",
            "guidance",
            "overall",
            "entity",
            "attribute",
            "relation",
            "global",
            "frechet",
            "seconds_per_image",
            "images",
        } <= row.keys()
        assert row["images"] == 4
    assert results == json.loads((folder / "results.json").read_text())
    page = (folder / "report.html").read_text()
    assert not re.search(r"(src|href)=.?https?:", page)  # self-contained
    assert page.count("data:image/png;base64,") == 2
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = {
        "fake_loss",
        "dm",
        "ca",
        "dm_over_ca",
        "cosine",
        "fake_gap",
        "x_mean",
        "x_std",
        "x_saturation",
        "generator_grad_norm",
        "fake_grad_norm",
        "nonfinite",
    }
    assert any(wanted <= row.keys() for row in metrics)


def test_the_student_moves_and_the_teacher_does_not(untrained, tmp_path):
    training = Training(recipe(untrained, 2), tmp_path / "run", Silent())
    before = {k: v.clone() for k, v in training.parts.roles.state_dict("student").items()}
    teacher = [p.clone() for p in training.parts.roles.network("teacher").parameters()]
    training.run()
    after = training.parts.roles.state_dict("student")
    assert not same(before, after)
    assert all(torch.equal(a, b) for a, b in zip(teacher, training.parts.roles.network("teacher").parameters(), strict=True))


@pytest.mark.parametrize("asked", [False, True])
def test_a_run_chooses_its_attention_once_and_says_so(untrained, tmp_path, monkeypatch, asked):
    monkeypatch.setattr("ddmd.run.train.choose_attention", lambda *choice: f"chosen {choice}")
    training = Training(recipe(untrained, 1, f"optim.cudnn_attention={asked}"), tmp_path / "run", Silent())
    assert training.observer.lines.count(f"chosen {(torch.device('cpu'), asked)}") == 1


def test_a_broken_loss_stops_with_the_last_checkpoint_intact(untrained, tmp_path):
    training = Training(recipe(untrained, 9), tmp_path / "run", Silent())

    def poison(position):
        if position == 3:
            with torch.no_grad():
                next(iter(training.parts.roles.parameters("student"))).fill_(float("nan"))

    training.observer = Silent(poison)
    with pytest.raises(NonFiniteLoss, match="cycle 4"):
        training.run()
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))] == ["step-000002"]
    assert "step-000002 is intact" in training.last_checkpoint()
    file = tmp_path / "run" / "checkpoints" / "step-000002" / "student.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert training.last_checkpoint() == "No checkpoint was saved before"
    file.write_bytes(whole)
    resumed = Training(recipe(untrained, 9), tmp_path / "run", Silent(), resume=True)
    assert resumed.cycle == 2
    assert all(torch.isfinite(v).all() for v in weights(resumed).values())
    resumed._saved = None
    next(iter(resumed.average.values())).fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"average: .* is not finite"):
        resumed._save({"nonfinite": torch.zeros(())})


def test_a_finished_run_is_lengthened_from_its_last_whole_checkpoint(untrained, tmp_path):
    folder = tmp_path / "run"
    Training(recipe(untrained, 4), folder, Silent()).run()
    damaged = folder / "checkpoints" / "step-000004" / "fake.safetensors"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 64
    damaged.write_bytes(data)
    (folder / "checkpoints" / ".step-000006.0123abcd.tmp").mkdir()  # a killed process left them
    (folder / ".recipe.yaml.0123abcd.tmp").write_text("")
    for path in (folder / "checkpoints" / ".step-000006.0123abcd.tmp", folder / ".recipe.yaml.0123abcd.tmp"):
        os.utime(path, (0, 0))
    with open(folder / "metrics.jsonl", "a") as log:
        log.write("rubbish\n")
    observer = Silent()
    resumed = Training(recipe(untrained, 5, "train.log_every=2", "train.keep_checkpoints=5"), folder, observer, resume=True)
    assert resumed.cycle == 2
    assert any("fake.safetensors is damaged" in line and "step-000002" in line for line in observer.lines)
    resumed.run()
    assert resumed.cycle == 5
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert {"step-000002", "step-000004", "step-000005", "damaged-step-000004"} <= names
    assert not list(folder.rglob(".*.tmp"))
    assert load_recipe(str(folder / "recipe.yaml")).train.cycles == 5
    with pytest.raises(InputError, match="another process"):
        in_another_process(folder)


def in_another_process(folder):
    """What a second process would meet."""
    from ddmd import folders

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "_held", {})
        folders.lock_folder(folder)


def test_an_update_without_a_finite_value_stops_the_run(untrained, tmp_path, monkeypatch):
    training = Training(recipe(untrained, 9), tmp_path / "run", Silent())
    teacher = training.parts.roles.teacher
    monkeypatch.setattr(training.parts.roles, "teacher", lambda *call: teacher(*call) * float("nan"))
    with pytest.raises(NonFiniteLoss, match="no value of an update's direction was finite, at cycle 1"):
        training.run()
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_a_share_of_values_that_are_not_finite_is_an_alarm(untrained, tmp_path, monkeypatch):
    training = Training(recipe(untrained, 3, "train.log_every=3"), tmp_path / "run", Silent())
    teacher, calls = training.parts.roles.teacher, []

    def once(z, u, cond):
        output = teacher(z, u, cond)
        calls.append(len(output))
        if len(calls) == 2:
            output[0] = float("inf")
        return output

    monkeypatch.setattr(training.parts.roles, "teacher", once)
    training.run()
    assert [alarm for alarm in training.alarms if "not finite" in alarm]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < next(row["nonfinite"] for row in rows if "nonfinite" in row) < 1  # seen at cycle 2, logged at 3


@pytest.mark.parametrize(
    "name",
    [
        "shapes_ca_only",
        "shapes_ca_mean_variance",
        "shapes_dm_only",
        "shapes_one_step",
        "shapes_diff_instruct",
        "shapes_coupled",
        "shapes_dmd2",
        "shapes_ca_gan",
    ],
)
def test_presets_run(untrained, tmp_path, name):
    training = Training(recipe(untrained, 2, name=name), tmp_path / "run", Silent())
    training.run()
    assert training.cycle == 2
    assert ("fake" in training.parts.optimizers) == (training.recipe.objective.dm_weight > 0)


def test_noised_data_and_teacher_calibration(untrained, tmp_path):
    more = ("student.source=data", "objective.mean_variance.targets=teacher")
    training = Training(recipe(untrained, 1, *more), tmp_path / "run", Silent())
    training.run()
    assert training.parts.distiller.objective.mean_variance.variance > 0


def test_stop_on_alarm(untrained, tmp_path):
    training = Training(recipe(untrained, 9, "train.stop_on_alarm=true"), tmp_path / "run", Silent())
    training.health.reference_std = 1e-3
    training.run()
    assert training.cycle == 1
    assert any("spread" in alarm for alarm in training.alarms)


def test_learning_rates_warm_up_and_decay(untrained, tmp_path):
    training = Training(recipe(untrained, 10, "optim.warmup=4", "optim.decay=0.5"), tmp_path / "run", Silent())
    found = []
    for training.cycle in range(10):
        training._set_learning_rates()
        found.append(training.parts.distiller.student_optimizer.param_groups[0]["lr"] / training.recipe.optim.student_lr)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_folders_that_cannot_be_used_are_refused(untrained, tmp_path):
    folder = tmp_path / "run"
    Training(recipe(untrained, 2), folder, Silent()).run()
    with pytest.raises(InputError, match="another run"):
        Training(recipe(untrained, 2), folder, Silent())
    with pytest.raises(InputError, match=r"objective\.alpha=3\.5 where the run has 4\.0"):
        Training(recipe(untrained, 2, "objective.alpha=3.5"), folder, Silent(), resume=True)
    with pytest.raises(InputError, match="no run"):
        Training(recipe(untrained, 2), tmp_path / "empty", Silent(), resume=True)
    damaged = folder / "checkpoints" / "step-000002" / "student.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"student\.safetensors.*damaged or missing"):
        Training(recipe(untrained, 2), folder, Silent(), resume=True)
    damaged.unlink()
    with pytest.raises(InputError, match=r"step-000002/student\.safetensors.*damaged or missing"):
        Training(recipe(untrained, 2), folder, Silent(), resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        Training(recipe(untrained, 2), tmp_path / "other", Silent())


def test_a_checkpoint_of_another_network_is_refused(untrained, tmp_path):
    folder = tmp_path / "run"
    Training(recipe(untrained, 2, "adapters.rank=2"), folder, Silent()).run()
    other = recipe(untrained, 2, "adapters.rank=3")
    (folder / "recipe.yaml").write_text(other.to_yaml())
    with pytest.raises(InputError, match="another network"):
        Training(other, folder, Silent(), resume=True)


def test_prompts_from_a_file(untrained, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\n  a blue star  \n")
    training = Training(recipe(untrained, 1, f"train.prompts={prompts}", "suite=null"), tmp_path / "run", Silent())
    training.run()
    assert training.parts.prompts.prompts == ["a red circle", "a blue star"]
    assert finish(training, lambda *a: None)["scores"] == {}
    prompts.write_text("a red circle\na blue square\n")
    with pytest.raises(InputError, match=r"train\.prompts.*other prompts"):
        Training(recipe(untrained, 1, f"train.prompts={prompts}", "suite=null"), tmp_path / "run", Silent(), resume=True)
    for content, words in ((b"\n \n", "no prompts"), (b"caf\xe9", "UTF-8")):
        prompts.write_bytes(content)
        with pytest.raises(InputError, match=words):
            Training(recipe(untrained, 1, f"train.prompts={prompts}"), tmp_path / words, Silent())


def test_a_lora_student_is_exported_merged(untrained, tmp_path):
    from ddmd.run.export import student_network

    training = Training(recipe(untrained, 2, "adapters.rank=2", "optim.student_lr=0.01"), tmp_path / "run", Silent())
    training.run()
    roles, denoiser = training.parts.roles, training.parts.denoiser
    merged = student_network(roles, denoiser)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    device = training.accelerator.device
    cond = to_device(denoiser.encode(["a red circle"]), device)
    z, u = torch.randn(1, *denoiser.shape, device=device), torch.tensor([0.7], dtype=torch.float64, device=device)
    with torch.no_grad():
        torch.testing.assert_close(denoiser.call(merged, z, u, cond), roles.student(z, u, cond), atol=1e-5, rtol=1e-4)
        assert (roles.student(z, u, cond) - roles.teacher(z, u, cond)).abs().max() > 1e-4


def test_the_saved_recipe_is_plain_yaml(untrained, tmp_path):
    Training(recipe(untrained, 1), tmp_path / "run", Silent())
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["objective"]["alpha"] == load_recipe("shapes").objective.alpha
