import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from train.data.perturb import PERTURBATIONS, PerturbedImages


class Photographs(torch.utils.data.Dataset):
    """The cat twice, and a wide part of it."""

    classes: dict[str, int] = {}

    def __init__(self):
        cat = Image.fromarray(data.chelsea()).resize((150, 100))
        self.images = [cat, cat, cat.crop((0, 0, 150, 60))]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 7


def difference(one, other):
    return np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_images_are_changed_each_in_its_own_way_and_always_the_same(name):
    photographs, perturbed = Photographs(), PerturbedImages(Photographs(), name)
    for index, (original, _) in enumerate(photographs):
        image, label = perturbed[index]
        assert image.size == original.size and label == 7
        assert difference(image, original) > 5
        torch.manual_seed(index)
        assert difference(perturbed[index][0], image) == 0
    assert difference(perturbed[0][0], perturbed[1][0]) > 5


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_no_border_shows(name):
    """What comes in from outside is as bright as the photograph, not black."""
    image = np.asarray(PerturbedImages(Photographs(), name)[0][0])
    assert (image.max(axis=2) < 5).mean() < 0.01


def test_change_without_name_is_an_error():
    with pytest.raises(ValueError, match="'melted' is unknown, expected one of rotated, scaled"):
        PerturbedImages(Photographs(), "melted")
