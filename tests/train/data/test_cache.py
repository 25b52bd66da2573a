import numpy as np
import pytest

from train.data import create_train_loader, open_dataset
from train.data.cache import MemoryCache
from train.data.sources import DamagedImageError


def test_cached_images_are_the_same(image_folder, capsys):
    source = open_dataset(str(image_folder), "train")
    cache = MemoryCache(source, limit_bytes=1e6)
    for (image, target), (cached, cached_target) in zip(source, (cache[i] for i in range(9)), strict=True):
        assert np.array_equal(image, cached) and target == cached_target
    assert cache.pixels.is_shared() and cache.pixels.nbytes == 9 * 3 * 32 * 32
    assert "caching 9 images in 0.00 GB" in capsys.readouterr().err


def test_training_from_memory_is_training_from_disk(small_recipe):
    from_disk, cached = (
        create_train_loader(small_recipe()),
        create_train_loader(small_recipe(cache="memory", workers=1)),
    )
    for (images, targets), (cached_images, cached_targets) in zip(from_disk, cached, strict=True):
        assert images.equal(cached_images) and targets.equal(cached_targets)


def test_cache_beyond_its_limit_is_refused(image_folder):
    with pytest.raises(ValueError, match="the first 3 of 9 images take .* cache_limit_gb=7e-06"):
        MemoryCache(open_dataset(str(image_folder), "train"), limit_bytes=7000)


def test_larger_images_are_reduced(image_folder):
    cache = MemoryCache(open_dataset(str(image_folder), "train"), limit_bytes=1e6, shorter_side=16)
    assert cache[0][0].size == (16, 16) and cache.pixels.nbytes == 9 * 3 * 16 * 16


@pytest.mark.parametrize("length", [5, 500])
def test_damaged_image_stays_damaged(length, image_folder):
    file = image_folder / "train" / "dog" / "4.png"
    file.write_bytes(file.read_bytes()[:length])
    cache = MemoryCache(open_dataset(str(image_folder), "train"), limit_bytes=1e6)
    with pytest.raises(DamagedImageError, match="4.png"):
        for index in range(len(cache)):
            cache[index]
