"""What other projects call the parameters of a ResNet, and what timm and this project call them.

Offsets are ordered ``[group][k][y, x]`` and mask logits ``[group][k]``, the offsets first, in every layout
here and in ours, so that no table moves a channel. What values need besides a name is in `values`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Replacement = str | Callable[[re.Match], str]

NEVER = r"(?!)"  # the pattern that matches nothing
_WRAPPERS = r"^(module\.|_orig_mod\.)+"  # DistributedDataParallel, torch.compile


@dataclass(frozen=True)
class Layout:
    """Names and conventions of one project.

    Attributes:
        title: The layout in words.
        mark: Pattern of a key that the layouts after it in `LAYOUTS` do not have.
        renames: Patterns and replacements that turn its keys into ours, applied one after the other.
        prefixes: Where a whole detector keeps its backbone, the more specific first.
        elsewhere: Pattern of the keys that belong to the network although they are kept elsewhere.
        style: Where a bottleneck has its stride unless something else says it: ``pytorch`` is the 3x3
            convolution, ``caffe`` the first 1x1; None where there is no telling.
        caffe_mark: Pattern of a key that only networks of ``caffe`` style have.
        mask_scale: What multiplies the sigmoid of the mask logits.
        norm_eps: What a batch norm adds to its variance.
    """

    title: str
    mark: str
    renames: tuple[tuple[str, Replacement], ...] = ()
    prefixes: tuple[str, ...] = ("backbone.",)
    elsewhere: str = NEVER
    style: str | None = "pytorch"
    caffe_mark: str = NEVER
    mask_scale: float = 1.0
    norm_eps: float = 1e-5

    def our_key(self, key: str) -> str:
        """A key of this layout in our names; one that no rule knows stays as it is."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


# `res2` to `res5`; each norm is a child of its convolution. The C4 detectors keep `res5` in their RoI heads.
_DETECTRON2 = Layout(
    title="detectron2",
    mark=r"^(backbone\.(bottom_up\.)?)?(stem\.conv1|res\d\.\d+\.(conv\d|shortcut))\.",
    renames=(
        (r"^roi_heads\.(?=res5\.)", ""),
        (r"^stem\.conv1\.norm\.", "bn1."),
        (r"^stem\.conv1\.", "conv1."),
        (r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}."),
        (r"\.shortcut\.norm\.", ".downsample.1."),
        (r"\.shortcut\.", ".downsample.0."),
        (r"\.conv(\d)\.norm\.", r".bn\1."),
        (r"\.(conv\d)_offset\.", r".\1.conv_offset."),
        (r"^linear\.", "fc."),
    ),
    prefixes=("backbone.bottom_up.", "backbone."),
    elsewhere=r"^roi_heads\.res5\.",
    style=None,  # the keys are the same for either, and its configuration's default is `caffe`
)

# mxnet's example symbols `resnext` and `resnet-v1`, with the offset branch and the doubled mask of the
# authors' DCNv2 example. `resnet-v1` (`conv1sc`) and the authors' detectors (`branch2c`) have the stride in
# the first 1x1.
_MXNET = Layout(
    title="mxnet's example symbols with the authors' DCNv2",
    mark=r"^(arg|aux):|^stage\d_unit\d+_|_(gamma|moving_mean)$",
    renames=(
        (r"^(arg|aux):", ""),
        (r"^stage(\d)_unit(\d+)_", lambda match: f"layer{match[1]}.{int(match[2]) - 1}."),
        (r"\.(conv\d)_offset_", r".\1.conv_offset."),
        (r"\.(conv\d|bn\d)_", r".\1."),
        (r"\.(sc_|conv1sc_)(?=weight)", ".downsample.0."),
        (r"\.(sc_bn_|sc_)(?=gamma|beta|moving)", ".downsample.1."),
        (r"^conv0_", "conv1."),
        (r"^bn0_", "bn1."),
        (r"^bn_data_", "bn_data."),
        (r"^fc1_", "fc."),
        (r"\.gamma$", ".weight"),
        (r"\.beta$", ".bias"),
        (r"\.moving_(mean|var)$", r".running_\1"),
    ),
    prefixes=(),
    caffe_mark=r"_conv1sc_|_branch2c_",
    mask_scale=2.0,
    norm_eps=2e-5,
)

_DCNV2 = Layout(
    title="CharlesShang/DCNv2 and chengdazhi/Deformable-Convolution-V2-PyTorch",
    mark=r"\.conv_offset_mask\.",
    renames=((r"\.conv_offset_mask\.", ".conv_offset."),),
)

# mmcv before version 2 of its layers kept `conv2_offset` beside `conv2`. The classifiers of the same family
# keep their last layer in `head`.
_MMDETECTION = Layout(
    title="mmcv and mmdetection, keys of either version",
    mark=r"^backbone\.(?!body\.|fpn\.)|\.conv\d(_offset|\.conv_offset)\.|^head\.fc\.",
    renames=((r"\.(conv\d)_offset\.", r".\1.conv_offset."), (r"^head\.fc\.", "fc.")),
    elsewhere=r"^head\.fc\.",
)

_TORCHVISION = Layout(
    title="ResNets around torchvision.ops.DeformConv2d; the names of the offset branch are told",
    mark=NEVER,
    prefixes=("backbone.body.", "backbone."),
)

_TIMM = Layout(
    title="timm's and torchvision's ResNets, and this project's own",
    mark="",
    prefixes=("backbone.body.",),  # torchvision's detectors
)

LAYOUTS = {
    "detectron2": _DETECTRON2,
    "mxnet": _MXNET,
    "dcnv2": _DCNV2,
    "mmdetection": _MMDETECTION,
    "torchvision": _TORCHVISION,
    "timm": _TIMM,
}


def unwrapped(key: str) -> str:
    """A key without what wrappers of the whole network put in front of it."""
    return re.sub(_WRAPPERS, "", key)


def find_layout(keys: Iterable[str]) -> str:
    """Name of the first of `LAYOUTS` whose mark is on one of these keys; ``timm`` is what has none."""
    keys = [unwrapped(key) for key in keys]
    marked = (name for name, layout in LAYOUTS.items() if any(re.search(layout.mark, key) for key in keys))
    return next(marked, "timm")
