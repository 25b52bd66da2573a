"""Several threads that look into one model, as the visitors of a page do."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from PIL import Image
from torch.nn import init

from dcn_backbones.analysis import (
    Point,
    classify,
    effective_receptive_field,
    effective_sampling_locations,
    record_sampling,
    saliency_region,
)

NODE = Point("layer3.1.conv2", 1, 2)
PHOTOGRAPH = Image.new("RGB", (64, 64), (200, 100, 50))


@pytest.fixture(scope="module")
def model():
    model = timm.create_model("dcnv2_resnet18", num_classes=5).eval()
    for name, parameter in model.named_parameters():
        if "conv_offset.weight" in name:
            init.normal_(parameter, std=0.02)
    return model


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda model, image: record_sampling(model, image.flip(-1)),
        lambda model, image: effective_sampling_locations(model, image, NODE),
        lambda model, image: effective_receptive_field(model, image, NODE),
        lambda model, image: saliency_region(model, image, NODE, 0.3),
        lambda model, image: classify(model, PHOTOGRAPH),
    ],
    ids=["record", "effective locations", "receptive field", "saliency", "classify"],
)
def test_what_other_threads_do_with_the_model_is_not_noted(model, image, meanwhile):
    alone = record_sampling(model, image)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(meanwhile, model, image) for _ in range(12)]
        records = list(pool.map(lambda _: record_sampling(model, image), range(24)))
        for other in others:
            other.result()
    for record in records:
        assert [entry.name for entry in record] == [entry.name for entry in alone]
        for entry, expected in zip(record, alone, strict=True):
            torch.testing.assert_close(entry.positions, expected.positions)
