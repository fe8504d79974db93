import torch

from ddmd.method.rng import sampling_seed, seeded, stream, stream_seed


def test_no_two_streams_share_their_numbers():
    places = [
        (seed, purpose, rank, position)
        for seed in (-1, 0, 1, 123, 2**32, 2**32 + 1, 2**64, 10**30)
        for purpose in ("noise", "prompts")
        for rank in range(4)
        for position in range(4)
    ]
    seeds = {stream_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert max(seeds) < 2**32  # torch's CPU generator drops what lies above
    first = {tuple(torch.rand(2, generator=stream(*place)).tolist()) for place in places}
    assert len(first) == len(places)


def test_a_stream_is_a_function_of_its_name():
    draws = [torch.randn(3, generator=stream(7, "noise", 1)) for _ in range(2)]
    assert torch.equal(*draws)


def test_small_sampling_seeds_are_torchs_own():
    assert [sampling_seed(s) for s in (0, 5, 2**32 - 1)] == [0, 5, 2**32 - 1]
    assert all(0 <= sampling_seed(s) < 2**32 for s in (-1, 2**32, 2**64, 10**30))
    assert sampling_seed(2**32 + 5) != 5


def test_first_weights_do_not_depend_on_what_was_drawn_before():
    drawn = []
    for other in (0, 1):
        torch.manual_seed(other)
        before = torch.random.get_rng_state()
        with seeded(7, "adapters"):
            drawn.append(torch.nn.Linear(3, 3).weight)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*drawn)
    with seeded(8, "adapters"):
        assert not torch.equal(torch.nn.Linear(3, 3).weight, drawn[0])
