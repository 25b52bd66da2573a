"""The effective receptive field: how much each pixel of the input moves a node.

Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016,
as Zhu et al., "Deformable ConvNets v2", 2019, section 2.1, use it.
"""

import torch
from torch import Tensor, nn

from .node import Node
from .running import check_images, evaluating


def effective_receptive_field(model: nn.Module, images: Tensor, node: Node, random_inputs: int = 0) -> Tensor:
    """The size of the gradient of a node's response with respect to each pixel.

    For one image it shows what this image lets through; averaged over many images or random inputs, what the
    network itself looks at.

    Args:
        model: Any network, on any device; it runs in evaluation mode and is left as it was.
        images: ``(N, C, H, W)``, on the model's device; the result is averaged over them.
        node: What is looked at; of its response, the mean of the vector.
        random_inputs: Instead of the images, the number of inputs of their size to draw from the standard
            normal distribution, with PyTorch's own generator.

    Returns:
        ``(H, W)``, not negative, in the input's type: the mean over input channels (and images) of the
        gradient's absolute value, in units of the response for each unit of the normalised input.

    Raises:
        ValueError: When ``images`` has another shape, or the node is not in the model.
    """
    check_images(images)
    if random_inputs:
        inputs = (torch.randn_like(images[:1]) for _ in range(random_inputs))
    else:
        inputs = images.split(1)
    total, count = torch.zeros_like(images[0, 0]), random_inputs or len(images)
    for image in inputs:  # one by one: the graph of a batch would be a batch's times as large
        total += input_gradient(model, image, node).abs().mean(0)
    return total / count


def input_gradient(model: nn.Module, image: Tensor, node: Node) -> Tensor:
    """The gradient of the mean of a node's response to an image, ``(1, C, H, W)``: ``(C, H, W)``."""
    image = image.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        return torch.autograd.grad(node.responses(model, image).mean(), image)[0][0]
