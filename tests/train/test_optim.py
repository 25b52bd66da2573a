import pytest
import timm
import torch
from torch import nn

import dcn_backbones  # noqa: F401  (registers the models)
from dcn_backbones.layers import DeformRoIPool, ModulatedDeformConv2d, ModulatedDeformRoIPool
from train.optim import create_optimizer, create_scheduler, load_optimizer_state, parameter_groups
from train.recipe import Recipe


@pytest.fixture(scope="module")
def model():
    return timm.create_model("dcnv2_resnet18", num_classes=3)


def test_every_parameter_is_in_exactly_one_group(model):
    groups = parameter_groups(model, Recipe(weight_decay=0.1, offset_lr_scale=0.1))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_offset_parameters_are_scaled_and_vectors_do_not_decay(model):
    group_of = {
        id(parameter): group
        for group in parameter_groups(model, Recipe(weight_decay=0.1, offset_lr_scale=0.25))
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        assert group["lr_scale"] == (0.25 if "conv_offset" in name else 1.0), name
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_pooling_branches_have_the_learning_rates_of_their_papers():
    layers = nn.ModuleDict(
        dict(
            conv=ModulatedDeformConv2d(2, 2, 3),
            pool=DeformRoIPool(2, 3),
            modulated=ModulatedDeformRoIPool(2, 3, hidden_channels=(4,)),
            head=nn.Linear(2, 2),
        )
    )
    recipe = Recipe(lr=1.0, weight_decay=0.1, offset_weight_decay=0.0, offset_lr_scale=0.25)
    groups = create_optimizer(layers, recipe).param_groups
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    scales = {"conv.conv_offset": 0.25, "pool.offset_fc": 0.01, "modulated.offset_fc": 1.0}
    for name, parameter in layers.named_parameters():
        branch = next((branch for branch in scales if name.startswith(branch)), None)
        assert group_of[id(parameter)]["lr_scale"] == scales.get(branch, 1.0), name
        decays = branch is None and parameter.ndim > 1
        assert group_of[id(parameter)]["weight_decay"] == (0.1 if decays else 0.0), name


def trained_outputs(layer: nn.Module, recipe: Recipe, image: torch.Tensor) -> torch.Tensor:
    """What a layer computes after three steps."""
    optimizer = create_optimizer(layer, recipe)
    scheduler = create_scheduler(optimizer, recipe, steps_per_epoch=3)
    for step in range(3):
        scheduler.step_update(step)
        optimizer.zero_grad()
        (layer(image) - 1).square().mean().backward()
        optimizer.step()
    return layer(image).detach()


def test_scale_of_4_lets_doubled_weights_move_as_plain_ones():
    conv = nn.Conv2d(3, 4, 3, bias=False).double()
    image = torch.randn(2, 3, 6, 6, dtype=torch.double)
    settings = dict(lr=0.2, weight_decay=0.1, momentum=0.9, offset_lr_scale=0.0, epochs=1)

    def deformed(scale: float) -> torch.Tensor:
        layer = ModulatedDeformConv2d.from_conv2d(conv)
        return trained_outputs(layer, Recipe(**settings, modulated_lr_scale=scale), image)

    results = deformed(4.0), deformed(1.0)
    plain = trained_outputs(conv, Recipe(**settings), image)
    assert torch.allclose(results[0], plain, rtol=1e-9)
    assert not torch.allclose(results[1], plain, rtol=1e-2)


def test_offsets_decay_by_their_own_setting(model):
    recipe = Recipe(weight_decay=0.1, offset_weight_decay=0.0, lr=1.0)
    optimizer = create_optimizer(model, recipe)
    decay_of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    layer = model.layer4[1].conv2
    assert decay_of[id(layer.conv_offset.weight)] == 0.0 and decay_of[id(layer.weight)] == 0.1
    other = create_optimizer(model, Recipe(weight_decay=0.1, offset_weight_decay=0.02))
    assert {group["weight_decay"] for group in other.param_groups} == {0.0, 0.02, 0.1}


def test_loaded_state_keeps_counters_and_takes_the_recipes_settings(model):
    trained = create_optimizer(model, Recipe(opt="lamb", weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    trained.step()
    recipe = Recipe(opt="lamb", weight_decay=0.3)
    resumed = create_optimizer(model, recipe)
    load_optimizer_state(resumed, trained.state_dict(), recipe)
    assert [int(group["step"]) for group in resumed.param_groups] == [1] * len(resumed.param_groups)
    assert {group["weight_decay"] for group in resumed.param_groups} == {0.0, 0.3}
    first = next(iter(model.parameters()))
    assert torch.equal(resumed.state[first]["exp_avg"], trained.state[first]["exp_avg"])


def test_frozen_parameters_are_left_out():
    model = timm.create_model("test_resnet", num_classes=3)
    model.conv1.requires_grad_(False)
    groups = parameter_groups(model, Recipe(weight_decay=0.1, offset_lr_scale=0.1))
    frozen = {id(parameter) for parameter in model.conv1.parameters()}
    assert frozen.isdisjoint(id(parameter) for group in groups for parameter in group["params"])


def test_schedule_warms_up_decays_and_keeps_the_offset_scale(model):
    recipe = Recipe(lr=0.2, min_lr=0.02, warmup_lr=0.01, warmup_epochs=1, epochs=4, offset_lr_scale=0.1)
    optimizer = create_optimizer(model, recipe)
    scheduler = create_scheduler(optimizer, recipe, steps_per_epoch=10)

    def rates(step: int) -> tuple[float, float]:
        scheduler.step_update(step)
        scaled = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
        return scaled[1.0], scaled[0.1]

    assert rates(0) == pytest.approx((0.01, 0.001))
    assert rates(20)[0] > rates(30)[0] > rates(39)[0]
    assert rates(40) == pytest.approx((0.02, 0.002))
