"""The CUDA kernels of RoI pooling on an emulated grid: the real bodies and host side, on the CPU."""

import pytest
import torch

from . import roi_oracles
from .roi_cases import AWKWARD, PLAIN, RoICase
from .test_deform_roi_pool import check

pytestmark = pytest.mark.usefixtures("emulated")

@pytest.mark.parametrize("name", AWKWARD)
def test_values_and_gradients(emulated, order, name):
    check(roi_oracles.dense, emulated.name, AWKWARD[name], AWKWARD[name].tensors(torch.float32), torch.float32)
