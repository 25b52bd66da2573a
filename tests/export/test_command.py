"""The command: what it writes, checks and refuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

from dcn_backbones.export import __main__ as command

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")

PHOTOGRAPH = str(Path(skimage.__file__).parent / "data" / "chelsea.png")
MODEL = "dcnv2_resnet18"


def test_an_exported_file_is_checked_on_photographs(tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert command.main([MODEL, "--output", str(path), "--check", PHOTOGRAPH]) == 0
    wrote, checked = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {path}"
    assert re.fullmatch(rf"  pass  differs by \d\.\de-0[5-9], at most 0\.0001  {PHOTOGRAPH}", checked)


@pytest.mark.parametrize("distance", [2e-4, float("nan")])
def test_a_file_that_computes_something_else_fails(distance, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "difference", lambda *_: distance)
    path = tmp_path / "model.pt2"
    assert command.main([MODEL, "--output", str(path), "--check", PHOTOGRAPH]) == 1
    assert f"  FAIL  differs by {distance:.1e}, at most 0.0001" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output", "model.onnx", "--opset", "18"], "ONNX has DeformConv from opset 19 on"),
        (["--output", "model.pb"], r"model\.pb does not end in a known suffix"),
        (["--output", "absent/model.onnx"], "absent is not a folder"),
        (["--output", "model.onnx", "--check", "absent.jpg"], "absent.jpg is not a file"),
        (
            ["--output", "model.onnx", "--check", PHOTOGRAPH, "--provider", "AbsentProvider"],
            "this ONNX Runtime has no AbsentProvider; expected one of its own: ",
        ),
    ],
)
def test_errors_are_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(command, "load_model", None)  # they come before anything is loaded
    assert command.main([MODEL, *arguments]) == 2
    errors = capsys.readouterr().err
    assert re.match(f"error: .*{message}", errors) and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--output"),
        (["--output", "m.onnx", "--size", "0"], "'0' is not a size"),
        (["--output", "m.onnx", "--size", "64,a", "--fixed"], "'64,a' is not a size"),
        (["--output", "m.onnx", "--size", "64"], "--size sets the one size of --fixed"),
        (
            ["--output", "m.xml", "--provider", "X", "--check", PHOTOGRAPH],
            "--provider says what checks an .onnx",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        command.main([MODEL, *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_as_a_command_without_a_traceback():
    arguments = [sys.executable, "-m", "dcn_backbones.export", "dcnv9_resnet18", "--output", "model.onnx"]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("error: unknown model 'dcnv9_resnet18'")
    assert len(result.stderr.splitlines()) == 1
