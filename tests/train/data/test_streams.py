import dataclasses
import io
import tarfile
from itertools import product

import pytest
import torch
from PIL import Image

from train.data import create_train_loader, create_val_loader

IMAGES, SHARDS = 24, 4
BRIGHTNESS = 10  # of image number n: 10 * n, so that a yielded image tells its number


@pytest.fixture
def shards(tmp_path):
    """`train-{0000..0003}.tar`: 24 grey PNG images with the labels 0 to 2."""
    pytest.importorskip("webdataset")

    def write(damaged=()):
        for shard in range(SHARDS):
            with tarfile.open(tmp_path / f"train-{shard:04d}.tar", "w") as archive:
                for number in range(shard, IMAGES, SHARDS):
                    content = io.BytesIO()
                    Image.new("RGB", (8, 8), (BRIGHTNESS * number,) * 3).save(content, "PNG")
                    _add(
                        archive, f"{number:03d}.png", content.getvalue()[: 30 if number in damaged else None]
                    )
                    _add(archive, f"{number:03d}.cls", str(number % 3).encode())
        return tmp_path

    return write


def _add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def stream_recipe(small_recipe):
    def make(folder, **settings):
        split = f"train-{{0000..{SHARDS - 1:04d}}}.tar|{IMAGES}"
        fixed = {"data_dir": f"wds/{folder}", "train_split": split, "val_split": split, "img_size": 8}
        return small_recipe(**{**fixed, "mean": [0.0] * 3, "std": [1 / 255] * 3, **settings})

    return make


def numbers(loader, epoch=1, first_batch=0):
    loader.set_epoch(epoch, first_batch)
    return [[round(image.mean().item() / BRIGHTNESS) for image in images] for images, _ in loader]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_epoch_has_every_image_once_and_goes_on_at_any_batch(workers, shards, stream_recipe):
    recipe = stream_recipe(shards(), workers=workers)
    loader = create_train_loader(recipe)
    epoch = numbers(loader)
    assert len(epoch) == len(loader) == 6 and {len(batch) for batch in epoch} == {4}
    assert sorted(number for batch in epoch for number in batch) == list(range(IMAGES))
    assert numbers(loader, epoch=2) != epoch
    for first_batch in range(6):
        assert numbers(loader, first_batch=first_batch) == epoch[first_batch:]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_images(workers, shards, stream_recipe):
    recipe = stream_recipe(shards(), workers=workers, batch_size=2)
    ranks = [numbers(create_train_loader(recipe, rank, 2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert sorted(number for rank in ranks for batch in rank for number in batch) == list(range(IMAGES))


def test_epoch_goes_on_behind_a_damaged_image_with_the_same_augmentation(shards, stream_recipe):
    settings = {"random_erasing": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}
    loader = create_train_loader(stream_recipe(shards(damaged=range(0, IMAGES, 5)), **settings))
    for epoch, first_batch in product(range(4), range(len(loader))):
        loader.set_epoch(epoch)
        whole = [images for images, _ in loader]
        loader.set_epoch(epoch, first_batch)
        rest = [images for images, _ in loader]
        assert all(torch.equal(*pair) for pair in zip(rest[:-1], whole[first_batch:-1], strict=True))


def test_augmentation_belongs_to_the_image_not_to_its_place(shards, stream_recipe):
    seen = []
    for workers in (0, 2):
        settings = {"workers": workers, "random_erasing": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3}
        loader = create_train_loader(stream_recipe(shards(), **settings))
        loader.set_epoch(1)
        seen.append(sorted((image.tolist() for images, _ in loader for image in images)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_next_image_stands_in_for_a_damaged_one(workers, shards, stream_recipe, caplog):
    loader = create_train_loader(stream_recipe(shards(damaged=[5]), workers=workers, max_damaged=1))
    epoch = numbers(loader)
    assert {len(batch) for batch in epoch} == {4} and len(epoch) == len(loader)
    assert {number for batch in epoch for number in batch} == set(range(IMAGES)) - {5}
    assert "train-0001.tar:005 cannot be decoded" in caplog.text
    for first_batch in range(6):
        assert numbers(loader, first_batch=first_batch) == epoch[first_batch:]


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (2, 1), (2, 3)])
def test_validation_has_each_image_once_over_all_ranks(workers, world_size, shards, stream_recipe):
    recipe = stream_recipe(shards(damaged=[7]), workers=workers, max_damaged=1)
    loaders = [create_val_loader(recipe, rank, world_size) for rank in range(world_size)]
    found = [images.mean((1, 2, 3)) / BRIGHTNESS for loader in loaders for images, _ in loader]
    assert sorted(torch.cat(found).round().int().tolist()) == [n for n in range(IMAGES) if n != 7]


def test_stream_with_too_few_shards_is_refused(shards, stream_recipe):
    with pytest.raises(ValueError, match="has 4 shards, expected at least 6"):
        create_train_loader(stream_recipe(shards(), workers=3), rank=0, world_size=2)


def test_label_beyond_the_classes_is_refused(shards, stream_recipe):
    with pytest.raises(ValueError, match="has label 2, expected at most 1"):
        numbers(create_train_loader(stream_recipe(shards(), num_classes=2)))


def test_rows_of_the_hub_stream_the_same(image_folder, small_recipe, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted((image_folder / "train").glob("*/*.png"))
    columns = {"image": [str(file) for file in files], "label": [n % 3 for n in range(len(files))]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"]))
    (tmp_path / "rows").mkdir()
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "rows" / "train.parquet")
    recipe = small_recipe(data_dir=f"hfids/{tmp_path / 'rows'}", batch_size=3, stream_images=9)
    runs = []
    for workers in (0, 1):
        loader = create_train_loader(dataclasses.replace(recipe, workers=workers))
        loader.set_epoch(1)
        runs.append(sorted(image.sum().item() for images, _ in loader for image in images))
    assert runs[0] == runs[1] and len(set(runs[0])) == 9
