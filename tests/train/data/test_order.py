from itertools import chain

import pytest

from train.data.order import TrainingOrder


def batches(rank=0, world_size=1, batch_size=8, copies=1, epoch=3, first_batch=0, images=50):
    order = TrainingOrder(images, batch_size, seed=7, copies=copies, rank=rank, world_size=world_size)
    order.epoch, order.first_batch = epoch, first_batch
    return list(order)


def test_epoch_has_every_image_at_most_once_in_an_order_of_its_own():
    images = [key.image for key in chain(*batches())]
    assert len(images) == len(set(images)) == 48
    assert images != sorted(images)
    assert images != [key.image for key in chain(*batches(epoch=4))]
    assert images == [key.image for key in chain(*batches())]


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("copies", [1, 3])
def test_ranks_see_together_what_one_rank_sees(world_size, copies):
    parts = [batches(rank, world_size, 8 // world_size, copies) for rank in range(world_size)]
    assert [list(chain(*ranks)) for ranks in zip(*parts, strict=True)] == batches(copies=copies)


def test_epoch_goes_on_at_any_batch():
    assert batches(first_batch=4) == batches()[4:]


def test_repeated_images_are_in_one_batch_and_numbered():
    for batch in batches(copies=3, batch_size=9):
        assert len({key.image for key in batch}) == 3
        assert len(set(batch)) == 9
        assert sorted(key.copy for key in batch) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_repeated_images_reach_different_ranks():
    ranks = [batches(rank, 3, 3, copies=3)[0] for rank in range(3)]
    assert all(len({key.image for key in part}) == 3 for part in ranks)
