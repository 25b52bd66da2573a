"""Sources that are read from front to back: WebDataset shards and streams of the Hugging Face Hub.

timm's readers split shards over ranks and workers and shuffle them; here they hand over encoded images with
their names, so that skipping decodes nothing, damage has a name and augmentation is seeded by (seed, epoch,
name). The order depends on the number of ranks and workers.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import DataLoader, IterableDataset

from train.data.images import Batch, Sample
from train.data.seeding import derive_seed, seeded
from train.data.sources import DamagedImageError, describe_damage
from train.data.workers import create_worker_loader
from train.recipe import Recipe


class EncodedStream:
    """Encoded images of a timm reader: (name, bytes, label) of the shards that are this worker's."""

    def __init__(self, data_dir: str, split: str, training: bool, images: int, batch_size: int, seed: int):
        prefix, _, place = data_dir.partition("/")
        name, root = (f"{prefix}/", place) if prefix == "wds" else (data_dir, None)
        self.is_wds, self.description = prefix == "wds", f"split {split!r} of {data_dir!r}"
        self.reader = create_dataset(
            name,
            root=root,
            split=split,
            is_training=training,
            batch_size=batch_size,
            num_samples=images or None,
            seed=seed,
            input_img_mode="",
        ).reader

    def share(self, rank: int, world_size: int, workers: int) -> None:
        """Split the shards over ranks and workers; raises ValueError where some would have none."""
        self.reader.dist_rank, self.reader.dist_num_replicas = rank, world_size
        self.reader.set_loader_cfg(num_workers=workers)
        shards, readers = self._shards(), world_size * max(1, workers)
        if shards is not None and shards < readers:
            raise ValueError(
                f"{self.description} has {shards} shards, expected at least {readers}: one for each worker "
                "of each process"
            )

    def _shards(self) -> int | None:
        return len(self.reader.split_info.filenames) if self.is_wds else None

    def __len__(self) -> int:
        """Images of this rank in an epoch, rounded up to whole batches of every worker."""
        return len(self.reader)

    def read(self, epoch: int) -> Iterator[tuple[str, bytes, int]]:
        """The images of an epoch, the same however often it is read."""
        self.reader.set_epoch(epoch)
        self.reader._lazy_init()  # again: the shuffle buffer's generator remembers the epoch before
        self.reader.ds = _encoded_samples(self.reader) if self.is_wds else _encoded_rows(self.reader)
        for (name, encoded), target in self.reader:
            yield name, encoded, target


def _encoded_samples(reader: Any) -> Any:
    """timm's WebDataset pipeline without its last two stages, which decode and hide errors."""
    import webdataset

    keys = reader.input_key.split(";")

    def encoded(sample: dict[str, Any]) -> dict[str, Any]:
        image = next(sample[key] for key in keys if key in sample)
        return {"image": (f"{sample['__url__']}:{sample['__key__']}", image), "target": int(sample["cls"])}

    return webdataset.DataPipeline(*reader.ds.pipeline[:-2], webdataset.map(encoded))


def _encoded_rows(reader: Any) -> Any:
    import datasets

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        image = row[reader.input_key]
        content = image["bytes"] or Path(image["path"]).read_bytes()
        name = image["path"] or f"crc {zlib.crc32(content):08x}"
        return {reader.input_key: (name, content), reader.target_key: row[reader.target_key]}

    undecoded = reader.ds.cast_column(reader.input_key, datasets.Image(decode=False))
    return _Mapped(undecoded, encoded)


class _Mapped:
    """Rows through a function, as `IterableDataset.map` would give them without storing tuples as lists."""

    def __init__(self, rows: Any, function: Callable):
        self.rows, self.function = rows, function

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator:
        return map(self.function, self.rows)


