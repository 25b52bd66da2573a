"""From ours to mmdetection and detectron2: the state dict, and the settings it needs there."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from timm.data import resolve_data_config
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from ...layers import DeformConv2d, ModulatedDeformConv2d
from .layouts import Replacement
from .values import NORM_EPS, State

_DETECTRON2_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.(conv\d)\.conv_offset\.", r".\1_offset."),
    (r"^fc\.", "linear."),
)

# All that a network may consist of that those projects can build.
_KNOWN_KEYS = r"(conv1|bn1|fc|layer\d\.\d+\.(conv\d(\.conv_offset)?|bn\d|downsample\.[01]))\.\w+"

_DETECTRON2_SETTINGS = """\
MODEL:
  WEIGHTS: "{weights}"
  PIXEL_MEAN: {mean}
  PIXEL_STD: {std}
  RESNETS:
    DEPTH: {depth}
    NUM_GROUPS: {groups}
    WIDTH_PER_GROUP: {width}
    STRIDE_IN_1X1: False
    DEFORM_ON_PER_STAGE: {stages}
    DEFORM_MODULATED: {modulated}
    DEFORM_NUM_GROUPS: {offset_groups}
INPUT:
  FORMAT: "RGB"
"""

_MMDETECTION_SETTINGS = """\
model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
    backbone=dict(
        type='{kind}',
        depth={depth},{resnext}
        style='pytorch',
        dcn=dict(type='{operator}', deform_groups={offset_groups}, fallback_on_stride=False),
        stage_with_dcn={stage_tuple},
        init_cfg=dict(type='Pretrained', checkpoint='{weights}')))
"""


@dataclass(frozen=True)
class Exported:
    """A network in another project's terms.

    Attributes:
        content: What that project loads: the state dict in the place where it looks for it.
        settings: Template of the configuration that the weights need there; ``{weights}`` is their file.
    """

    content: dict[str, object]
    settings: str

    def settings_for(self, weights: str) -> str:
        """The settings with the file's name filled in."""
        return self.settings.rstrip().replace("{weights}", weights)


def export_state(model: nn.Module, layout: str) -> Exported:
    """A model's weights and their settings for mmdetection or detectron2.

    Args:
        model: One of this project's models with bottlenecks.
        layout: One of `EXPORTS`.

    Raises:
        ValueError: When that project cannot build the network; the reasons are listed.
    """
    if layout not in EXPORTS:
        raise ValueError(f"layout={layout!r} cannot be written; expected one of {', '.join(EXPORTS)}.")
    reasons = _reasons_against(model)
    if reasons:
        raise ValueError(f"{layout} cannot build this network: {'; '.join(reasons)}.")
    return EXPORTS[layout](model)


def _to_mmdetection(model: ResNet) -> Exported:
    settings = _fill(_MMDETECTION_SETTINGS, model)
    # Its own checkpoints carry their configuration, where `read_checkpoint` finds how pixels are normalised.
    return Exported({"state_dict": dict(model.state_dict()), "meta": {"cfg": settings}}, settings)


def _to_detectron2(model: ResNet) -> Exported:
    state: State = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue  # its frozen batch norms have none
        for pattern, replacement in _DETECTRON2_RENAMES:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    # It finds a file's names in a detector by their endings, when told to.
    content = {"model": state, "__author__": "dcn_backbones", "matching_heuristics": True}
    return Exported(content, _fill(_DETECTRON2_SETTINGS, model))


EXPORTS: dict[str, Callable[[ResNet], Exported]] = {
    "mmdetection": _to_mmdetection,
    "detectron2": _to_detectron2,
}


def _reasons_against(model: nn.Module) -> list[str]:
    """What of a network neither project's ResNet has."""
    if not isinstance(model, ResNet):
        return [f"it is a {type(model).__name__}, expected a DeformResNet"]
    blocks = [block for stage in _stages(model) for block in stage]
    reasons = []
    unknown = [key for key in model.state_dict() if not re.fullmatch(_KNOWN_KEYS, key)]
    if unknown:
        reasons.append(f"it has {', '.join(unknown[:5])}, expected a plain stem and plain shortcuts")
    if not all(isinstance(block, Bottleneck) for block in blocks):
        reasons.append("its blocks are basic, and only bottlenecks are deformable there")
    if any(len({_deformable(block) is None for block in stage}) > 1 for stage in _stages(model)):
        reasons.append("a stage is deformable in part, expected all or none of its blocks")
    if model.feature_info[-1]["reduction"] != 32:
        reasons.append("it is dilated, expected output_stride=32")
    if not all(isinstance(getattr(block, "aa", None), nn.Identity | None) for block in blocks):
        reasons.append("it has anti-aliasing layers")
    if any(isinstance(module, nn.BatchNorm2d) and module.eps != NORM_EPS for module in model.modules()):
        reasons.append(f"its batch norms have another eps than {NORM_EPS}")
    return reasons


def _stages(model: ResNet) -> list[nn.Sequential]:
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def _deformable(block: nn.Module) -> DeformConv2d | None:
    return block.conv2 if isinstance(block.conv2, DeformConv2d) else None


def _fill(template: str, model: ResNet) -> str:
    deformable = [_deformable(stage[0]) for stage in _stages(model)]
    layer = next((layer for layer in deformable if layer), None)
    modulated = isinstance(layer, ModulatedDeformConv2d)
    first = model.layer1[0].conv2
    width = first.out_channels // first.groups
    stages = [layer is not None for layer in deformable]
    data = resolve_data_config({}, model=model)
    values = {
        "depth": 2 + 3 * sum(map(len, _stages(model))),
        "groups": first.groups,
        "width": width,
        "kind": "ResNeXt" if first.groups > 1 else "ResNet",
        "resnext": f"\n        groups={first.groups},\n        base_width={width},"
        if first.groups > 1
        else "",
        "modulated": modulated,
        "operator": "DCNv2" if modulated else "DCN",
        "offset_groups": layer.offset_groups if layer else 1,
        "stages": stages,
        "stage_tuple": tuple(stages),
        "mean": [round(255 * value, 3) for value in data["mean"]],
        "std": [round(255 * value, 3) for value in data["std"]],
    }
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", str(value))
    return template
