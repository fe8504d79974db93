import pytest
import torch

from ddmd.teachers.prompts import rows_at


def dealt(positions, total, batch, seed=0, ranks=1, purpose="prompts"):
    """Every row handed out over some positions, in the order of the endless sequence."""
    return [
        row
        for position in range(positions)
        for rank in range(ranks)
        for row in rows_at(position, total, batch, seed, rank, ranks, purpose).tolist()
    ]


@pytest.mark.parametrize(("total", "batch", "ranks"), [(12, 4, 1), (24, 3, 2), (10, 4, 1), (7, 32, 3)])
def test_each_epoch_meets_each_row_once_over_all_ranks(total, batch, ranks):
    rows = dealt(20 * total // (batch * ranks) + 2, total, batch, ranks=ranks)
    epochs = [rows[start : start + total] for start in range(0, len(rows) - total + 1, total)]
    assert len(epochs) > 2
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # every epoch is a new shuffle


def test_ranks_seeds_purposes_and_positions_differ():
    asked = [(0, 0, "prompts"), (0, 1, "prompts"), (1, 0, "prompts"), (2**40, 0, "prompts"), (0, 0, "real images")]
    drawn = [rows_at(0, 4000, 6, seed, rank, 2, purpose) for seed, rank, purpose in asked]
    drawn.append(rows_at(1, 4000, 6, 0, 0, 2))
    assert len({tuple(rows.tolist()) for rows in drawn}) == len(drawn)


def test_a_batch_is_a_function_of_its_place():
    late = rows_at(1000, 50, 8, 3)
    rows_at(0, 50, 8, 3)
    assert torch.equal(rows_at(1000, 50, 8, 3), late)
