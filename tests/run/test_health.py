import torch

from ddmd.run.health import PATIENCE, Health, output_statistics


def test_quiet_while_all_is_well():
    health = Health(0.1, 0.6)
    assert all(health.watch(0.12, 0.62) == [] for _ in range(50))
    for cycle in range(10):
        best, alarms = health.judge(cycle, 0.5 + cycle / 100)
        assert best
        assert alarms == []


def kinds(health, mean, std, cycles=40):
    return [alarm.kind for _ in range(cycles) for alarm in health.watch(mean, std)]


def test_drift_and_spread_raise_one_alarm_each():
    assert kinds(Health(0.1, 0.6), 0.6, 0.6) == ["mean"]
    assert kinds(Health(0.1, 0.6), 0.1, 1.2) == ["std_high"]
    assert kinds(Health(0.1, 0.6), 0.1, 0.2) == ["std_low"]


def test_an_alarm_returns_after_its_cause_has_gone():
    health = Health(0.0, 1.0)
    assert kinds(health, 0.0, 2.0) == ["std_high"]
    assert kinds(health, 0.0, 1.0) == []
    assert kinds(health, 0.0, 2.0) == ["std_high"]


def test_falling_scores_raise_after_patience_and_keep_the_best():
    health = Health(0.0, 1.0)
    health.judge(0, 0.5)
    health.judge(10, 0.9)
    raised = [health.judge(20 + i, 0.8)[1] for i in range(PATIENCE + 1)]
    assert [bool(alarms) for alarms in raised] == [False] * (PATIENCE - 1) + [True, False]
    assert "cycle 10" in raised[PATIENCE - 1][0].message
    assert (health.best, health.best_cycle) == (0.9, 10)
    assert health.judge(99, 0.89) == (False, [])  # within tolerance: noise


def test_pictures_that_run_away_raise_although_the_score_rises():
    health = Health(0.0, 1.0)
    distances = [113, 97, 150, 190, 195, 400, 90, 300]
    raised = [(d, alarm.kind) for cycle, d in enumerate(distances) for alarm in health.measure(10 * cycle, d)]
    assert raised == [(195, "distance"), (300, "distance")]
    assert (health.nearest, health.nearest_cycle) == (90, 60)
    assert health.measure(80, 300) == []


def test_health_survives_saving():
    health = Health(0.0, 1.0)
    health.watch(0.1, 2.0)
    assert Health(**health.state_dict()) == health


def test_output_statistics():
    x = torch.zeros(2, 3, 4, 4)
    x[:, 0] = 1
    stats = output_statistics(x)
    assert stats["x_saturation"] == 1
    assert stats["x_mean"].item() == torch.tensor(1 / 3).item()
