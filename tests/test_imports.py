"""Imports go one way: csrc -> ops -> layers -> models -> {detection, export} -> analysis -> train -> hub."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "dcn_backbones"
# A room may import from rooms of a lower rank and from itself. The commands at the package's top and the
# `__main__` of a room may import every room that is installed with them; no room may import a command.
RANKS = {
    "_C": -1,
    "files": -1,
    "ops": 0,
    "layers": 1,
    "models": 2,
    "detection": 3,
    "export": 3,
    "analysis": 4,
    "command": 4,
}
COMMAND_RANK = 5
OUTER_RANKS = {"train": 6, "hub": 7}  # hub writes the card of a run, which is read by train


def room_and_rank(module: str) -> tuple[str, int] | None:
    """The room that a dotted module name belongs to and its rank; None for what is not the project's."""
    top, _, rest = module.partition(".")
    if top in OUTER_RANKS:
        return top, OUTER_RANKS[top]
    if top != PACKAGE:
        return None
    if rest.endswith(".__main__"):
        return rest, COMMAND_RANK
    room = "_C" if rest.startswith("_C") else rest.partition(".")[0]
    if room in ("", "__version__"):  # importing the package registers the models
        return "models", RANKS["models"]
    return room, RANKS.get(room, COMMAND_RANK)


def imported_modules(source: str, package: list[str]) -> list[str]:
    """Absolute names of all that a source imports; ``package`` is what its relative imports start from."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = start + (node.module.split(".") if node.module else [])
            modules += [".".join([*base, alias.name]) for alias in node.names]
    return modules


def violations(root: Path) -> list[str]:
    """One line for every import against the arrow in the sources below ``root``."""
    found = []
    for path in sorted(path for top in (PACKAGE, *OUTER_RANKS) for path in (root / top).rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        room, rank = room_and_rank(".".join(parts)) if parts != [PACKAGE, "__init__"] else ("", COMMAND_RANK)
        for module in imported_modules(path.read_text(encoding="utf-8"), parts[:-1]):
            target = room_and_rank(module)
            if target and target[0] != room and target[1] >= rank:
                found.append(f"{path.relative_to(root)} imports {module}")
    return found


def test_nothing_imports_against_the_arrow():
    assert violations(ROOT) == []


@pytest.mark.parametrize("room", ["ops", "layers", "models", "detection", "export", "analysis"])
def test_the_rooms_are_where_the_rule_looks(room):
    assert list((ROOT / PACKAGE / room).glob("*.py"))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("dcn_backbones/ops/dispatch.py", "from ..layers import DeformConv2d"),
        ("dcn_backbones/ops/dispatch.py", "import dcn_backbones"),
        ("dcn_backbones/ops/backends/base.py", "from ...models.checkpoints import checkpoint_filter_fn"),
        ("dcn_backbones/layers/deform_conv.py", "def late():\n    import dcn_backbones.models.dcn_resnet"),
        ("dcn_backbones/models/__init__.py", "from dcn_backbones import analysis"),
        ("dcn_backbones/models/dcn_resnet.py", "from .. import predict"),
        ("dcn_backbones/export/onnx.py", "from ..detection import boxes"),
        ("dcn_backbones/export/onnx.py", "from . import __main__"),
        ("dcn_backbones/export/onnx.py", "from ..analysis import load_model"),
        ("dcn_backbones/export/__main__.py", "from .. import predict"),
        ("dcn_backbones/analysis/plot.py", "from train.data import loader"),
        ("dcn_backbones/analysis/plot.py", "from ..command import UsageError"),
        ("dcn_backbones/predict.py", "import train"),
        ("dcn_backbones/__init__.py", "import hub.pull"),
        ("train/card.py", "from hub.pull import pull"),
    ],
)
def test_an_import_against_the_arrow_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("dcn_backbones/ops/backends/extension.py", "from dcn_backbones import _C\nfrom ... import _C_cuda"),
        (
            "dcn_backbones/ops/dispatch.py",
            "import torch, timm.models\nfrom .backends import base\nfrom . import base",
        ),
        ("dcn_backbones/layers/deform_conv.py", "from ..ops import deform_conv2d"),
        ("dcn_backbones/models/checkpoints/files.py", "from ...files import written_whole"),
        ("dcn_backbones/analysis/plot.py", "import dcn_backbones\nfrom ..models import DeformResNet"),
        (
            "dcn_backbones/predict.py",
            "from .analysis import plot\nfrom dcn_backbones.models import DeformResNet",
        ),
        (
            "dcn_backbones/export/__main__.py",
            "from ..analysis import load_model\nfrom . import files\nfrom dcn_backbones.export import onnx",
        ),
        ("dcn_backbones/__init__.py", "from . import models as models"),
        (
            "train/train.py",
            "import dcn_backbones\nfrom dcn_backbones.analysis import plot\nfrom train.data import a",
        ),
        ("train/train.py", "from dcn_backbones.command import run_command"),
        ("hub/publish.py", "import dcn_backbones\nfrom train.card import model_card"),
    ],
)
def test_an_import_along_the_arrow_is_fine(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert violations(tmp_path) == []