class StreamImages(IterableDataset):
    """Transformed images of a stream. In training the next image also stands in for a damaged one."""

    def __init__(self, stream: EncodedStream, transform: Callable, seed: int, training: bool):
        self.stream, self.transform = stream, transform
        self.seed, self.training = seed, training
        self.epoch = 0
        self.first, self.step = 0, 1  # of each worker's images: the first one and the stride

    def __iter__(self) -> Iterator[Sample]:
        damaged: list[str] = []
        last = None
        for name, encoded, target in islice(self.stream.read(self.epoch), self.first, None, self.step):
            try:
                image = Image.open(io.BytesIO(encoded)).convert("RGB")
            except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
                damaged.append(describe_damage(name, error))
                continue
            last = image, name, target
            # Its own appearance comes last, so that it is the same where reading begins behind the damage.
            for copy in range(len(damaged) if self.training else 0, -1, -1):
                yield Sample(self._transformed(image, name, copy), target, damaged)
            damaged = []
        if damaged and self.training:
            yield from self._last_again(last, damaged)
        elif damaged:
            yield Sample(None, -1, damaged)

    def _last_again(self, last: tuple[Image.Image, str, int] | None, damaged: list[str]) -> Iterator[Sample]:
        if last is None:
            raise DamagedImageError(f"no image of {len(damaged)} can be decoded: {'; '.join(damaged)}")
        image, name, target = last
        for copy in range(1, len(damaged) + 1):
            yield Sample(self._transformed(image, name, copy), target, damaged)

    def _transformed(self, image: Image.Image, name: str, copy: int) -> torch.Tensor:
        with seeded(self.seed, self.epoch, zlib.crc32(name.encode()), copy):
            return self.transform(image)


class StreamOrder:
    """What `TrainingOrder` is for images by index: length and position of one rank's epochs."""

    def __init__(self, stream: EncodedStream, batch_size: int, rank: int, world_size: int):
        self.batches = len(stream) // batch_size
        self.rank, self.batch_size, self.global_batch = rank, batch_size, batch_size * world_size
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.batches


class StreamBatches:
    """Collated batches of a training stream from `order.first_batch` of `order.epoch` on."""

    def __init__(self, images: StreamImages, order: StreamOrder, recipe: Recipe):
        self.images, self.order, self.recipe = images, order, recipe

    def __iter__(self) -> Iterator[Batch]:
        # Workers take turns, so that whole turns are skipped unread and the rest of one as batches.
        turns, rest = divmod(self.order.first_batch, max(1, self.recipe.workers))
        self.images.epoch, self.images.first = self.order.epoch, turns * self.order.batch_size
        seed = derive_seed(self.recipe.seed, self.order.epoch, self.order.rank)
        for batch in islice(self._loader(seed), rest, None):
            _check_labels(batch.targets, self.recipe.num_classes, self.images.stream.description)
            yield batch

    def _loader(self, seed: int) -> DataLoader:
        return create_worker_loader(
            self.images,
            self.recipe.workers,
            torch.device(self.recipe.device),
            batch_size=self.order.batch_size,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )


def _check_labels(targets: torch.Tensor, num_classes: int, description: str) -> None:
    if len(targets) and int(targets.max()) >= num_classes:
        raise ValueError(
            f"{description} has label {int(targets.max())}, expected at most {num_classes - 1} as "
            f"num_classes is {num_classes}"
        )


def open_training_stream(
    recipe: Recipe, transform: Callable, rank: int, world_size: int
) -> tuple[StreamBatches, StreamOrder]:
    """The recipe's stream as batches of this rank; raises ValueError for too few shards or images."""
    if recipe.train_share < 1 or recipe.holdout > 0:
        raise ValueError(f"{recipe.data_dir!r} is a stream, expected train_share=1 and holdout=0 with it")
    stream = EncodedStream(
        recipe.data_dir, recipe.train_split, True, recipe.stream_images, recipe.batch_size, recipe.seed
    )
    stream.share(rank, world_size, recipe.workers)
    order = StreamOrder(stream, recipe.batch_size, rank, world_size)
    images = StreamImages(stream, transform, recipe.seed, training=True)
    return StreamBatches(images, order, recipe), order
