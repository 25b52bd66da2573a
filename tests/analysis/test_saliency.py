"""The saliency region: inside its bound, no smaller one of the search, and where the response comes from."""

import pytest
import timm
import torch

from dcn_backbones.analysis import ClassLogit, Point, saliency_region
from dcn_backbones.analysis.saliency import _smallest_good
from dcn_backbones.layers import ModulatedDeformConv2d

from .conftest import small_network

SIZE = 24


def error_of(network, image, node, mask, fill) -> float:
    """One region at a time, from its definition."""
    with torch.no_grad():
        whole = node.responses(network, image)[0]
        masked = node.responses(network, torch.where(mask, image[0], fill)[None])[0]
    return float((masked - whole).norm() / whole.norm())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return small_network(ModulatedDeformConv2d, SIZE)


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(1)
    return torch.randn(1, 3, SIZE, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("node", [Point("4", 4, 7), Point("2", 8, 3, channel=0), ClassLogit(1)])
@pytest.mark.parametrize("bound", [0.02, 0.2])
def test_the_region_put_back_alone_is_inside_the_bound_and_no_smaller_one_tried_is(
    network, image, node, bound
):
    found = saliency_region(network, image, node, bound, cells=(3, 6, 12))
    fill = image[0].mean((1, 2), keepdim=True)
    assert found.mask.shape == (SIZE, SIZE) and 0 < found.share < 1
    assert (
        found.error == pytest.approx(error_of(network, image, node, found.mask, fill))
        and found.error <= bound
    )
    assert torch.equal(found.rank < found.nested[-1], found.mask)
    assert len(found.nested) > 1 and (found.nested.diff() > 0).all()
    for size, error in zip(found.nested[:-1].tolist(), found.nested_errors[:-1].tolist(), strict=True):
        smaller = found.rank < size
        assert smaller.sum() < found.mask.sum() and not (smaller & ~found.mask).any()
        assert error > bound and error == pytest.approx(error_of(network, image, node, smaller, fill))


def test_one_cell_less_was_tried_last(network, image):
    found = saliency_region(network, image, Point("4", 4, 7), 0.1, cells=(6,))
    assert found.nested[-2] == found.nested[-1] - 1


@pytest.mark.parametrize("smallest", [0, 1, 36, 99, 100])
def test_the_smallest_good_size_is_found_in_few_batches(smallest):
    batches: list[int] = []

    def error_of(sizes: torch.Tensor) -> torch.Tensor:
        batches.append(len(sizes))
        return torch.where(sizes < smallest, 0.5, 0.125)

    found = _smallest_good(error_of, {100: 0.15}, bound=0.2)
    assert max(found) == smallest and found[smallest] == (0.15 if smallest == 100 else 0.125)
    assert all(found[size] == 0.5 for size in found if size < smallest)
    assert smallest == 0 or smallest - 1 in found
    assert len(batches) <= 2 and max(batches) <= 16


def test_what_is_good_is_not_run_again(network, image):
    counts: list[int] = []
    options = {"cells": (2,), "batch_size": 100, "progress": counts.append}
    found = saliency_region(network, image, ClassLogit(0), 1e-9, **options)
    assert found.share == 1 and found.error == 0 and counts == [4, 4]  # each cell alone, then 0 to 3 of them


def test_a_tighter_bound_takes_a_larger_region(network, image):
    shares = [
        saliency_region(network, image, ClassLogit(0), bound, cells=(6,)).share for bound in (0.3, 0.1, 0.02)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_the_region_is_where_the_response_comes_from(image):
    """Of a network that averages one quarter of the image, and sees nothing else."""

    class Corner(torch.nn.Module):
        def forward(self, images):
            return images[:, :1, SIZE // 2 :, : SIZE // 2].mean((2, 3)) + 0.5 * images[:, :1, 0, -1].abs()

    picture = image.clone()
    picture[0, 0, SIZE // 2 :, : SIZE // 2] += 5
    picture[0, 0, 0, -1] = 0
    found = saliency_region(
        Corner(), picture, ClassLogit(0), bound=0.01, cells=(2,), fill=torch.zeros(3, 1, 1).double()
    )
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[SIZE // 2 :, : SIZE // 2] = True
    assert torch.equal(found.mask, expected) and found.error == 0


def test_the_fill_is_what_masked_pixels_show(network, image):
    node, fill = ClassLogit(2), torch.randn(3, SIZE, SIZE, dtype=torch.float64)
    found = saliency_region(network, image, node, 0.1, cells=(6,), fill=fill)
    assert found.error == pytest.approx(error_of(network, image, node, found.mask, fill))


def test_batches_do_not_matter_and_are_reported(network, image):
    counts: list[int] = []
    one = saliency_region(network, image, ClassLogit(1), batch_size=1, progress=counts.append)
    assert set(counts) == {1} and sum(counts) == one.evaluations
    other = saliency_region(network, image, ClassLogit(1), batch_size=50)
    assert torch.equal(one.mask, other.mask) and one.evaluations == other.evaluations


def test_an_image_that_is_not_square_and_the_model_is_left_as_it_was():
    model = timm.create_model("dcnv2_resnet18", num_classes=3).train()
    found = saliency_region(model, torch.randn(1, 3, 32, 64), ClassLogit(0), cells=(2, 4))
    assert found.mask.shape == (32, 64) and not found.mask.is_inference()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"bound": 0.0}, "bound is 0; expected a relative error above 0 and below 1"),
        ({"bound": 1.5}, "bound is 1.5"),
        ({"cells": ()}, r"cells are \(\); expected numbers along a side, from 1 to 24"),
        ({"cells": (25,)}, r"cells are \(25,\)"),
    ],
)
def test_errors(network, image, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        saliency_region(network, image, ClassLogit(0), **options)


def test_a_response_that_does_not_depend_on_the_image_has_no_region(image):
    class Constant(torch.nn.Module):
        def forward(self, images):
            assert len(images), "nothing to run"
            return images.new_ones(len(images), 2)

    found = saliency_region(Constant(), image, ClassLogit(1))
    assert found.share == 0 and found.error == 0 and found.nested.tolist() == [0]


def test_no_response_is_an_error(image):
    class Nothing(torch.nn.Module):
        def forward(self, images):
            return images.new_zeros(len(images), 2)

    with pytest.raises(ValueError, match=r"ClassLogit\(index=1\) has no response to the image"):
        saliency_region(Nothing(), image, ClassLogit(1))
