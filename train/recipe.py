"""The settings of one training run, read from a YAML file and typed `key=value` overrides."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from train.detection.recipe import DetectionRecipe
from train.settings import TrainingSettings

RECIPE = "recipe.yaml"  # in the folder of a run


@dataclass
class Recipe(TrainingSettings):
    """One training run of a classifier. Sizes are pixels."""

    task: str = "classification"
    model: str = "dcnv2_resnet18"
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    deform_from_epoch: int = 0  # the epochs before train the plain network

    train_split: str = "train"
    val_split: str = "validation"
    train_share: float = 1.0  # of the training images, of every class alike
    holdout: float = 0.0  # share of the training images that is evaluated in place of val_split
    img_size: int = 224
    eval_img_size: int = 0  # 0 is img_size
    train_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    color_jitter: float = 0.0
    auto_augment: str = ""
    random_erasing: float = 0.0  # probability
    repeated_augmentation: int = 1  # appearances of an image in its batch
    mixup: float = 0.0  # alpha of the beta distribution, 0 for none
    cutmix: float = 0.0
    mixup_prob: float = 1.0  # of mixing a batch
    mixup_switch_prob: float = 0.5  # of cutmix where there is mixup too
    interpolation: str = "bilinear"
    eval_crop_pct: float = 1.0
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    cache: str = ""  # "memory" decodes the training images once
    cache_size: int = 0  # shorter side to which cached images are reduced, 0 for none
    cache_limit_gb: float = 8.0  # largest cache of a process
    stream_images: int = 0  # length of a stream that does not tell it

    loss: str = "cross_entropy"  # or "bce"
    label_smoothing: float = 0.1
    bce_target_threshold: float = 0.0  # soft targets above count as 1, the others as 0; 0 leaves them
    teacher: str = ""  # a timm name whose pretrained weights teach
    teacher_temperature: float = 1.0
    teacher_weight: float = 0.5  # the labels' loss has the rest

    compile: bool = False
    freeze_bn: bool = False  # batch norm keeps its running statistics and normalises with them

    # Another value is another network, which cannot take the weights of a checkpoint.
    identity = ("task", "model", "model_kwargs", "num_classes", "deform_from_epoch")


RECIPES: dict[str, type[TrainingSettings]] = {"classification": Recipe, "detection": DetectionRecipe}


def load_recipe(
    path: str | Path, overrides: typing.Sequence[str] = (), task: str | None = "classification"
) -> Any:
    """Read a recipe file, the files that its key `base` names first, and apply `key=value` overrides.

    The recipe is a `Recipe` or a `DetectionRecipe`, of this `task` or with None of any. Raises ValueError for
    one of another task, an unknown key, a value of another type than the key's, an override without an
    equals sign, or a base that does not exist or comes back to itself.
    """
    settings = read_settings(Path(path))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"override {override!r} has no '=', expected key=value")
        settings[key] = _parsed(value, f"override {override!r}") if value else ""
    found = settings.get("task", "classification")
    if task is not None and found != task:
        raise ValueError(f"{path} is a recipe of task {found!r}, expected one of {task!r}")
    return make_recipe(settings)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; raises ValueError for one that is no YAML, FileNotFoundError for none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, expected a YAML file")
    return _parsed(path.read_text(encoding="utf-8"), str(path))


def _parsed(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from error


def read_settings(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe file over those of its bases, whose paths are relative to it."""
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds a {type(settings).__name__}, expected recipe keys with values")
    bases = settings.pop("base", [])
    merged: dict[str, Any] = {}
    for name in [bases] if isinstance(bases, str) else bases:
        base = (path.parent / name).resolve()
        if not base.is_file() or base in (*readers, path.resolve()):
            raise ValueError(f"{path} has base {name!r}, expected another recipe file that exists")
        merged |= read_settings(base, (*readers, path.resolve()))
    return merged | settings


def make_recipe(settings: dict[str, Any]) -> Any:
    """Check every key and type of `settings` and return the recipe of their `task`; raises ValueError."""
    task = settings.get("task", "classification")
    if task not in RECIPES:
        raise ValueError(f"recipe key 'task' is {task!r}, expected one of {', '.join(RECIPES)}")
    known = typing.get_type_hints(RECIPES[task])
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown recipe key {key!r}, the known ones are: {', '.join(sorted(known))}")
    return RECIPES[task](**{key: _checked(key, value, known[key]) for key, value in settings.items()})


def _checked(key: str, value: Any, expected: Any) -> Any:
    if isinstance(expected, types.UnionType):  # TYPE | None
        return None if value is None else _checked(key, value, typing.get_args(expected)[0])
    origin = typing.get_origin(expected) or expected
    if origin is list and isinstance(value, list):
        item_type = typing.get_args(expected)[0]
        return [_checked(key, item, item_type) for item in value]
    if origin is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 (no dot) as a string.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    raise ValueError(f"recipe key {key!r} is {value!r}, expected {getattr(expected, '__name__', expected)}")


def save_recipe(recipe: TrainingSettings, path: Path) -> None:
    """Write the recipe with every default filled in."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False), encoding="utf-8")
