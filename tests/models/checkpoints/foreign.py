"""Bottleneck ResNets in the layouts of other projects, around ``torchvision.ops.DeformConv2d``.

Those projects do not install here with their operators. Names, splits and strides are written down from their
published sources, which each class names; the operator is torchvision's, which all of them agree with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import DeformConv2d


@dataclass(frozen=True)
class Design:
    """A small ResNet, deformable in its last three stages, and what its `Bottleneck`s are made of."""

    modulated: bool = True
    offset_groups: int = 1
    groups: int = 1
    style: str = "pytorch"
    deformable: tuple[bool, ...] = (False, True, True, True)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    widths: tuple[int, ...] = (16, 32, 64, 128)
    num_classes: int = 10

    @property
    def arguments(self) -> dict:
        """Arguments of this project's model of the same design."""
        resnext = {"cardinality": self.groups, "base_width": 64 // self.groups} if self.groups > 1 else {}
        shape = {"layers": self.depths, "channels": self.widths, "num_classes": self.num_classes}
        sampling = {"deform_stages": (3, 4, 5), "offset_groups": self.offset_groups}
        return {**shape, **resnext, **sampling}

    @property
    def model_name(self) -> str:
        return "dcnv2_resnet50" if self.modulated else "dcnv1_resnet50"


@dataclass(frozen=True)
class Place:
    """One bottleneck's place in a `Design`."""

    design: Design
    in_channels: int
    width: int
    stride: int
    deformable: bool

    @property
    def strides(self) -> tuple[int, int]:
        return (1, self.stride) if self.design.style == "pytorch" else (self.stride, 1)

    @property
    def offset_channels(self) -> int:
        return (27 if self.design.modulated else 18) * self.design.offset_groups

    def spatial(self, layer: Callable[..., nn.Module], **options) -> nn.Module:
        """A 3x3 convolution of this place."""
        groups = self.design.groups
        options = {"bias": False, "groups": groups, **options}
        return layer(self.width, self.width, 3, stride=self.strides[1], padding=1, **options)

    def offset_branch(self, channels: int | None = None) -> nn.Conv2d:
        return nn.Conv2d(
            self.width, channels or self.offset_channels, 3, stride=self.strides[1], padding=1, bias=True
        )


def places(design: Design, stage: int) -> list[Place]:
    width = design.widths[stage]
    before = 4 * design.widths[stage - 1] if stage else 64
    first = Place(design, before, width, 1 if stage == 0 else 2, design.deformable[stage])
    return [first] + [replace(first, in_channels=4 * width, stride=1)] * (design.depths[stage] - 1)


def thirds(output: Tensor, modulated: bool) -> tuple[Tensor, Tensor | None]:
    """Offsets and mask as mmcv, detectron2, CharlesShang and chengdazhi split them: two thirds and one."""
    if not modulated:
        return output, None
    first, second, mask = output.chunk(3, dim=1)
    return torch.cat((first, second), dim=1), mask.sigmoid()


class Bottleneck(nn.Module):
    """open-mmlab/mmdetection@7fb530c2, mmdet/models/backbones/resnet.py; the names are torchvision's."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.modulated, self.offset_groups = place.design.modulated, place.design.offset_groups
        self.conv1 = nn.Conv2d(place.in_channels, place.width, 1, stride=place.strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(place.width)
        self.conv2 = self.make_conv2(place) if place.deformable else place.spatial(nn.Conv2d)
        self.bn2 = nn.BatchNorm2d(place.width)
        self.conv3 = nn.Conv2d(place.width, 4 * place.width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * place.width)
        self.downsample = None
        if place.in_channels != 4 * place.width:
            shortcut = nn.Conv2d(place.in_channels, 4 * place.width, 1, stride=place.stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * place.width))

    def make_conv2(self, place: Place) -> nn.Module:
        return MmcvPack(place)

    def apply_conv2(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.apply_conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + shortcut).relu()


class MmcvPack(nn.Module):
    """open-mmlab/mmcv@0093647e, mmcv/ops/modulated_deform_conv.py and deform_conv.py: packs of version 2."""

    branch = "conv_offset"
    with_bias = False

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.modulated = place.design.modulated
        conv = place.spatial(DeformConv2d, bias=self.with_bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.add_module(self.branch, place.offset_branch())
        self.stride = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = thirds(getattr(self, self.branch)(x), self.modulated)
        return torchvision.ops.deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, (1, 1), mask=mask
        )


class Dcnv2Pack(MmcvPack):
    """CharlesShang/DCNv2@65b936e5, dcn_v2.py; chengdazhi/Deformable-Convolution-V2-PyTorch@1b5851ab,
    modules/modulated_deform_conv.py. The bias is used whatever the arguments say."""

    branch = "conv_offset_mask"
    with_bias = True


class Dcnv2Bottleneck(Bottleneck):
    def make_conv2(self, place: Place) -> nn.Module:
        return Dcnv2Pack(place)


class OldMmcvBottleneck(Bottleneck):
    """`conv2_offset` beside `conv2`, which mmcv's version 2 renames while loading (mmcv@0093647e)."""

    def make_conv2(self, place: Place) -> nn.Module:
        self.conv2_offset = place.offset_branch()
        return place.spatial(DeformConv2d)

    def apply_conv2(self, x: Tensor) -> Tensor:
        if not hasattr(self, "conv2_offset"):
            return self.conv2(x)
        output, groups = self.conv2_offset(x), self.offset_groups
        mask = output[:, -9 * groups :].sigmoid() if self.modulated else None
        return self.conv2(x, output[:, : 18 * groups], mask)


class TorchvisionBottleneck(Bottleneck):
    """Branches of their own for the offsets and for a mask of up to two, as around torchvision's layer."""

    def make_conv2(self, place: Place) -> nn.Module:
        groups = place.design.offset_groups
        self.offset2 = place.offset_branch(18 * groups)
        self.modulator2 = place.offset_branch(9 * groups) if self.modulated else None
        return place.spatial(DeformConv2d)

    def apply_conv2(self, x: Tensor) -> Tensor:
        if not hasattr(self, "offset2"):
            return self.conv2(x)
        mask = 2 * self.modulator2(x).sigmoid() if self.modulated else None
        return self.conv2(x, self.offset2(x), mask)


class ResNet(nn.Module):
    def __init__(self, design: Design, block: Callable[[Place], nn.Module] = Bottleneck) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage in range(4):
            self.add_module(f"layer{stage + 1}", nn.Sequential(*map(block, places(design, stage))))
        self.fc = nn.Linear(4 * design.widths[-1], design.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def with_norm(conv: nn.Module) -> nn.Module:
    conv.norm = nn.BatchNorm2d(conv.out_channels)
    return conv


class Detectron2Bottleneck(nn.Module):
    """facebookresearch/detectron2@0af92994, detectron2/modeling/backbone/resnet.py: both bottlenecks."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.modulated = place.design.modulated
        self.shortcut = None
        if place.in_channels != 4 * place.width:
            conv = nn.Conv2d(place.in_channels, 4 * place.width, 1, stride=place.stride, bias=False)
            self.shortcut = with_norm(conv)
        self.conv1 = with_norm(
            nn.Conv2d(place.in_channels, place.width, 1, stride=place.strides[0], bias=False)
        )
        self.conv2_offset = place.offset_branch() if place.deformable else None
        self.conv2 = with_norm(place.spatial(DeformConv2d if place.deformable else nn.Conv2d))
        self.conv3 = with_norm(nn.Conv2d(place.width, 4 * place.width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut.norm(self.shortcut(x))
        x = self.conv1.norm(self.conv1(x)).relu()
        sampling = () if self.conv2_offset is None else thirds(self.conv2_offset(x), self.modulated)
        x = self.conv2.norm(self.conv2(x, *sampling)).relu()
        return (self.conv3.norm(self.conv3(x)) + shortcut).relu()


class Detectron2ResNet(nn.Module):
    """facebookresearch/detectron2@0af92994, detectron2/modeling/backbone/resnet.py."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = with_norm(nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False))
        for stage in range(4):
            self.add_module(
                f"res{stage + 2}", nn.Sequential(*map(Detectron2Bottleneck, places(design, stage)))
            )
        self.linear = nn.Linear(4 * design.widths[-1], design.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem.conv1.norm(self.stem.conv1(x)).relu()
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        x = self.res5(self.res4(self.res3(self.res2(x))))
        return self.linear(x.mean((2, 3)))


class MxnetResNet(nn.Module):
    """apache/mxnet@3c69af53, example/image-classification/symbols/resnext.py, and in its units the offset
    branch of msracver/Deformable-ConvNets@1595b184, DCNv2_op/example_symbol.py."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.modulated = design.modulated
        norm = partial(nn.BatchNorm2d, eps=2e-5)
        self.bn_data = norm(3)
        self.conv0 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn0 = norm(64)
        self.units = []
        for stage in range(4):
            for unit, place in enumerate(places(design, stage), start=1):
                self.units.append(f"stage{stage + 1}_unit{unit}")
                for name, module in self.unit(place, norm).items():
                    self.add_module(f"{self.units[-1]}_{name}", module)
        self.fc1 = nn.Linear(4 * design.widths[-1], design.num_classes)

    def unit(self, place: Place, norm: Callable[[int], nn.Module]) -> dict[str, nn.Module]:
        modules = {
            "conv1": nn.Conv2d(place.in_channels, place.width, 1, bias=False),
            "bn1": norm(place.width),
            "conv2": place.spatial(DeformConv2d if place.deformable else nn.Conv2d),
            "bn2": norm(place.width),
            "conv3": nn.Conv2d(place.width, 4 * place.width, 1, bias=False),
            "bn3": norm(4 * place.width),
        }
        if place.deformable:
            modules["conv2_offset"] = place.offset_branch()
        if place.in_channels != 4 * place.width:
            modules["sc"] = nn.Conv2d(place.in_channels, 4 * place.width, 1, stride=place.stride, bias=False)
            modules["sc_bn"] = norm(4 * place.width)
        return modules

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(  # fix_gamma=True: no weight
            x, self.bn_data.running_mean, self.bn_data.running_var, None, self.bn_data.bias, eps=2e-5
        )
        x = nn.functional.max_pool2d(self.bn0(self.conv0(x)).relu(), 3, stride=2, padding=1)
        for unit in self.units:
            x = self.apply_unit(x, lambda name, unit=unit: getattr(self, f"{unit}_{name}", None))
        return self.fc1(x.mean((2, 3)))

    def apply_unit(self, x: Tensor, part: Callable[[str], nn.Module | None]) -> Tensor:
        shortcut = part("sc_bn")(part("sc")(x)) if part("sc") else x
        x = part("bn1")(part("conv1")(x)).relu()
        sampling = ()
        if part("conv2_offset"):
            output = part("conv2_offset")(x)
            modulated = self.modulated
            channels = output.shape[1] * 2 // 3 if modulated else output.shape[1]
            sampling = output[:, :channels], 2 * output[:, channels:].sigmoid() if modulated else None
        x = part("bn2")(part("conv2")(x, *sampling)).relu()
        return (part("bn3")(part("conv3")(x)) + shortcut).relu()

    def arrays(self) -> dict:
        """Parameters as mxnet names them: of batch norms gamma, beta, moving_mean and moving_var."""
        norm_names = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_var",
        }
        arrays = {}
        for path, value in self.state_dict().items():
            module, _, name = path.rpartition(".")
            if name != "num_batches_tracked":
                is_norm = isinstance(self.get_submodule(module), nn.BatchNorm2d)
                kind = "aux" if name.startswith("running") else "arg"
                arrays[f"{kind}:{module}_{norm_names[name] if is_norm else name}"] = value.numpy()
        return arrays


def randomised(network: nn.Module, images: Tensor) -> nn.Module:
    """The network in float64, with offsets of about a pixel, masks about one half, and images' statistics."""
    network.double()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
        elif "offset" in name or "modulator" in name:
            nn.init.normal_(module.weight, std=0.02)
            nn.init.normal_(module.bias)
        elif isinstance(module, Dcnv2Pack):
            nn.init.normal_(module.bias)
    with torch.no_grad():
        network.train()(images)
    return network.eval()
