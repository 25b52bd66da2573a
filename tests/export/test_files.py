"""Files: which formats, whole or not at all."""

import os

import pytest
import torch

from dcn_backbones.export import FORMATS, difference, export_file, load_exported
from dcn_backbones.export import files as export_files

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_can_be_loaded(suffix, small_network, image_batches, tmp_path):
    if suffix == ".xml":
        pytest.importorskip("openvino", reason="needs the extra `export`")
    path = tmp_path / f"model{suffix}"
    export_file(small_network, path)
    expected = {path.name, "model.bin"} if suffix == ".xml" else {path.name}
    assert {file.name for file in tmp_path.iterdir()} == expected
    assert difference(load_exported(path), small_network, image_batches[:2]) <= 1e-5


def test_an_interrupted_export_leaves_what_was_there(small_network, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_text("before")

    def interrupted(program, file, **options):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_file(small_network, path)
    assert path.read_text() == "before" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("model.pb", ValueError, r"expected one of \.onnx \(ONNX\), \.xml \(OpenVINO\), \.pt2"),
        ("absent/model.onnx", FileNotFoundError, "absent is not a folder"),
    ],
)
def test_a_bad_path_is_refused_first(name, error, message, small_network, tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "onnx_model", None)
    with pytest.raises(error, match=message):
        export_file(small_network, tmp_path / name)
