import tarfile

import pytest
from PIL import Image

from train.data import open_dataset
from train.data.sources import check_labels, check_same_classes


def as_tar(folder, tmp_path):
    path = tmp_path / "validation.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder / "validation", arcname=".")
    return path


def as_parquet(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted((folder / "validation").glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    columns = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [names.index(file.parent.name) for file in files],
    }
    path = tmp_path / "parquet"
    path.mkdir()
    datasets.Dataset.from_dict(columns, features).to_parquet(path / "validation-00000-of-00001.parquet")
    return path


def as_folder_of_tars(folder, tmp_path):
    return as_tar(folder, tmp_path).parent


def as_folder(folder, tmp_path):
    return folder


@pytest.fixture(autouse=True)
def private_dataset_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("source", [as_folder, as_tar, as_folder_of_tars, as_parquet])
def test_every_source_gives_the_same_images_and_labels(source, image_folder, tmp_path):
    dataset = open_dataset(str(source(image_folder, tmp_path)), "validation")
    found = sorted((target, image.tobytes()) for image, target in dataset)
    files = sorted((image_folder / "validation").glob("*/*.png"))
    labels = {"cat": 0, "dog": 1, "owl": 2}
    assert found == sorted((labels[file.parent.name], Image.open(file).tobytes()) for file in files)


@pytest.mark.parametrize("source", [as_folder, as_tar, as_parquet])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_image_is_an_error_with_its_name(source, damage, image_folder, tmp_path):
    file = image_folder / "validation" / "dog" / "4.png"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no image")
    dataset = open_dataset(str(source(image_folder, tmp_path)), "validation")
    with pytest.raises(OSError, match=r"4\.png\) cannot be decoded"):
        for index in range(len(dataset)):
            dataset[index]


@pytest.mark.parametrize("source", ["no/such/folder", "hfids/some/name"])
def test_source_that_cannot_be_opened_by_index_is_refused(source):
    with pytest.raises(ValueError, match=f"data source '{source}' does not exist"):
        open_dataset(source, "validation")


def test_empty_class_folder_is_named(image_folder):
    (image_folder / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match="class folder '.*emu' has no images"):
        open_dataset(str(image_folder), "train")


def test_folder_without_any_image_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' cannot be read"):
        open_dataset(str(tmp_path / "empty"), "train")


@pytest.mark.parametrize("source", [as_folder, as_tar, as_parquet])
def test_labels_beyond_the_classes_are_refused(source, image_folder, tmp_path):
    dataset = open_dataset(str(source(image_folder, tmp_path)), "validation")
    check_labels(dataset, 3, "it")
    with pytest.raises(ValueError, match="it has labels up to 2, expected at most 1 as num_classes is 2"):
        check_labels(dataset, 2, "it")


def test_labels_without_names_are_counted(image_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted((image_folder / "train").glob("*/*.png"))
    columns = {"image": [str(file) for file in files], "label": list(range(9))}
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "parquet" / "train.parquet")
    with pytest.raises(ValueError, match="labels up to 8"):
        check_labels(open_dataset(str(tmp_path / "parquet"), "train"), 8, "it")


def test_class_missing_in_validation_must_not_shift_the_labels(image_folder):
    for file in (image_folder / "validation" / "dog").iterdir():
        file.unlink()
    (image_folder / "validation" / "dog").rmdir()
    training, validation = (open_dataset(str(image_folder), split) for split in ("train", "validation"))
    with pytest.raises(ValueError, match="class 'owl' has label 1 in validation and 2 in training.*'dog'"):
        check_same_classes(training, validation)
