"""Key tables, written down from the published sources of each project; recognition by names.

The order of the channels, offsets ``[group][k][y, x]`` and mask logits ``[group][k]``, is the same in all of
their kernels: open-mmlab/mmcv@469a21c03c58af7217d25f3a2e84d660c359612a
mmcv/ops/csrc/common/cuda/modulated_deform_conv_cuda_kernel.cuh,
facebookresearch/detectron2@31542d62eabaef2cbce5092bf79287ecce2459ab
detectron2/layers/csrc/deformable/deform_conv_cuda_kernel.cu,
CharlesShang/DCNv2@382ed4ac48b8a249d2a90ba2f42f82970061d688 src/cuda/dcn_v2_im2col_cuda.cu,
chengdazhi/Deformable-Convolution-V2-PyTorch@640f36f10a3939760e80399ccbd286dcc863bfdf
src/cuda/modulated_deform_im2col_cuda.cuh and apache/mxnet@068a210d6df574f31814e05e70f0ad9b142f08d7
src/operator/contrib/nn/modulated_deformable_im2col.cuh.
"""

import pytest

from dcn_backbones.models.checkpoints import LAYOUTS, TorchvisionNames, find_layout

# open-mmlab/mmdetection@7fb530c2ba8643bd363027f648f66c1b38ae781e mmdet/models/backbones/resnet.py, and
# open-mmlab/mmcv@0093647e69f471277054484102c46cce6d1de29b mmcv/ops/modulated_deform_conv.py: the pack of
# version 2, and in `_load_from_state_dict` the key of the versions before.
MMDETECTION = {
    "conv1.weight": "conv1.weight",
    "bn1.running_mean": "bn1.running_mean",
    "layer1.0.conv1.weight": "layer1.0.conv1.weight",
    "layer1.0.bn3.bias": "layer1.0.bn3.bias",
    "layer1.0.downsample.0.weight": "layer1.0.downsample.0.weight",
    "layer1.0.downsample.1.running_var": "layer1.0.downsample.1.running_var",
    "layer2.0.conv2.weight": "layer2.0.conv2.weight",
    "layer2.0.conv2.conv_offset.weight": "layer2.0.conv2.conv_offset.weight",
    "layer2.0.conv2_offset.weight": "layer2.0.conv2.conv_offset.weight",
    "layer4.2.conv2_offset.bias": "layer4.2.conv2.conv_offset.bias",
}

# facebookresearch/detectron2@0af92994bc09a1ea256feb7a76f996cdc3930193 detectron2/modeling/backbone/resnet.py;
# the plain part is also in tools/convert-torchvision-to-d2.py@1d650efc02992da9acb4ab80b553cf726639af8d.
DETECTRON2 = {
    "stem.conv1.weight": "conv1.weight",
    "stem.conv1.norm.running_var": "bn1.running_var",
    "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
    "res2.0.shortcut.norm.weight": "layer1.0.downsample.1.weight",
    "res2.0.conv1.weight": "layer1.0.conv1.weight",
    "res2.0.conv1.norm.bias": "layer1.0.bn1.bias",
    "res3.1.conv2.weight": "layer2.1.conv2.weight",
    "res3.1.conv2.norm.running_mean": "layer2.1.bn2.running_mean",
    "res3.1.conv2_offset.weight": "layer2.1.conv2.conv_offset.weight",
    "res5.2.conv2_offset.bias": "layer4.2.conv2.conv_offset.bias",
    "res4.22.conv3.norm.weight": "layer3.22.bn3.weight",
    "linear.weight": "fc.weight",
    "linear.bias": "fc.bias",
}

