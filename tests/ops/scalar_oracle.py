"""Deformable convolution one number at a time, written from the papers' equations.

Equation 2 of the DCNv1 paper (equation 1 of the DCNv2 paper with the mask), the sampling by its
equations 3 and 4: a sum over *all* pixels q with G(q, p) = g(q_y, p_y) g(q_x, p_x) and
g(a, b) = max(0, 1 - |a - b|). Nothing here is shared with the package.
"""

import torch
from torch import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    batch, channels = input.shape[:2]
    out_channels, channels_per_group, kernel_height, kernel_width = weight.shape
    taps = kernel_height * kernel_width
    offset_groups = offset.shape[1] // (2 * taps)
    out_per_group = out_channels // (channels // channels_per_group)
    output = torch.zeros(batch, out_channels, *offset.shape[2:], dtype=torch.float64)
    for n, o, y0, x0 in indices(output.shape):
        total = 0.0 if bias is None else float(bias[o])
        for c, i, j in indices((channels_per_group, kernel_height, kernel_width)):
            channel = (o // out_per_group) * channels_per_group + c
            group = channel // (channels // offset_groups)
            tap = group * taps + i * kernel_width + j
            p_y = y0 * stride[0] - padding[0] + i * dilation[0] + float(offset[n, 2 * tap, y0, x0])
            p_x = x0 * stride[1] - padding[1] + j * dilation[1] + float(offset[n, 2 * tap + 1, y0, x0])
            modulation = 1.0 if mask is None else float(mask[n, tap, y0, x0])
            total += float(weight[o, c, i, j]) * modulation * interpolate(input[n, channel], p_y, p_x)
        output[n, o, y0, x0] = total
    return output


def interpolate(image: Tensor, p_y: float, p_x: float) -> float:
    height, width = image.shape
    weights_y = [max(0.0, 1 - abs(q_y - p_y)) for q_y in range(height)]
    weights_x = [max(0.0, 1 - abs(q_x - p_x)) for q_x in range(width)]
    return sum(
        weights_y[q_y] * weights_x[q_x] * float(image[q_y, q_x])
        for q_y, q_x in indices((height, width))
        if weights_y[q_y] * weights_x[q_x] > 0
    )


def indices(shape):
    return torch.cartesian_prod(*(torch.arange(s) for s in shape)).tolist()
