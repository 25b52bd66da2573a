import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from dcn_backbones.layers import DeformConv2d
from train.checkpoint import AVERAGED_WEIGHTS, WEIGHTS, save_checkpoint
from train.classification import ClassificationLearner
from train.distribution import World
from train.learner import slow_autocast
from train.losses import Criterion
from train.networks import build_model, deformed_model
from train.recipe import Recipe
from train.results import read_log
from train.train import run

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.fixture
def make_learner(deformable_recipe):
    def make(deformable: bool = True, **settings) -> ClassificationLearner:
        torch.manual_seed(0)
        recipe = deformable_recipe(**{"amp": False, "accumulate": 1, **settings})
        return ClassificationLearner(
            build_model(recipe, deformable), Criterion(recipe, CPU), recipe, World(), 10
        )

    return make


def batch(seed: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 32, 32, generator=generator), LABELS.repeat(size // 4)


def test_accumulated_batches_are_one_large_one(make_learner):
    whole, parts = make_learner(freeze_bn=True), make_learner(freeze_bn=True, accumulate=2)
    images, labels = batch(0, size=8)
    for learner in (whole, parts):
        learner.train()
    for number in range(2):
        expected = whole.step([(images, labels)], number)
        found = parts.step(zip(images.chunk(2), labels.chunk(2), strict=True), number)
        torch.testing.assert_close(found, expected)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_rate_is_that_of_no_scaled_parameters(make_learner):
    learner = make_learner(lr=0.1, modulated_lr_scale=4.0, offset_lr_scale=0.0)
    assert max(group["lr"] for group in learner.optimizer.param_groups) == pytest.approx(0.4)
    assert learner.rate == pytest.approx(0.1)


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False), ("SVE256", False)])
def test_half_precision_that_is_slow_is_told(capability, warned, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert ("amp=false is faster" in slow_autocast(Recipe(amp=True))) == warned
    assert not slow_autocast(Recipe(amp=False))


def test_compiled_network_takes_the_same_step(make_learner):
    settings = {"freeze_bn": True, "offset_penalty": 0.1, "offset_clamp": 0.5, "offset_lr_scale": 1.0}
    settings["model_kwargs"] = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "deform_stages": [5]}
    learners = [make_learner(compile=compiled, **settings) for compiled in (False, True)]
    totals = []
    for learner in learners:
        for layer in deformable_layers(learner.model):
            nn.init.normal_(layer.conv_offset.weight, std=0.1, generator=torch.Generator().manual_seed(1))
        learner.train()
        totals.append(learner.step([batch(0)], 0))
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-5, atol=1e-5)
    expected, found = (learner.model.state_dict() for learner in learners)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def deformable_layers(model):
    return [module for module in model.modules() if isinstance(module, DeformConv2d)]


def test_average_is_of_all_weights_so_far(make_learner):
    learner = make_learner(ema_decay=0.75)
    expected = learner.model.fc.weight.detach().clone()
    for number in range(3):
        learner.step([batch(number)], number)
        weight = 0.25 if number else 1.0  # timm's average starts at the weights after the first step
        expected += weight * (learner.model.fc.weight.detach() - expected)
    torch.testing.assert_close(learner.average.module.fc.weight, expected)
    assert not torch.equal(learner.average.module.fc.weight, learner.model.fc.weight)


def test_gradients_are_clipped_to_their_norm(make_learner):
    learner = make_learner(
        clip_grad=1e-3, opt="momentum", momentum=0.0, weight_decay=0.0, lr=1.0, freeze_bn=True
    )
    before = [parameter.detach().clone() for parameter in learner.model.parameters()]
    learner.train()
    learner.step([batch(0)], 0)
    moved = zip(learner.model.parameters(), before, strict=True)
    assert 0 < sum((after - start).square().sum() for after, start in moved) ** 0.5 <= 1.001e-3


@pytest.mark.parametrize("settings", [{"amp_dtype": "bfloat16"}, {"amp_dtype": "float16"}])
def test_half_types_train_and_float16_scales_its_gradients(settings, make_learner):
    learner = make_learner(amp=True, **settings)
    learner.train()
    before = learner.model.fc.weight.detach().clone()
    for number in range(8):  # the scaler skips steps until its scale is small enough
        totals = learner.step([batch(0)], number)
    assert totals.isfinite().all() and totals[2] == 4
    assert learner.scaler.is_enabled() == (settings["amp_dtype"] == "float16")
    assert not torch.equal(learner.model.fc.weight, before)


