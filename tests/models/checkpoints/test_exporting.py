"""Ours in mmdetection's and detectron2's terms: their network, built by the settings, has our logits."""

import ast

import pytest
import timm
import torch
import yaml
from torch import nn

from dcn_backbones.models.checkpoints import export_state, import_state, load_imported

from .conftest import difference
from .foreign import Bottleneck, Design, Detectron2ResNet, ResNet, randomised

TOLERANCE = 1e-11  # of the logits' spread, in float64
VISIBLE = 1e-3

DESIGNS = {
    "dcnv2": Design(),
    "dcnv2, 4 groups, dg=4": Design(groups=4, offset_groups=4),
    "dcnv1, dg=2": Design(modulated=False, offset_groups=2),
    "dcnv2 in conv5": Design(deformable=(False, False, False, True)),
}
IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


def dicts(node: ast.expr) -> object:
    """The value of an expression of literals and ``dict(...)`` calls, as configurations are written."""
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return {keyword.arg: dicts(keyword.value) for keyword in node.keywords}
    return ast.literal_eval(node)


def by_mmdetections_settings(settings: str) -> tuple[nn.Module, dict]:
    assignment = ast.parse(settings).body[0]
    assert assignment.targets[0].id == "model"
    values = dicts(assignment.value)
    backbone, pixels = values["backbone"], values["data_preprocessor"]
    operator, groups = backbone["dcn"], backbone.get("groups", 1)
    assert backbone["type"] == ("ResNeXt" if groups > 1 else "ResNet")
    assert backbone["style"] == "pytorch" and pixels["bgr_to_rgb"] and not operator["fallback_on_stride"]
    design = Design(
        modulated={"DCNv2": True, "DCN": False}[operator["type"]],
        offset_groups=operator["deform_groups"],
        groups=groups,
        deformable=backbone["stage_with_dcn"],
    )
    assert groups == 1 or groups * backbone["base_width"] == design.widths[0]
    weights = backbone["init_cfg"]["checkpoint"]
    facts = {"depth": backbone["depth"], "pixels": (pixels["mean"], pixels["std"]), "weights": weights}
    return ResNet(design, Bottleneck), facts


def by_detectron2s_settings(settings: str) -> tuple[nn.Module, dict]:
    values = yaml.safe_load(settings)
    model, resnets = values["MODEL"], values["MODEL"]["RESNETS"]
    assert values["INPUT"]["FORMAT"] == "RGB" and resnets["STRIDE_IN_1X1"] is False
    design = Design(
        modulated=resnets["DEFORM_MODULATED"],
        offset_groups=resnets["DEFORM_NUM_GROUPS"],
        groups=resnets["NUM_GROUPS"],
        deformable=tuple(resnets["DEFORM_ON_PER_STAGE"]),
    )
    assert resnets["NUM_GROUPS"] * resnets["WIDTH_PER_GROUP"] == design.widths[0]
    pixels = model["PIXEL_MEAN"], model["PIXEL_STD"]
    return Detectron2ResNet(design), {
        "depth": resnets["DEPTH"],
        "pixels": pixels,
        "weights": model["WEIGHTS"],
    }


BUILDERS = {
    "mmdetection": (by_mmdetections_settings, "state_dict"),
    "detectron2": (by_detectron2s_settings, "model"),
}


@pytest.fixture(params=BUILDERS)
def layout(request) -> str:
    return request.param


@pytest.fixture
def our_network(our_model, images):
    def make(design: Design) -> nn.Module:
        stages = [stage for stage, deformable in enumerate(design.deformable, start=2) if deformable]
        return randomised(our_model(design, deform_stages=stages), images)

    return make


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_their_network_has_our_logits(design, layout, our_network, images):
    build, place = BUILDERS[layout]
    ours = our_network(design)
    exported = export_state(ours, layout)
    theirs, facts = build(exported.settings_for("r50.pth"))
    theirs.double().eval().load_state_dict(exported.content[place], strict=True)
    assert difference(theirs, ours, images) <= TOLERANCE
    assert facts == {"depth": 2 + 3 * 6, "pixels": IMAGENET, "weights": "r50.pth"}


