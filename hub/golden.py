"""A golden input and its logits: proof that weights compute on one machine what they computed on another."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dcn_backbones.analysis import Preprocessing, classify, read_image
from dcn_backbones.ops import use_backend

GOLDEN = "golden.json"
GOLDEN_IMAGE = "golden.png"
# Of the largest logit. float32 on the fastest kernels is some 1e-5 off, one wrong weight or another
# preprocessing far more.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """How far a network's logits are from the golden ones.

    Attributes:
        difference: The largest one, in units of the logits.
        tolerance: What it may be.
        words: The most probable class, in words.
    """

    difference: float
    tolerance: float
    words: str


def write_golden(model: nn.Module, folder: Path) -> Tensor:
    """Write the logits (num_classes,) of `golden.png` in `folder` beside it, and return them.

    They are computed by the operator's reference in float64 and rounded, so that they are the same wherever
    they are written.
    """
    logits = reference_logits(model, folder / GOLDEN_IMAGE)
    content = {
        "image": GOLDEN_IMAGE,
        "computed": "float64, reference backend",
        "logits": [round(value, 5) for value in logits.tolist()],
    }
    (folder / GOLDEN).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return logits


def reference_logits(model: nn.Module, image: Path) -> Tensor:
    """Logits (num_classes,) of a photograph; leaves the model in float64."""
    with use_backend("reference"):
        return _logits(model.double(), image)


def compare_golden(model: nn.Module, folder: Path) -> Comparison:
    """Run the golden input of `folder` through a model and compare.

    Raises ValueError when there is no golden input, or it is one of another number of classes.
    """
    expected, image = _read_golden(folder)
    logits = _logits(model, image).double()
    if logits.shape != expected.shape:
        raise ValueError(f"{folder / GOLDEN} has {len(expected)} logits, the model has {len(logits)} classes")
    return Comparison(
        difference=(logits - expected).abs().max().item(),
        tolerance=TOLERANCE * expected.abs().max().item(),
        words=classify(model, read_image(image), top=1)[0].words,
    )


def _read_golden(folder: Path) -> tuple[Tensor, Path]:
    """The golden logits (num_classes,) and the file of their image."""
    if not (folder / GOLDEN).is_file():
        raise ValueError(f"{folder} has no {GOLDEN}, expected the logits that hub/publish.py writes")
    try:
        golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
        return torch.tensor(golden["logits"], dtype=torch.float64), folder / golden["image"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / GOLDEN} is damaged, expected `logits` and an `image`") from error


@torch.no_grad()
def _logits(model: nn.Module, image: Path) -> Tensor:
    return model.eval()(Preprocessing(model)(read_image(image)))[0]
