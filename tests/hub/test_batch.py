"""Several models in one call."""

import pytest

from dcn_backbones.command import UsageError
from hub.batch import for_each
from train.export_weights import trained_model
from train.recipe import Recipe


def test_where_one_fails_the_others_have_their_turn(capsys):
    handled = []

    def handle(name: str) -> None:
        if name == "bad":
            raise OSError("bad is damaged")
        handled.append(name)

    assert not for_each(["one", "bad", "two"], "handling", handle)
    assert handled == ["one", "two"]
    assert capsys.readouterr().err == "error: bad is damaged\n"
    assert for_each(["one", "two"], "handling", handle)


def test_damaged_weights_keep_no_other_model_from_its_turn(capsys, tmp_path):
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        file.write_bytes(b"damaged")
    assert not for_each(files, "exporting", lambda file: trained_model(Recipe(model="test_resnet"), file))
    told = [line.partition(" cannot")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"error: {file}" for file in files]


def test_wrong_usage_concerns_them_all():
    with pytest.raises(UsageError):
        for_each(["one", "two"], "handling", lambda name: (_ for _ in ()).throw(UsageError(name)))


@pytest.mark.parametrize(("names", "shown"), [(["one", "two"], True), (["one"], False)])
def test_several_have_a_bar_on_a_terminal(names, shown, terminal):
    with terminal as screen:
        for_each(names, "handling", lambda name: None)
    assert ("handling: 100%" in screen.getvalue()) == shown
