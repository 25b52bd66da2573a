import random

import numpy as np
import torch

from train.data.seeding import derive_seed, seeded


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_draws_depend_on_the_numbers_only():
    with seeded(1, 2):
        first = draw()
    draw()
    with seeded(1, 2):
        assert draw() == first
    with seeded(2, 1):
        assert not set(draw()) & set(first)


def test_generators_go_on_as_if_nothing_had_happened():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [draw(), draw()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    found = [draw()]
    with seeded(5):
        draw()
    found.append(draw())
    assert found == expected


def test_neighbours_have_different_seeds():
    seeds = {derive_seed(42, epoch, image) for epoch in range(20) for image in range(500)}
    assert len(seeds) == 10_000
