"""Bad input of RoI pooling: one sentence naming the argument, what it has and what it should have."""

import pytest
import torch

from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool, use_backend

from .compare import assert_refused
from .roi_cases import AWKWARD, RoICase

CASE = RoICase(gamma=0.1)
SENSITIVE = AWKWARD["sensitive_groups_3"]  # (2, 36, 9, 12), 2 x 3 bins, 6 channels of output


def call(function, case, **changes):
    tensors = case.tensors(torch.float32)
    if case.position_sensitive:
        del tensors["mask"]
    arguments = tensors | case.settings
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    return function(**arguments)


def test_the_unchanged_calls_are_fine():
    assert call(deform_roi_pool, CASE).shape == (7, 6, 3, 3)
    assert call(deform_ps_roi_pool, SENSITIVE).shape == (7, 6, 2, 3)


def as_list(boxes: torch.Tensor) -> list[torch.Tensor]:
    return [boxes[:3, 1:], boxes[3:, 1:]]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(input=lambda t: t[0]), ValueError, ["input", "(6, 9, 12)", "4 dimensions"]),
        (dict(input=lambda t: t[:, :0]), ValueError, ["input", "(2, 0, 9, 12)", "at least one channel"]),
        (dict(input=lambda t: t[..., :0]), ValueError, ["input", "(2, 6, 9, 0)", "one pixel"]),
        (dict(input=lambda t: t[:0]), ValueError, ["boxes", "(7, 5)", "no images"]),
        (dict(boxes=lambda t: t[:, 1:]), ValueError, ["boxes", "(7, 4)", "(R, 5)"]),
        (dict(boxes=lambda t: t[0]), ValueError, ["boxes", "(5,)", "(R, 5)"]),
        (dict(boxes=lambda t: [t, t]), ValueError, ["boxes[0]", "(7, 5)", "(R_i, 4)"]),
        (dict(boxes=lambda t: [t[0, 1:]]), ValueError, ["boxes[0]", "(4,)", "(R_i, 4)"]),
        (dict(boxes=lambda t: [*as_list(t), t[:0, 1:]]), ValueError, ["list of 3", "at most 2"]),
        (dict(boxes=lambda t: [t[:3, 1:], [1.0]]), TypeError, ["boxes[1]", "list", "Tensor"]),
        (dict(boxes=lambda t: [t[:3, 1:], t[3:, 1:].to("meta")]), ValueError, ["boxes[1]", "meta", "cpu"]),
        (dict(boxes="all"), TypeError, ["boxes", "str", "Tensor"]),
        (dict(boxes=lambda t: t.double()), TypeError, ["boxes", "float64", "float32"]),
        (dict(boxes=lambda t: t.long()), TypeError, ["boxes", "int64", "float32"]),
        (dict(boxes=lambda t: t.to("meta")), ValueError, ["boxes", "meta", "cpu"]),
        (dict(boxes=lambda t: t + 1), ValueError, ["boxes", "image indices", "2.0", "below 2"]),
        (dict(boxes=lambda t: t - 1), ValueError, ["boxes", "image indices", "-1.0", "at least 0"]),
        (dict(boxes=lambda t: t * float("nan")), ValueError, ["boxes", "image indices", "nan"]),
        (dict(offset=lambda t: t[0]), ValueError, ["offset", "(2, 3, 3)", "4 dimensions"]),
        (dict(offset=lambda t: t[:5]), ValueError, ["offset", "(5, 2, 3, 3)", "(7, 2, 3, 3)"]),
        (dict(offset=lambda t: t[:, :1]), ValueError, ["offset", "(7, 1, 3, 3)", "(7, 2, 3, 3)"]),
        (dict(offset=lambda t: t.repeat(1, 2, 1, 1)), ValueError, ["offset", "(7, 4, 3, 3)", "(7, 2, 3, 3)"]),
        (dict(offset=lambda t: t.half()), TypeError, ["offset", "float16", "float32"]),
        (dict(offset=1.0), TypeError, ["offset", "float", "Tensor or None"]),
        (dict(mask=lambda t: t.unsqueeze(1)), ValueError, ["mask", "(7, 1, 3, 3)", "3 dimensions"]),
        (dict(mask=lambda t: t[:, 1:]), ValueError, ["mask", "(7, 2, 3)", "(7, 3, 3)"]),
        (dict(mask=lambda t: t.double()), TypeError, ["mask", "float64", "float32"]),
        (dict(output_size=0), ValueError, ["output_size", "(0, 0)", "at least 1"]),
        (dict(output_size=2.5), TypeError, ["output_size", "2.5", "whole number"]),
        (dict(output_size=(3, 2)), ValueError, ["offset", "(7, 2, 3, 3)", "(7, 2, 3, 2)"]),
        (dict(spatial_scale="half"), TypeError, ["spatial_scale", "'half'", "a number"]),
        (dict(spatial_scale=float("inf")), ValueError, ["spatial_scale", "inf", "finite"]),
        (dict(gamma=float("nan")), ValueError, ["gamma", "nan", "finite"]),
        (dict(gamma=None), TypeError, ["gamma", "None", "a number"]),
        (dict(sampling_ratio=2.0), TypeError, ["sampling_ratio", "2.0", "whole number"]),
    ],
)
def test_bad_input(changes, error, words):
    assert_refused(lambda: call(deform_roi_pool, CASE, **changes), error, words)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(input=lambda t: t[:, :35]), ValueError, ["input", "(2, 35, 9, 12)", "multiple of 6"]),
        (dict(offset=lambda t: t[:, :5]), ValueError, ["offset", "(7, 5, 2, 3)", "divide the 6 channels"]),
        (dict(offset=lambda t: t[:, :0]), ValueError, ["offset", "(7, 0, 2, 3)", "divide the 6 channels"]),
        (dict(offset=lambda t: t.repeat(1, 4, 1, 1)), ValueError, ["offset", "(7, 24, 2, 3)", "6 channels"]),
        (dict(offset=lambda t: t[:3]), ValueError, ["offset", "(3, 6, 2, 3)", "(7, 6, 2, 3)"]),
        (dict(boxes=lambda t: t[:, 1:]), ValueError, ["boxes", "(7, 4)", "(R, 5)"]),
    ],
)
def test_bad_position_sensitive_input(changes, error, words):
    assert_refused(lambda: call(deform_ps_roi_pool, SENSITIVE, **changes), error, words)


def test_half_input_takes_half_or_float32_positions():
    half = {name: t.to(torch.bfloat16) for name, t in CASE.tensors(torch.float32).items()}
    assert deform_roi_pool(**half, output_size=3).dtype == torch.bfloat16
    half["boxes"] = half["boxes"].float()
    assert deform_roi_pool(**half, output_size=3).dtype == torch.bfloat16
    half["boxes"] = half["boxes"].double()
    with pytest.raises(TypeError, match="boxes is of type torch.float64"):
        deform_roi_pool(**half, output_size=3)


def test_no_boxes_at_all():
    assert deform_roi_pool(torch.ones(0, 3, 4, 4), [], 2).shape == (0, 3, 2, 2)
    assert deform_roi_pool(torch.ones(2, 3, 4, 4), [], 2).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("changed", ["offset", "mask"])
def test_torchvision_says_what_it_has_not(changed):
    tensors = CASE.tensors(torch.float32)
    tensors["mask" if changed == "offset" else "offset"] = None
    with use_backend("torchvision"), pytest.raises(RuntimeError, match="pools without offset and mask only"):
        deform_roi_pool(**tensors, output_size=3)
