"""The style that all commands share: help with examples, one sentence for an error, exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcn_backbones import convert, detect, predict
from dcn_backbones.analysis import __main__ as analysis
from dcn_backbones.command import UsageError, exit_status, run_command
from dcn_backbones.export import __main__ as export

ROOT = Path(__file__).parents[1]
PHOTOGRAPH = str(ROOT / "hub" / "space" / "chelsea.png")
COMMANDS = {
    "python -m dcn_backbones.analysis": analysis.main,
    "python -m dcn_backbones.convert": convert.main,
    "python -m dcn_backbones.detect": detect.main,
    "python -m dcn_backbones.export": export.main,
    "python -m dcn_backbones.predict": predict.main,
}


@pytest.mark.parametrize("call", COMMANDS)
def test_help_has_examples(call, capsys):
    with pytest.raises(SystemExit) as end:
        COMMANDS[call](["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "Exit status: 0 " in shown
    examples = [line for line in shown.splitlines() if line.strip().startswith(f"{call} ")]
    assert len(examples) >= 3


@pytest.mark.parametrize("call", COMMANDS)
def test_wrong_arguments_are_one_sentence(call, capsys):
    with pytest.raises(SystemExit) as end:
        COMMANDS[call](["--nonsense"])
    shown = capsys.readouterr()
    assert end.value.code == 2 and not shown.out
    assert shown.err.startswith("error: ") and shown.err.endswith(f"({call} --help shows examples)\n")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nonsense"], "error: unrecognized arguments: --nonsense (python hub/space/app.py --help shows"),
        (["--port", "65536"], "error: argument --port: '65536' is not a port; expected 1 to 65535"),
        (["--model", "dcnv9_resnet18"], "error: unknown model 'dcnv9_resnet18'"),
    ],
)
def test_the_page_is_called_in_the_same_way(arguments, sentence):
    pytest.importorskip("gradio", reason="needs the extra `space`")
    command = [sys.executable, "-W", "ignore", "hub/space/app.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith(sentence) and run.stderr.count("\n") == 1


def test_what_takes_long_shows_how_far_it_is(terminal, tmp_path):
    folder, file = str(tmp_path / "ours"), str(tmp_path / "ours.pt2")
    with terminal as screen:
        assert convert.main(["dcnv2_resnet18", folder]) == 0
        assert export.main([f"local-dir:{folder}", "--output", file]) == 0
        assert predict.main([PHOTOGRAPH, PHOTOGRAPH, "--model", f"local-dir:{folder}"]) == 0
    for step in (f"writing {folder}:  50%", f"writing {file}:  50%", "looking: 100%"):
        assert step in screen.getvalue()


def fail(error: Exception):
    raise error


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        (lambda: None, 0, ""),
        (lambda: True, 0, ""),
        (lambda: False, 1, ""),
        (lambda: fail(UsageError("not so")), 2, "error: not so\n"),
        (lambda: fail(ValueError("damaged")), 1, "error: damaged\n"),
        (lambda: fail(FileNotFoundError("gone")), 1, "error: gone\n"),
        (lambda: fail(ImportError("needs onnx")), 1, "error: needs onnx\n"),
    ],
)
def test_how_a_command_ends(command, status, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        run_command(command)
    assert end.value.code == status
    assert capsys.readouterr().err == sentence


def test_a_command_of_nothing_but_named_input_says_that_it_was_called_wrongly():
    assert exit_status(lambda: fail(ValueError("damaged")), error=2) == 2


def test_a_mistake_in_the_code_is_no_sentence():
    with pytest.raises(TypeError):
        exit_status(lambda: fail(TypeError("a mistake")))