@torch.no_grad()
def test_with_y_and_x_or_mask_and_offset_exchanged_it_would_fail(layout, our_network, images):
    build, place = BUILDERS[layout]
    ours = our_network(Design())
    exported = export_state(ours, layout)
    for wrong in (
        lambda branch: torch.cat([branch[:18].unflatten(0, (-1, 2)).flip(1).flatten(0, 1), branch[18:]]),
        lambda branch: torch.cat([branch[9:], branch[:9]]),
    ):
        state = exported.content[place]
        state = {key: wrong(value) if "offset" in key else value for key, value in state.items()}
        theirs, _ = build(exported.settings)
        theirs.double().eval().load_state_dict(state, strict=True)
        assert difference(theirs, ours, images) > VISIBLE


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_out_and_in_again_is_the_same(design, layout, our_network):
    ours = our_network(design)
    exported = export_state(ours, layout).content[BUILDERS[layout][1]]
    again = our_network(design)
    load_imported(again, import_state(exported, style="pytorch"))
    state = {key: value for key, value in ours.state_dict().items() if "num_batches" not in key}
    torch.testing.assert_close({key: again.state_dict()[key] for key in state}, state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "depth", "groups", "width"),
    [("dcnv2_resnet50", 50, 1, 64), ("dcnv1_resnet101", 101, 1, 64), ("dcnv2_resnext101_32x4d", 101, 32, 4)],
)
def test_the_settings_of_the_models(name, depth, groups, width):
    with torch.device("meta"):
        model = timm.create_model(name)
    resnets = yaml.safe_load(export_state(model, "detectron2").settings)["MODEL"]["RESNETS"]
    assert (resnets["DEPTH"], resnets["NUM_GROUPS"], resnets["WIDTH_PER_GROUP"]) == (depth, groups, width)
    stages = [False, False, False, True] if name.startswith("dcnv1") else [False, True, True, True]
    assert resnets["DEFORM_ON_PER_STAGE"] == stages and resnets["DEFORM_MODULATED"] == (
        stages.count(True) > 1
    )


def test_detectron2s_loader_is_told_to_find_the_names_in_a_detector(our_network):
    """facebookresearch/detectron2@0ad20f13e23f2f4454be6196c1cd38e2171b294c detectron2/checkpoint/
    detection_checkpoint.py: `model`, with `matching_heuristics` of names that end a detector's."""
    exported = export_state(our_network(Design()), "detectron2").content
    assert exported["matching_heuristics"] is True
    assert not any("num_batches_tracked" in key for key in exported["model"])  # its frozen norms have none


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("dcnv2_resnet18", {}, "its blocks are basic"),
        ("dcnv2_resnet50", {"deform_last": 1}, "a stage is deformable in part"),
        ("dcnv2_resnet50", {"output_stride": 16}, "expected output_stride=32"),
        ("dcnv2_resnet50", {"stem_type": "deep"}, r"it has conv1\.0\.weight, .* expected a plain stem"),
        ("dcnv2_resnet50", {"avg_down": True}, r"layer1\.0\.downsample\.2\.weight"),
        ("dcnv2_resnet50", {"aa_layer": nn.AvgPool2d}, "anti-aliasing"),
        (
            "dcnv2_resnet50",
            {"norm_layer": lambda *args, **kw: nn.BatchNorm2d(*args, eps=1e-3)},
            "another eps",
        ),
        ("dcnv2_resnet50", {"features_only": True}, "it is a FeatureListNet, expected a DeformResNet"),
    ],
)
def test_what_they_cannot_build_is_refused(name, options, reason, layout):
    model = timm.create_model(name, layers=(1, 1, 1, 2), **options)
    with pytest.raises(ValueError, match=f"{layout} cannot build this network: .*{reason}"):
        export_state(model, layout)


def test_other_layouts_are_not_written(our_network):
    with pytest.raises(
        ValueError, match="layout='mxnet' cannot be written; expected one of mmdetection, detectron2"
    ):
        export_state(our_network(Design()), "mxnet")
