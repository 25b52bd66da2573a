"""Bad input: one sentence naming the argument, what it has and what it should have."""

import pytest
import torch

from dcn_backbones.ops import deform_conv2d

from .cases import Case
from .compare import assert_refused

CASE = Case(channels=8, out_channels=6, groups=2, offset_groups=2, size=(5, 7))


def call(**changes):
    tensors = CASE.tensors(torch.float32)
    settings = CASE.settings
    for name, change in changes.items():
        target = tensors if name in tensors else settings
        target[name] = change(target[name]) if callable(change) else change
    return deform_conv2d(**tensors, **settings)


def test_the_unchanged_call_is_fine():
    assert call().shape == (2, 6, 5, 7)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (dict(input=lambda t: t[0]), ValueError, ["input", "(8, 5, 7)", "4 dimensions"]),
        (dict(offset=lambda t: t[0]), ValueError, ["offset", "(36, 5, 7)", "4 dimensions"]),
        (dict(weight=lambda t: t[0]), ValueError, ["weight", "(4, 3, 3)", "4 dimensions"]),
        (dict(mask=lambda t: t[0]), ValueError, ["mask", "(18, 5, 7)", "4 dimensions"]),
        (dict(input=lambda t: t[:, :7]), ValueError, ["input", "(2, 7, 5, 7)", "multiple of 4"]),
        (dict(input=lambda t: t[:, :0]), ValueError, ["input", "(2, 0, 5, 7)", "multiple of 4"]),
        (dict(weight=lambda t: t[:5]), ValueError, ["weight", "(5, 4, 3, 3)", "multiple of 2"]),
        (dict(weight=lambda t: t[:, :0]), ValueError, ["weight", "(6, 0, 3, 3)", "size 0"]),
        (dict(bias=lambda t: t[:5]), ValueError, ["bias", "(5,)", "(6,)"]),
        (dict(offset=lambda t: t[:, :35]), ValueError, ["offset", "(2, 35, 5, 7)", "multiple of 18"]),
        (dict(offset=lambda t: t[:, :0]), ValueError, ["offset", "(2, 0, 5, 7)", "multiple of 18"]),
        (
            dict(offset=lambda t: t.repeat(1, 3, 1, 1)),
            ValueError,
            ["offset", "(2, 108, 5, 7)", "6 offset groups", "divides the 8 channels"],
        ),
        (dict(offset=lambda t: t[:1]), ValueError, ["offset", "(1, 36, 5, 7)", "(2, 36, 5, 7)"]),
        (dict(offset=lambda t: t[..., 1:]), ValueError, ["offset", "(2, 36, 5, 6)", "(2, 36, 5, 7)"]),
        (dict(mask=lambda t: t[:, :9]), ValueError, ["mask", "(2, 9, 5, 7)", "(2, 18, 5, 7)"]),
        (dict(mask=lambda t: t[:, :, 1:]), ValueError, ["mask", "(2, 18, 4, 7)", "(2, 18, 5, 7)"]),
        (dict(dilation=9), ValueError, ["input", "(2, 8, 5, 7)", "at least 1 x 1"]),
        (dict(stride=0), ValueError, ["stride", "(0, 0)", "at least 1"]),
        (dict(padding=(1, -1)), ValueError, ["padding", "(1, -1)", "at least 0"]),
        (dict(dilation=(1, 1, 1)), ValueError, ["dilation", "3 numbers", "pair"]),
        (dict(stride="x1"), TypeError, ["stride", "'x1'", "whole number"]),
        (dict(stride=1.5), TypeError, ["stride", "1.5", "whole number"]),
        (dict(input=[[1.0]]), TypeError, ["input", "list", "Tensor"]),
        (dict(mask=0.5), TypeError, ["mask", "float", "Tensor or None"]),
        (dict(input=lambda t: t.long()), TypeError, ["input", "int64", "float type"]),
        (dict(weight=lambda t: t.double()), TypeError, ["weight", "float64", "float32"]),
        (dict(bias=lambda t: t.half()), TypeError, ["bias", "float16", "float32"]),
        (dict(offset=lambda t: t.half()), TypeError, ["offset", "float16", "float32"]),
        (dict(mask=lambda t: t.long()), TypeError, ["mask", "int64", "float32"]),
        (dict(offset=lambda t: t.to("meta")), ValueError, ["offset", "meta", "cpu"]),
        (dict(weight=lambda t: t.to("meta")), ValueError, ["weight", "meta", "cpu"]),
    ],
)
def test_bad_input(changes, error, words):
    assert_refused(lambda: call(**changes), error, words)


def test_half_input_takes_half_or_float32_positions():
    half = {name: t.to(torch.bfloat16) for name, t in CASE.tensors(torch.float32).items()}
    assert deform_conv2d(**half, **CASE.settings).dtype == torch.bfloat16
    half["offset"] = half["offset"].float()
    assert deform_conv2d(**half, **CASE.settings).dtype == torch.bfloat16
    half["mask"] = half["mask"].double()
    with pytest.raises(TypeError, match="mask is of type torch.float64"):
        deform_conv2d(**half, **CASE.settings)
