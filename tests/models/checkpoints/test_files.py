"""Reading checkpoint files without running what is in them."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dcn_backbones.models.checkpoints import read_checkpoint
from dcn_backbones.models.checkpoints.files import write_torch

STATE = {"layer1.0.conv1.weight": torch.arange(6.0).view(2, 3)}

# As mmdetection writes its configuration into `meta`: versions 1 and 2 as `config`, version 3 as `cfg`.
CONFIG = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=False), style='caffe'),
    bbox_head=dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]))
img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
train_pipeline = [dict(type='Normalize', mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)]
"""
CFG_3 = """
model = dict(
    data_preprocessor=dict(bgr_to_rgb=True, mean=[123.675, 116.28, 103.53,], std=[58.395, 57.12, 57.375,]),
    backbone=dict(depth=101, style='pytorch', type='ResNet'))
"""


def assert_is_the_state(state) -> None:
    assert list(state) == list(STATE)
    np.testing.assert_array_equal(next(iter(state.values())), next(iter(STATE.values())).numpy())


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "meta": {"epoch": 12, "CLASSES": ("person",)}},
        {"model": STATE, "iteration": 1},
    ],
    ids=["bare", "mmdetection, timm", "detectron2"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as mmdetection publishes"])
def test_torch_files(content, zipped, tmp_path):
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert_is_the_state(checkpoint.state)
    assert checkpoint.style is checkpoint.input_order is checkpoint.pixel_mean is None


def test_safetensors_and_numpy_arrays(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{key: value.numpy() for key, value in STATE.items()})
    for name in ("x.safetensors", "x.npz"):
        assert_is_the_state(read_checkpoint(tmp_path / name).state)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"config": CONFIG}, ("caffe", "bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))),
        ({"cfg": CFG_3}, ("pytorch", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))),
        ({"config": "a = dict(style='caffe')\nb = dict(style='pytorch')"}, (None, None, None, None)),
        ({"config": "a = dict(mean=[1, 2, 3])"}, (None, None, None, None)),
    ],
    ids=["2", "3", "two styles", "half a normalisation"],
)
def test_the_configuration_in_a_file_of_mmdetection(meta, expected, tmp_path):
    torch.save({"state_dict": STATE, "meta": meta}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    found = checkpoint.style, checkpoint.input_order, checkpoint.pixel_mean, checkpoint.pixel_std
    assert found == expected


class Trap:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


def write_npz_of_objects(path, trap) -> None:
    np.savez(path, x=np.array([trap], dtype=object))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.pth", lambda path, trap: torch.save({"state_dict": STATE, "optimizer": trap}, path)),
        ("x.pkl", lambda path, trap: path.write_bytes(pickle.dumps({"model": trap}))),
        ("x.npz", write_npz_of_objects),
    ],
)
def test_no_code_of_a_file_runs(name, write, tmp_path):
    write(tmp_path / name, Trap(tmp_path / "sprung"))
    with warnings.catch_warnings(), pytest.raises(ValueError) as error:
        warnings.simplefilter("error")
        read_checkpoint(tmp_path / name)
    assert f"{name} cannot be read as tensors alone" in str(error.value)
    assert not (tmp_path / "sprung").exists()
    assert "weights_only" not in str(error.value)  # torch advises to switch it off


@pytest.mark.parametrize("name", ["x.pth", "x.npz", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off", b"\x80\x02M"])
def test_damaged_files_are_one_sentence(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_checkpoint(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_a_state_dict(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="an object of type list instead of a state dict"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["absent.pth", "absent.npz", "absent.safetensors"])
def test_a_file_that_is_not_there(name, tmp_path):
    with pytest.raises(OSError, match=name):
        read_checkpoint(tmp_path / name)


def test_what_is_written_leaves_the_files_beside_it_alone(tmp_path):
    (tmp_path / "x.pth.tmp").write_text("the user's")
    write_torch(STATE, tmp_path / "x.pth")
    assert_is_the_state(read_checkpoint(tmp_path / "x.pth").state)
    assert (tmp_path / "x.pth.tmp").read_text() == "the user's"
    with pytest.raises(AttributeError):
        write_torch({"x": lambda: None}, tmp_path / "unwritable.pth")
    assert {file.name for file in tmp_path.iterdir()} == {"x.pth", "x.pth.tmp"}
