"""The settings of one training run, read from a YAML file and typed `key=value` overrides."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

RECIPE = "recipe.yaml"  # in the folder of a run


@dataclass
class Recipe:
    """One training run. Sizes are pixels, rates are per optimizer step, durations are epochs."""

    model: str = "dcnv2_resnet18"
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 1000
    init_from: str = ""  # a weight file, a run's folder or a timm name with its tag, plain or deformable
    deform_from_epoch: int = 0  # the epochs before train the plain network

    data_dir: str = "data"
    train_split: str = "train"
    val_split: str = "validation"
    train_share: float = 1.0  # of the training images, of every class alike
    holdout: float = 0.0  # share of the training images that is evaluated in place of val_split
    data_terms: str = ""  # what the data may be used for; travels with the weights
    data_hub_id: str = ""  # the data's name on the Hugging Face Hub, for published results
    img_size: int = 224
    eval_img_size: int = 0  # 0 is img_size
    train_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    hflip: float = 0.5
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
    workers: int = 1
    cache: str = ""  # "memory" decodes the training images once
    cache_size: int = 0  # shorter side to which cached images are reduced, 0 for none
    cache_limit_gb: float = 8.0  # largest cache of a process
    stream_images: int = 0  # length of a stream that does not tell it
    max_damaged: int = 10  # damaged images before the run stops

    # images of one process in one pass; a step has batch_size * accumulate * processes
    batch_size: int = 128
    accumulate: int = 1
    epochs: int = 10
    val_interval: int = 1  # epochs between two validations; the last epoch is always validated
    opt: str = "sgd"  # timm's "sgd" is Nesterov momentum
    opt_kwargs: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_grad: float = 0.0  # largest gradient norm, 0 for no clipping
    sched: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    decay_milestones: list[int] = field(default_factory=lambda: [30, 60, 80])  # of sched "multistep"
    decay_epochs: float = 30.0  # of sched "step"
    decay_rate: float = 0.1

    loss: str = "cross_entropy"  # or "bce"
    label_smoothing: float = 0.1
    bce_target_threshold: float = 0.0  # soft targets above count as 1, the others as 0; 0 leaves them
    teacher: str = ""  # a timm name whose pretrained weights teach
    teacher_temperature: float = 1.0
    teacher_weight: float = 0.5  # the labels' loss has the rest
    ema_decay: float = 0.0  # of the moving average of the weights, 0 for none
    ema_warmup: bool = False

    offset_lr_scale: float = 0.1
    modulated_lr_scale: float = 1.0  # of modulated weights; 4 lets SGD move doubled ones as plain ones
    offset_weight_decay: float | None = None  # none: weight_decay
    offset_clamp: float = 0.0  # largest |offset|, in pixels of the layer's input; 0 for none
    offset_penalty: float = 0.0  # times the mean squared offset, added to the loss

    device: str = "cpu"  # or "cuda"
    threads: int = 0  # 0 leaves torch's choice
    amp: bool = True
    amp_dtype: str = "bfloat16"  # or "float16", with a gradient scaler
    channels_last: bool = True
    compile: bool = False
    freeze_bn: bool = False  # batch norm keeps its running statistics and normalises with them
    checkpoint_every_steps: int = 0  # besides after every epoch; 0 for none
    checkpoint_every_minutes: float = 0.0
    seed: int = 42


def load_recipe(path: str | Path, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Read a recipe file, the files that its key `base` names first, and apply `key=value` overrides.

    Raises ValueError for an unknown key, a value of another type than the key's, an override without an
    equals sign, or a base that does not exist or comes back to itself.
    """
    settings = read_settings(Path(path))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"override {override!r} has no '=', expected key=value")
        settings[key] = _parsed(value, f"override {override!r}") if value else ""
    return make_recipe(settings)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; raises ValueError for one that is no YAML."""
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


def make_recipe(settings: dict[str, Any]) -> Recipe:
    """Check every key and type of `settings` and return the recipe; raises ValueError."""
    known = typing.get_type_hints(Recipe)
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown recipe key {key!r}, the known ones are: {', '.join(sorted(known))}")
    return Recipe(**{key: _checked(key, value, known[key]) for key, value in settings.items()})


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


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe with every default filled in."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False), encoding="utf-8")