def test_soft_labels_and_binary_cross_entropy(deformable_recipe):
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    soft = torch.tensor([[0.7, 0.3, 0.0]])
    images = torch.zeros(1, 3, 8, 8)
    cross_entropy = Criterion(deformable_recipe(label_smoothing=0.0), CPU)
    expected = -(soft * logits.log_softmax(1)).sum()
    assert cross_entropy(images, logits, soft).item() == pytest.approx(expected.item())
    assert cross_entropy(images, logits, torch.tensor([1])).item() == pytest.approx(
        -logits.log_softmax(1)[0, 1].item()
    )
    binary = Criterion(deformable_recipe(loss="bce", bce_target_threshold=0.5), CPU)
    expected = -(logits[0, 0].sigmoid().log() + (-logits[0, 1:]).sigmoid().log().sum()) / 3
    assert binary(images, logits, soft).item() == pytest.approx(expected.item())


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(model, str(tmp_path / "teacher"), {"pretrained_cfg": {"mean": (0.5,) * 3, "std": (0.5,) * 3}})
    return model, f"local-dir:{tmp_path / 'teacher'}"


def test_teacher_counts_by_its_weight_temperature_and_own_normalisation(teacher, deformable_recipe):
    model, name = teacher
    images, labels = batch(0)
    logits = torch.randn(4, 3)
    recipe = deformable_recipe(
        teacher=name, teacher_temperature=2.0, teacher_weight=0.25, label_smoothing=0.0
    )
    pixels = images * torch.tensor(recipe.std).view(3, 1, 1) + torch.tensor(recipe.mean).view(3, 1, 1)
    taught = (model((pixels - 0.5) / 0.5) / 2).softmax(1)
    divergence = (taught * (taught.log() - (logits / 2).log_softmax(1))).sum(1).mean()
    expected = 0.75 * nn.functional.cross_entropy(logits, labels) + 0.25 * 4 * divergence
    found = Criterion(recipe, CPU)(images, logits, labels)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_classes": 5}, "has 3 classes, expected 5"),
        ({"teacher": "resnet_of_a_dream"}, "cannot be built"),
    ],
)
def test_teacher_that_does_not_fit_is_refused(settings, sentence, teacher, deformable_recipe):
    with pytest.raises(ValueError, match=sentence):
        Criterion(deformable_recipe(**{"teacher": teacher[1], **settings}), CPU)


def test_deformation_starts_exactly_and_keeps_the_optimizer_state(make_learner):
    plain = make_learner(deformable=False, opt="adamw", ema_decay=0.5)
    for number in range(2):
        plain.step([batch(number)], number)
    deformable = plain.deformed()
    images, _ = batch(5)
    for one, other in ((plain.model, deformable.model), (plain.average.module, deformable.average.module)):
        torch.testing.assert_close(other.eval()(images), one.eval()(images), rtol=1e-4, atol=1e-5)
    state_of = {
        name: deformable.optimizer.state.get(parameter, {})
        for name, parameter in deformable.model.named_parameters()
    }
    assert any("conv_offset" in name for name in state_of)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(state_of[name]["exp_avg"], plain.optimizer.state[parameter]["exp_avg"]), name
    assert not any(state for name, state in state_of.items() if "conv_offset" in name)
    deformable.step([batch(6)], 2)
    assert deformable.model.layer4[1].conv2.conv_offset.weight.abs().max() > 0


def test_counters_in_the_groups_of_an_optimizer_go_on(make_learner):
    plain = make_learner(deformable=False, opt="lamb")
    for number in range(3):
        plain.step([batch(number)], number)
    groups = plain.deformed().optimizer.param_groups
    assert sorted(group.get("step", 0) for group in groups) == [0, 0, 3, 3]
    assert sorted(group["lr_scale"] for group in groups) == [0.1, 0.1, 1.0, 1.0]


def test_run_deforms_from_its_epoch_on(deformable_recipe, tmp_path):
    recipe = deformable_recipe(deform_from_epoch=1, epochs=2, ema_decay=0.5)
    run(recipe, tmp_path / "run")
    plain, deformable = read_log(tmp_path / "run" / "log.jsonl")
    assert "val_offset_mean" not in plain and deformable["val_offset_mean"] > 0
    for name in (WEIGHTS, AVERAGED_WEIGHTS):
        build_model(recipe).load_state_dict(load_file(tmp_path / "run" / name))


def test_plain_start_has_the_deformable_networks_names(deformable_recipe):
    recipe = deformable_recipe(model_kwargs={"channels": [8, 8, 16, 16], "deform_stages": [5]})
    plain = build_model(recipe, deformable=False)
    deformable = deformed_model(plain, recipe)
    added = deformable.state_dict().keys() - plain.state_dict().keys()
    assert added and all(".conv_offset." in name and name.startswith("layer4") for name in added)


@pytest.mark.parametrize("name", [WEIGHTS, AVERAGED_WEIGHTS])
def test_going_on_from_damaged_weights_is_one_sentence(name, make_learner, tmp_path):
    learner = make_learner(ema_decay=0.5)
    checkpoint = tmp_path / "checkpoint-1"
    save_checkpoint(checkpoint, learner.weights(), {})
    (checkpoint / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"{name} cannot be read as tensors alone"):
        learner.load(checkpoint, {})
