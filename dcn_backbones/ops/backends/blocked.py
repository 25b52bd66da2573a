"""Deformable convolution block by block, for backends that bring two kernels: gather and its backward.

The columns of the whole batch would take K times the memory of the input. They are formed for a block of
output positions at a time, in a workspace of fixed size, and multiplied by torch's own matrix products, so
that TF32 follows torch's flags. Nothing here waits for the device or decides by what is in its memory: a
call can be captured in a CUDA graph.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from .base import Backend, Gradients
from .blocks import GradientBuffers, Operands, channels_first, channels_last, cut, prepare


class BlockedBackend(Backend):
    """The products and the blocks; a subclass gathers.

    Tensors that a kernel is given are dense, row-major and on one device. G offset groups, K taps,
    `first` and `rows` count output positions of the batch, flattened (image, y, x). "Accumulate" is
    float64 beside a float64 input and float32 beside all others.

    | tensor | shape | type |
    |---|---|---|
    | input | (N, H, W, C_in) | any |
    | offset, gradients.offset | (N, H_out, W_out, 2 * G * K), channels `[group][tap][y, x]` | accumulate |
    | mask, gradients.mask | (N, H_out, W_out, G * K), channels `[group][tap]` | accumulate |
    | columns, grad_columns | (groups, rows, K, C_in / groups), groups of the weight | input's |
    | gradients.input | (images, H, W, C_in), beginning with the image of position `first` | accumulate |
    """

    workspace_bytes: ClassVar[int] = 48 * 2**20
    """For columns, their gradient and the sums of grad_input; at least one position's, one image's sums."""

    overwrites_grad_columns: ClassVar[bool] = False
    """Whether `gather_backward` takes the memory of `grad_columns` as `columns` too, which spares one of the
    two largest buffers: it must be done with an element of the one when it writes that of the other."""

    @abstractmethod
    def gather(self, operands: Operands, first: int, columns: Tensor) -> None:
        """Fill `columns` with the samples of its rows: bilinear values times the mask."""

    @abstractmethod
    def gather_backward(
        self,
        operands: Operands,
        first: int,
        grad_columns: Tensor,
        columns: Tensor | None,
        gradients: GradientBuffers,
    ) -> None:
        """Form what is not None: `columns` anew, the rows of `gradients.offset` and `.mask`, `.input`.

        All are overwritten but `gradients.input`, which is added to, atomically. With a `.scale` (no
        dimensions, accumulate type) it holds 64-bit integers, which `fixed_point` explains.
        """

    def deform_conv2d_forward(self, input, offset, weight, bias, mask, stride, padding, dilation) -> Tensor:
        operands = prepare(input, offset, weight, mask, stride, padding, dilation)
        output = input.new_empty(operands.batch, *operands.geometry.output_size, operands.out_channels)
        self._fill_output(operands, bias, output)
        return channels_first(output)

    def _fill_output(self, operands: Operands, bias: Tensor | None, output: Tensor) -> None:
        weight = operands.weight.transpose(1, 2)  # (groups, K * C_in / groups, C_out / groups)
        output_rows = output.flatten(0, 2)
        rows = self._rows(operands)
        buffer = operands.columns_buffer(rows)
        for images in cut(operands, rows):
            for first, rows in images.blocks:
                columns = operands.columns(buffer, rows)
                self.gather(operands, first, columns)
                _multiply(
                    columns.flatten(2), weight, operands.by_group(output_rows[first : first + rows]), bias
                )

    def deform_conv2d_backward(
        self, grad_output, input, offset, weight, mask, stride, padding, dilation, needs
    ) -> Gradients:
        operands = prepare(input, offset, weight, mask, stride, padding, dilation)
        grad_output = channels_last(grad_output).flatten(0, 2)  # (N * H_out * W_out, C_out)
        gradients = GradientBuffers(operands, grad_output, needs)
        rows = self._rows(operands, gradients.bytes_per_position)
        gradients.allocate_columns(rows, shared=self.overwrites_grad_columns)
        for images in cut(operands, rows):
            gradients.begin(images)
            for first, rows in images.blocks:
                self._backward_block(operands, grad_output[first : first + rows], first, gradients)
            gradients.end(images)
        return gradients.results()

    def _backward_block(
        self, operands: Operands, grad_output: Tensor, first: int, gradients: GradientBuffers
    ) -> None:
        grad_output = operands.by_group(grad_output)
        columns, grad_columns = gradients.columns(grad_output.shape[1])
        if grad_columns is not None:
            _multiply(grad_output, operands.weight, grad_columns.flatten(2))
            self.gather_backward(operands, first, grad_columns, columns, gradients)
        elif columns is not None:
            self.gather(operands, first, columns)
        if columns is not None:
            gradients.add_to_weight(grad_output.transpose(1, 2), columns.flatten(2))

    def _rows(self, operands: Operands, bytes_per_position: int = 0) -> int:
        """Rows of a block. A backward that cannot overwrite the gradient of columns holds both."""
        held = 1 if self.overwrites_grad_columns else 2
        columns = held * operands.column_length * operands.input.element_size()
        return max(1, self.workspace_bytes // (columns + bytes_per_position))


def _multiply(left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """out = left x right + bias, each (groups, ., .); the bias has a number for each column of all groups."""
    if len(out) == 1:
        if bias is None:
            torch.mm(left[0], right[0], out=out[0])
        else:
            torch.addmm(bias, left[0], right[0], out=out[0])
    elif bias is None:
        torch.bmm(left, right, out=out)
    else:
        torch.baddbmm(bias.view(len(out), 1, -1), left, right, out=out)
