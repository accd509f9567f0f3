import torch

from compress.core.random import derived_seed, generator, seeded


def test_every_path_has_its_own_stream():
    seeds = {derived_seed(seed, *path) for seed in (0, 1) for path in ((), ("a",), ("a", 1), ("a", 2), ("b",))}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_repeats():
    first, second = (torch.rand(4, generator=generator(3, "x")) for _ in range(2))
    assert torch.equal(first, second)


def test_seeded_restores_the_global_stream():
    torch.default_generator.manual_seed(1)
    expected = torch.rand(2)
    torch.default_generator.manual_seed(1)
    with seeded(0, "y"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "y"):
        assert torch.equal(torch.rand(2), inside)