# apache/mxnet@3c69af530ac1765516ebf1c0b6a5ad1804ee6684 example/image-classification/symbols/resnext.py,
# resnet-v1.py@208844b61084e555e841bfb13a46707309aac87a (`conv1sc`, `sc`), and the offset branch of
# msracver/Deformable-ConvNets@1595b1849a29d8d5c7460da49f855901106db964 DCNv2_op/example_symbol.py.
MXNET = {
    "bn_data_moving_mean": "bn_data.running_mean",
    "conv0_weight": "conv1.weight",
    "bn0_gamma": "bn1.weight",
    "bn0_moving_var": "bn1.running_var",
    "stage1_unit1_conv1_weight": "layer1.0.conv1.weight",
    "stage1_unit1_bn1_beta": "layer1.0.bn1.bias",
    "stage1_unit1_sc_weight": "layer1.0.downsample.0.weight",
    "stage1_unit1_sc_bn_gamma": "layer1.0.downsample.1.weight",
    "stage1_unit1_conv1sc_weight": "layer1.0.downsample.0.weight",
    "stage1_unit1_sc_gamma": "layer1.0.downsample.1.weight",
    "stage3_unit23_conv2_weight": "layer3.22.conv2.weight",
    "arg:stage2_unit1_conv2_offset_weight": "layer2.0.conv2.conv_offset.weight",
    "arg:stage2_unit1_conv2_offset_bias": "layer2.0.conv2.conv_offset.bias",
    "aux:stage4_unit3_bn3_moving_mean": "layer4.2.bn3.running_mean",
    "fc1_weight": "fc.weight",
    "fc1_bias": "fc.bias",
}

# CharlesShang/DCNv2@65b936e521bba0d006e52ce5cde9dde956acbacd dcn_v2.py, class DCN;
# chengdazhi/Deformable-Convolution-V2-PyTorch@1b5851abd404dc71f02ae0110af3540b6877309e
# modules/modulated_deform_conv.py, class ModulatedDeformConvPack.
DCNV2 = {
    "layer2.0.conv2.weight": "layer2.0.conv2.weight",
    "layer2.0.conv2.bias": "layer2.0.conv2.bias",
    "layer2.0.conv2.conv_offset_mask.weight": "layer2.0.conv2.conv_offset.weight",
    "layer2.0.conv2.conv_offset_mask.bias": "layer2.0.conv2.conv_offset.bias",
}

TABLES = {"mmdetection": MMDETECTION, "detectron2": DETECTRON2, "mxnet": MXNET, "dcnv2": DCNV2}


@pytest.mark.parametrize(
    ("layout", "theirs", "ours"),
    [(layout, *pair) for layout, table in TABLES.items() for pair in table.items()],
)
def test_names(layout, theirs, ours):
    assert LAYOUTS[layout].our_key(theirs) == ours


@pytest.mark.parametrize(
    ("names", "theirs", "ours"),
    [
        (TorchvisionNames(), "layer2.0.conv2.weight", "layer2.0.conv2.weight"),
        (TorchvisionNames(), "layer2.0.conv2_offset.bias", "layer2.0.conv2.conv_offset.bias"),
        (
            TorchvisionNames(offset="{block}.offset2", mask="{block}.modulator2"),
            "layer3.1.modulator2.weight",
            "layer3.1.conv2.conv_mask.weight",
        ),
        (
            TorchvisionNames("{conv}.regular_conv", "{conv}.offset_conv"),
            "layer4.0.conv1.regular_conv.weight",
            "layer4.0.conv1.weight",
        ),
        (
            TorchvisionNames(offset="{block}.offsets_of_{name}"),
            "layer4.0.offsets_of_conv1.bias",
            "layer4.0.conv1.conv_offset.bias",
        ),
        (TorchvisionNames(offset="{block}.offset2"), "layer4.0.bn1.weight", "layer4.0.bn1.weight"),
    ],
)
def test_told_names(names, theirs, ours):
    assert names.our_key(theirs) == ours


@pytest.mark.parametrize(
    ("keys", "layout"),
    [
        (["backbone.conv1.weight", "neck.lateral_convs.0.conv.weight"], "mmdetection"),
        (["layer2.0.conv2.conv_offset.weight"], "mmdetection"),
        (["conv1.weight", "layer2.0.conv2_offset.weight"], "mmdetection"),
        (["module.backbone.conv1.weight"], "mmdetection"),
        (["backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral2.weight"], "detectron2"),
        (["backbone.res2.0.conv1.weight"], "detectron2"),
        (["res2.0.shortcut.norm.weight"], "detectron2"),
        (["conv0_weight", "stage1_unit1_conv1_weight"], "mxnet"),
        (["arg:res2a_branch2a_weight"], "mxnet"),
        (["backbone.layer2.0.conv2.conv_offset_mask.weight"], "dcnv2"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "timm"),
        (["backbone.body.conv1.weight", "backbone.fpn.inner_blocks.0.0.weight"], "timm"),
        ([], "timm"),
    ],
)
def test_a_layout_is_recognised(keys, layout):
    assert find_layout(keys) == layout
