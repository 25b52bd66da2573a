"""`torch.export`: the same numbers for any batch and size, also from a file in another process."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from dcn_backbones.export import difference, export_file, exported_program

LOAD = """
import torch
import dcn_backbones
program = torch.export.load({path!r}, extra_files=(extra := {{"preprocessing": ""}}))
print(extra["preprocessing"])
torch.save(program.module()(torch.load({images!r})), {output!r})
"""


@pytest.mark.parametrize("name", ["dcnv1_resnet18", "dcnv2_resnet50"])
def test_any_batch_and_size(name, network, image_batches):
    program = exported_program(network(name), image_size=64)
    assert difference(program.module(), network(name), image_batches[:2]) <= 1e-6


def test_a_file_in_another_process(small_network, photographs, tmp_path):
    model = small_network
    path, images, output = (tmp_path / name for name in ("model.pt2", "images.pt", "logits.pt"))
    export_file(model, path)
    torch.save(photographs, images)
    code = LOAD.format(path=str(path), images=str(images), output=str(output))
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0 and '"crop_pct": 1.0' in result.stdout, result.stderr
    torch.testing.assert_close(torch.load(output), model(photographs).detach(), rtol=0, atol=1e-5)


def test_fixed_takes_one_size_only(small_network, photographs):
    program = exported_program(small_network, image_size=(64, 48), dynamic=False).module()
    assert program(photographs[:1, :, :, :48]).shape == (1, 100)
    with pytest.raises(AssertionError, match="Guard failed"):
        program(photographs)


def test_grey_images():
    model = timm.create_model("dcnv2_resnet18", in_chans=1).eval()
    assert exported_program(model, image_size=64).module()(torch.zeros(3, 1, 40, 40)).shape == (3, 100)


@pytest.mark.parametrize(
    "training, size, message", [(True, 64, "training mode"), (False, 32, "at least 33 px")]
)
def test_what_cannot_be_captured_is_refused(training, size, message):
    with pytest.raises(ValueError, match=message):
        exported_program(timm.create_model("dcnv2_resnet18").train(training), image_size=size)
