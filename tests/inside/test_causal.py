"""What made a region: shares that add up to the picture, and what is lost without a part."""

import numpy as np
import pytest
import torch
from looks import hooks_left
from scipy.stats import spearmanr
from shared import random_model, random_udit

import dit_lab
from dit_lab.diffusion import SAMPLERS
from dit_lab.inside import Box, Cell, Part, Scale, TraceError, attribute, causal_map, cells, intervene, record
from dit_lab.inside.causal import weights
from dit_lab.models import BLOCKS

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
REGION = Box(2, 4, 4, 6)
FLOW = dict(schedule="flow", prediction="velocity", learned_variance=False)


def mask_of(box, size=(8, 12)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[box.top : box.top + box.height, box.left : box.left + box.width] = True
    return mask


@pytest.fixture(scope="module")
def digits():
    model = dit_lab.load("mnist_adaln_zero").model
    return model, record(model, [7, 3], steps=6, cfg_scale=2.0, seed=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("block", BLOCKS)
def test_shares_of_parts_noise_and_rest_add_up_to_the_regions_picture(block, sampler):
    model = random_model(block, prediction="v")
    run = record(model, [1, 2], **OPTIONS | dict(sampler=sampler))
    found = attribute(run, model, REGION, sample=1)
    assert found.shares.shape == (4, len(found.parts)) and found.pictures.shape == (len(found.parts), 3, 8, 12)
    assert found.shares.sum().item() + found.noise + found.rest == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(prediction="x0"),
        dict(prediction="v"),
        dict(schedule="flow", prediction="velocity", learned_variance=False),
    ],
    ids=["eps", "x0", "v", "flow"],
)
def test_where_each_step_follows_from_one_prediction_nothing_is_left_over(changes):
    model = random_model(**changes)
    for sampler in ("euler",) if "schedule" in changes else ("ddim", "euler"):
        run = record(model, [1], **OPTIONS | dict(sampler=sampler))
        found = attribute(run, model, REGION)
        assert abs(found.rest) < 1e-3 * (1 + abs(found.noise) + found.shares.abs().sum().item())


def test_a_noisy_samplers_noise_and_clipping_are_the_rest(digits):
    model, _ = digits
    for options in (dict(sampler="ddpm"), dict(clip_x0=True), dict(eta=1.0)):
        run = record(model, [7], steps=6, cfg_scale=2.0, seed=0, **options)
        assert abs(attribute(run, model).rest) > 1e-3


def test_the_parts_of_a_udit_add_up_as_well():
    model = random_udit(prediction="v")
    found = attribute(record(model, [1], **OPTIONS), model, REGION)
    assert found.shares.sum().item() + found.noise == pytest.approx(1, abs=1e-3)


def test_the_weights_are_those_of_a_step_by_step_walk(digits):
    _, run = digits
    gains, passed = weights(run)
    x = run.x[0].double()
    total = passed * x
    for step, gain in enumerate(gains):
        a, s = run.levels(step)
        total = total + gain * (a * run.eps[step].double() - s * run.x0[step].double())
    torch.testing.assert_close(total.float(), run.sample, atol=1e-4, rtol=0)


def test_pictures_are_what_the_shares_are_of(digits):
    model, run = digits
    found, picture = attribute(run, model, sample=1), run.sample[1]
    shares = torch.stack([(given * picture).sum() for given in found.pictures]) / picture.square().sum()
    torch.testing.assert_close(found.shares.sum(0), shares, atol=1e-4, rtol=1e-3)


def test_a_cells_share_is_the_sum_over_its_steps(digits):
    model, run = digits
    found = attribute(run, model)
    number = found.parts.index(Part("mlp", 2))
    assert found.of(Cell(2, "mlp", None, range(3, 6))) == pytest.approx(found.shares[3:, number].sum().item(), rel=1e-5)


def test_what_is_lost_is_measured_on_the_run_without_the_part(digits):
    model, run = digits
    cell = Cell(2, "attn", 1, range(2, 4))
    found = intervene(run, model, [cell], Box(4, 4, 12, 12), sample=1)
    moved = run.edited(model, Scale(2, "attn", 0.0, heads=[1]), steps=range(2, 4)).sample[1] - run.sample[1]
    mask = mask_of(Box(4, 4, 12, 12), (28, 28))
    inside, seen = moved[:, mask], run.sample[1][:, mask]
    assert found.lost[0].item() == pytest.approx((-(inside * seen).sum() / seen.square().sum()).item(), rel=1e-4)
    assert found.moved[0].item() == pytest.approx(inside.square().mean().sqrt().item(), rel=1e-4)
    assert found.elsewhere[0].item() == pytest.approx(moved[:, ~mask].square().mean().sqrt().item(), rel=1e-4)


def test_all_of_a_picture_has_no_elsewhere(digits):
    model, run = digits
    assert intervene(run, model, [Cell(0, "mlp", None, range(6))]).elsewhere.isnan().all()


def test_a_map_intervenes_on_the_largest_and_says_how_far_both_agree(digits):
    model, run = digits
    mask = run.sample[0, 0] > 0
    found = causal_map(run, model, mask, ranges=2, largest=5)
    everywhere = [found.attribution.of(cell) for cell in cells(run, model, 2)]
    largest = sorted(map(abs, everywhere), reverse=True)[:5]
    np.testing.assert_allclose(found.attributed.abs(), largest, rtol=1e-5)
    lost = intervene(run, model, found.interventions.cells, mask).lost
    assert torch.equal(found.interventions.lost, lost)
    assert found.agreement == pytest.approx(spearmanr(found.attributed, lost).statistic)


def test_cells_are_every_head_and_mlp_in_ranges_that_cover_the_run():
    model = random_model("cross_attention")
    run = record(model, [1], steps=4)
    found = cells(run, model, 3)
    heads = model.config.heads
    assert len(found) == len(set(found)) == 3 * model.config.depth * (2 * heads + 1)
    assert sorted({step for cell in found for step in cell.steps}) == [0, 1, 2, 3]
    assert {cell.branch for cell in found} == {"attn", "cross", "mlp"}
    assert len({str(cell) for cell in found}) == len(found)


def test_the_model_is_as_before_also_after_an_error(digits):
    model, run = digits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TraceError):
        intervene(run, model, [Cell(0, "mlp", None, range(6)), Cell(9, "mlp", None, range(6))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert hooks_left(model) == 0


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (torch.zeros(28, 28, dtype=torch.bool), "empty"),
        (Box(0, 0, 0, 4), "empty"),
        (Box(20, 20, 10, 10), "28 x 28"),
        (torch.ones(27, 28, dtype=torch.bool), r"\(28, 28\)"),
        (torch.ones(28, 28), "bools"),
    ],
)
def test_a_region_that_is_none_is_refused(region, told, digits):
    model, run = digits
    for look in (lambda: attribute(run, model, region), lambda: intervene(run, model, [], region)):
        with pytest.raises(TraceError, match=told):
            look()


def test_what_is_not_there_is_refused(digits):
    model, run = digits
    with pytest.raises(TraceError, match="sample"):
        attribute(run, model, sample=2)
    with pytest.raises(TraceError, match="1 to 6"):
        cells(run, model, 7)
    with pytest.raises(TraceError, match="another model"):
        attribute(run, random_model())
    blank = record(random_model(), [0], **OPTIONS)
    blank.sample.zero_()
    with pytest.raises(TraceError, match="0 all over"):
        attribute(blank, random_model())
