"""Everything that a repository of published weights holds, written into a folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from dcn_backbones.analysis import draw_sampling, load_model, read_image
from dcn_backbones.analysis.classify import class_words
from dcn_backbones.layers import DeformConv2d
from dcn_backbones.ops import use_backend
from hub.checksums import write_sums
from hub.golden import GOLDEN, GOLDEN_IMAGE, write_golden
from train.card import model_card
from train.history import TRAINING, Phase, TrainingHistory, load_history
from train.plots import save_curves

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SOURCE_FILES = (WEIGHTS, CONFIG, TRAINING)
CURVES, SAMPLING = "curves.png", "sampling.jpg"
EVALUATION = ".eval_results"
_SHOWN_CLASSES = 5
_FLOATING_TYPES = {"F32", "F16"}
_INTEGER_TYPES = {"I64", "I32"}


def write_contents(source: Path, output: Path, repository: str, photograph: Path, credit: str = "") -> None:
    """Write what `repository` (ORG/NAME) is to hold.

    Args:
        source: What `train/export_weights.py` has written.
        output: An empty folder.
        photograph: File of the golden input, which the sampling locations are drawn on too.
        credit: Where that photograph comes from, for the card.

    Raises:
        ValueError: When the source lacks a file, its weights are neither float32 nor float16, or they and the
            configuration do not fit each other.
    """
    check_source(source)
    for name in SOURCE_FILES:
        shutil.copyfile(source / name, output / name)
    history = load_history(output / TRAINING)
    model = load_model(f"local-dir:{output}")
    _copy_photograph(photograph, output / GOLDEN_IMAGE)
    with tqdm(total=2, desc="golden logits and pictures", disable=None, leave=False) as bar:
        logits = write_golden(model, output)  # leaves the model in float64
        bar.update()
        pictures = _draw_pictures(model, history, output)
    _write_evaluation(history, output)
    # The card is for people to edit where they find it, so no checksum holds it fast.
    write_sums(output, [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()])
    sections = [*pictures, _golden_section(model, logits, repository, credit)]
    name = repository.partition("/")[2]
    card = model_card(name, history, f"hf-hub:{repository}", "\n".join(sections))
    (output / CARD).write_text(card, encoding="utf-8")


def check_source(source: Path) -> None:
    """Raise ValueError unless the folder holds what is published, as float32 or float16 safetensors."""
    for name in SOURCE_FILES:
        if not (source / name).is_file():
            raise ValueError(f"{source} has no {name}, expected a folder that train/export_weights.py wrote")
    types = _value_types(source / WEIGHTS)
    if len(types & _FLOATING_TYPES) != 1 or types - _FLOATING_TYPES - _INTEGER_TYPES:
        found = ", ".join(sorted(types))
        raise ValueError(f"{source / WEIGHTS} has values of types {found}, expected float32 or float16 ones")


def _value_types(path: Path) -> set[str]:
    try:
        with safe_open(path, "pt") as weights:
            return {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}), expected safetensors") from error


def joined_log(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """The records of all phases, their epochs counted on from phase to phase."""
    records, done = [], 0
    for phase in phases:
        records += [{**record, "epoch": done + record["epoch"]} for record in phase.log]
        done = records[-1]["epoch"]
    return records


def evaluation_entries(history: TrainingHistory) -> list[EvalResultEntry]:
    """The measured accuracy in the Hub's format; none where the recipe has no `data_hub_id`."""
    recipe, result = history.recipe, history.result
    if not recipe.data_hub_id:
        return []
    notes = (
        f"top-1 % on {result['images']:,} images of {recipe.num_classes} classes, split {recipe.val_split}, "
        f"{history.img_size} px, {history.dtype} weights, every image once; top-5 {result['top5']:.2f} %"
    )
    return [EvalResultEntry(recipe.data_hub_id, "default", round(result["top1"], 2), notes=notes)]


def _copy_photograph(photograph: Path, path: Path) -> None:
    if photograph.suffix.lower() == ".png":
        read_image(photograph)  # raises where it is none
        shutil.copyfile(photograph, path)
    else:
        read_image(photograph).save(path)


def _draw_pictures(model: nn.Module, history: TrainingHistory, output: Path) -> list[str]:
    """Draw what there is to draw; returns the sections of the card that show it."""
    sections, log = [], joined_log(history.phases)
    if len(log) > len(history.phases):  # more than how each phase ended
        save_curves(log, output / CURVES)
        sections.append(f"![Loss, accuracy, learning rate and offsets over the epochs]({CURVES})\n")
    if any(isinstance(module, DeformConv2d) for module in model.modules()):
        with use_backend("reference"):  # like the logits: the same picture everywhere
            draw_sampling(model, read_image(output / GOLDEN_IMAGE), output / SAMPLING)
        sections.append(f"![Where the deformable layers sample for one point]({SAMPLING})\n")
    return sections


def _write_evaluation(history: TrainingHistory, output: Path) -> None:
    entries = evaluation_entries(history)
    if entries:
        path = output / EVALUATION / f"{history.recipe.data_hub_id.rpartition('/')[2]}.yaml"
        path.parent.mkdir()
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        path.write_text(text, encoding="utf-8")


def _golden_section(model: nn.Module, logits: Tensor, repository: str, credit: str) -> str:
    words = class_words(model)
    best = logits.softmax(0).topk(min(_SHOWN_CLASSES, len(logits)))
    rows = [
        f"| {words[index]} | {probability:.1%} |"
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return "\n".join(
        [
            "## Golden input",
            "",
            f"For `{GOLDEN_IMAGE}`{credit} the network answers as below; all its logits are in `{GOLDEN}`.",
            f"`python hub/verify.py {repository}` checks every file and compares the logits.",
            "",
            "| class | probability |",
            "|---|---|",
            *rows,
            "",
        ]
    )
