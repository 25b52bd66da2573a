"""Labelled images behind timm's readers, opened by index."""

from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from timm.data import create_dataset
from timm.data.readers.reader import Reader
from torch.utils.data import Dataset

STREAMS = ("hfids/", "wds/")


class DamagedImageError(OSError):
    """An image, or the mask of an object in it, that cannot be decoded; the message names it."""


def describe_damage(name: str, error: Exception) -> str:
    """What is wrong with an image, in the same words every time that it is opened."""
    # Pillow's own words have the address of a buffer in them.
    reason = "it is in no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
    return f"image {name} cannot be decoded: {reason}"


class ImageSource(Dataset):
    """RGB images and labels by index. timm's own dataset replaces a damaged image by its neighbour unseen."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """One image and its label (-1 if it has none); raises DamagedImageError."""
        image, target = self.open(index)
        try:
            return image.convert("RGB"), target
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
            raise self._damaged(index, error) from error

    def open(self, index: int) -> tuple[Image.Image, int]:
        """One image, of which only the header is read, and its label; raises DamagedImageError."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        try:
            file, target, *_ = self.reader[index]
            return Image.open(file), -1 if target is None else target
        except Exception as error:
            raise self._damaged(index, error) from error

    def _damaged(self, index: int, error: Exception) -> DamagedImageError:
        name = self.reader.filename(index) or "without a file name"
        return DamagedImageError(describe_damage(f"{index} ({name})", error))

    def labels(self) -> list[int]:
        """The label of every image, -1 for none; no image is decoded."""
        if hasattr(self.reader, "iter_targets"):
            labels = self.reader.iter_targets()
        else:
            labels = (self.reader[index][1] for index in range(len(self)))
        return [-1 if label is None else label for label in labels]

    @property
    def classes(self) -> dict[str, int]:
        """Label of every class name, empty where the source has no names."""
        names = "class_name_to_idx" if hasattr(self.reader, "class_name_to_idx") else "class_to_idx"
        return getattr(self.reader, names, None) or {}


def is_stream(data_dir: str) -> bool:
    """Whether timm reads this source from front to back only."""
    return data_dir.startswith(STREAMS)


def open_dataset(data_dir: str, split: str) -> ImageSource:
    """Open a folder of class folders, a tar file, a folder of parquet files, or `hfds/NAME` of the Hub.

    A folder may hold the split as `SPLIT.tar` too.

    Raises ValueError for anything else, for streams, and for a class folder without images.
    """
    path = Path(data_dir)
    if (path / f"{split}.tar").is_file():
        data_dir = str(path / f"{split}.tar")
    elif any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        data_dir = f"hfds/{path.resolve()}"
    elif not path.exists() and not data_dir.startswith("hfds/"):
        raise ValueError(
            f"data source {data_dir!r} does not exist, expected a folder, a tar file or hfds/NAME"
        )
    name, root = (data_dir, None) if data_dir.startswith("hfds/") else ("", data_dir)
    reader = _create_reader(name, root, split)
    _check_class_folders(reader)
    return ImageSource(reader)


def _create_reader(name: str, root: str | None, split: str) -> Reader:
    try:
        return create_dataset(name, root=root, split=split).reader
    except RuntimeError as error:  # timm's for a folder without images
        raise ValueError(f"data source {root or name!r} cannot be read: {error}") from error


def _check_class_folders(reader: Any) -> None:
    """timm numbers the folders that hold images, so that an empty one would shift the labels behind it."""
    root = Path(getattr(reader, "root", None) or "")
    if not root.is_dir() or not hasattr(reader, "class_to_idx") or hasattr(reader, "dataset"):
        return
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        nested = any(entry.is_dir() for entry in folder.iterdir())
        if folder.name not in reader.class_to_idx and not nested:
            raise ValueError(f"class folder {str(folder)!r} has no images, expected at least one in each")


def check_labels(source: ImageSource, num_classes: int, description: str) -> None:
    """Raise ValueError if a label is none of the model's classes."""
    highest = max(source.classes.values(), default=-1)
    if not source.classes:
        highest = max(source.labels(), default=-1)
    if highest >= num_classes:
        raise ValueError(
            f"{description} has labels up to {highest}, expected at most {num_classes - 1} as num_classes is "
            f"{num_classes}"
        )


def check_same_classes(training: ImageSource, validation: ImageSource) -> None:
    """Raise ValueError if a class has another label in validation than in training."""
    different = [
        name for name, label in validation.classes.items() if training.classes.get(name, label) != label
    ]
    missing = sorted(training.classes.keys() - validation.classes.keys())
    if different:
        raise ValueError(
            f"class {different[0]!r} has label {validation.classes[different[0]]} in validation and "
            f"{training.classes[different[0]]} in training, expected the same: validation lacks {missing}"
        )
