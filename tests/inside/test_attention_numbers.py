"""Attention in numbers: against scipy, against loops over all pairs of tokens, and of every kind of grid."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from looks import MODELS, hooks_left, run_of
from scipy.stats import entropy
from shared import random_model, random_udit

import dit_lab
from dit_lab.inside import TraceError, record
from dit_lab.inside.attention import attention_numbers, distances, entropies, places_of
from dit_lab.inside.cutting import Cut
from dit_lab.inside.edits import Temperature, edited
from dit_lab.inside.looks import passing, rows_at_once

CLOSE = dict(rtol=1e-4, atol=1e-5)


def explicit(trajectory, model, step, block, half):
    """The numbers of one block, `number head`, from the whole map on the picture, pair by pair."""
    (rows, columns), patch = trajectory.grid_of(block), trajectory.config.stage_of(block).patch
    unit, n = patch / trajectory.config.stages[0].patch, rows * columns
    maps = trajectory.attention(model, step, sample=1, block=block, half=half, queries=range(n)).double().numpy()
    far = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            far[i, j] = unit * math.hypot(i // columns - j // columns, i % columns - j % columns)
    image = maps[:, :, :n] / maps[:, :, :n].sum(-1, keepdims=True)
    shared = math.log(4) if getattr(trajectory.config, "downsample", "") == "kv" else 0
    return {
        "entropy": entropy(maps, axis=-1).mean(-1) - shared,  # a key counts once, however many tokens it covers
        "distance": (image * far).sum(-1).mean(-1),
        "itself": maps[:, range(n), range(n)].mean(-1),
        "condition": maps[:, :, n:].sum(-1).mean(-1),
        "time": maps[:, :, n : n + 1].sum(-1).mean(-1),
        "label": maps[:, :, n + 1 :].sum(-1).mean(-1),
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("half", ["cond", "uncond"])
def test_the_numbers_of_every_block_head_and_step_are_those_of_the_whole_maps(name, half):
    model, trajectory = run_of(name)
    seen = attention_numbers(trajectory, model, sample=1, half=half)
    assert seen.t == trajectory.t
    for block in range(trajectory.config.depth):
        for step in range(4):
            for number, expected in explicit(trajectory, model, step, block, half).items():
                ours = getattr(seen, number)[block, :, step]
                torch.testing.assert_close(ours, torch.from_numpy(expected).float(), **CLOSE, msg=f"{number} {block}")


@pytest.mark.parametrize("name", ["adaln_zero", "in_context", "U-DiT", "U-DiT kv"])
def test_inside_an_edit_the_numbers_are_those_of_what_runs(name):
    model, trajectory = run_of(name)
    before = attention_numbers(trajectory, model, sample=1)
    cut = Cut(1, [1, 3, 0], [0, 1, 12, 13] if "kv" in name else [2, 4, 0], heads=[1])
    with edited(model, Temperature(0, 0.5), cut):
        seen = attention_numbers(trajectory, model, sample=1)
        some = attention_numbers(trajectory, model, sample=1, limit=3100)
        for block in range(3):
            for number, expected in explicit(trajectory, model, 2, block, "cond").items():
                for ours in seen, some:
                    ours = getattr(ours, number)[block, :, 2]
                    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), **CLOSE)
    assert (seen.entropy[0] < before.entropy[0]).all() and (seen.entropy[1, 1] < before.entropy[1, 1] - 0.001).any()
    assert torch.equal(attention_numbers(trajectory, model, sample=1).entropy, before.entropy)


def test_the_condition_has_a_share_where_it_joins_the_sequence_and_only_there():
    seen = attention_numbers(run_of("in_context")[1], run_of("in_context")[0])
    assert (seen.time > 0).all() and (seen.label > 0).all() and torch.equal(seen.condition, seen.time + seen.label)
    assert not attention_numbers(run_of("adaln")[1], run_of("adaln")[0]).condition.any()


@pytest.mark.parametrize("name", ["cross_attention", "U-DiT cross"])
def test_cross_attention_is_shared_by_time_and_label(name):
    model, trajectory = run_of(name)
    seen = attention_numbers(trajectory, model, kind="cross")
    for step in range(4):
        seen_there = trajectory.replay(model, step, 0, "cond", modulation=False, features=False)
        for block in range(trajectory.config.depth):
            map = seen_there.attention(block, kind="cross")[0]
            torch.testing.assert_close(seen.time[block, :, step], map[..., 0].mean(-1))
            torch.testing.assert_close(seen.label[block, :, step], map[..., 1].mean(-1))
            expected = torch.from_numpy(entropy(map.double().numpy(), axis=-1).mean(-1)).float()
            torch.testing.assert_close(seen.entropy[block, :, step], expected, **CLOSE)
    torch.testing.assert_close(seen.condition, torch.ones_like(seen.time))
    assert seen.distance.isnan().all() and seen.itself.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0, 1, 30, 3000])
def test_entropies_are_exact_where_weights_are_0_and_where_edges_are_cut(dtype, spread):
    scores = spread * torch.randn(2, 3, 5, 40, generator=torch.Generator().manual_seed(0), dtype=dtype)
    scores[..., ::3] = -math.inf
    weights = scores.softmax(-1)
    expected = torch.from_numpy(entropy(weights.double().numpy(), axis=-1).sum((0, 2))).to(dtype)
    ours = entropies(scores, weights)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert (ours >= 0).all()


def test_uniform_attention_has_the_log_of_the_keys_and_the_mean_distance_of_the_grid():
    model = random_model()
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    seen = attention_numbers(record(model, [1], steps=2), model)
    places = [(row, column) for row in range(2) for column in range(3)]
    mean = np.mean([math.dist(a, b) for a in places for b in places])
    torch.testing.assert_close(seen.entropy, torch.full((3, 4, 2), math.log(6)))
    torch.testing.assert_close(seen.distance, torch.full((3, 4, 2), float(mean)))
    torch.testing.assert_close(seen.itself, torch.full((3, 4, 2), 1 / 6))


def test_stages_of_a_u_dit_are_told_in_input_pixels():
    model, trajectory = run_of("U-DiT")
    far = lambda block: distances(places_of(trajectory, model, block), 0, 1)[0]
    assert far(0)[:7].tolist() == pytest.approx([0, 2, 4, 6, 8, 10, 2])  # every second token of 12 columns
    assert far(2)[:4].tolist() == pytest.approx([0, 4, 8, 4])  # tokens of 2 x 2 pixels, again every second


@pytest.mark.parametrize(("name", "row"), [("in_context", 512), ("adaln", 384), ("U-DiT", 3072), ("U-DiT kv", 768)])
@pytest.mark.parametrize("rows", [1, 4, 5.9])
def test_maps_computed_a_few_queries_at_a_time_give_the_same_numbers(name, row, rows):
    model, trajectory = run_of(name)
    whole, some = (attention_numbers(trajectory, model, limit=limit) for limit in (2**30, int(rows * row)))
    assert rows_at_once(trajectory, model, 0, int(rows * row)) == int(rows)
    for field in fields(whole)[1:]:
        torch.testing.assert_close(getattr(some, field.name), getattr(whole, field.name), rtol=1e-4, atol=1e-6)


def test_a_row_above_the_limit_is_refused_before_anything_runs():
    model, trajectory = run_of("adaln_zero")
    ran, counting = [], model.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with (
        counting,
        pytest.raises(TraceError, match="one query's row .* would take 384 bytes, more than the limit of 99"),
    ):
        attention_numbers(trajectory, model, limit=99)
    assert not ran


def test_asked_steps_come_in_the_order_in_which_they_are_asked_for():
    model, trajectory = run_of("adaln_zero")
    whole, some = attention_numbers(trajectory, model), attention_numbers(trajectory, model, steps=torch.tensor([3, 1]))
    assert some.t == [trajectory.t[3], trajectory.t[1]]
    assert torch.equal(some.entropy, whole.entropy[:, :, [3, 1]])


@pytest.mark.parametrize(("dtype", "told"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("build", [random_model, random_udit])
def test_models_of_another_precision_are_read_in_fp32_at_least(build, dtype, told):
    model = build()
    trajectory = record(model, [1], steps=2)
    close, exact = attention_numbers(trajectory, model.to(dtype)), attention_numbers(trajectory, model.double())
    assert close.entropy.dtype == told and torch.isfinite(close.entropy).all()
    torch.testing.assert_close(close.entropy.double(), exact.entropy, rtol=0.05, atol=0.05)


def test_all_of_a_run_costs_one_forward_a_step_and_leaves_no_trace_in_the_model():
    model, trajectory = run_of("in_context")
    inputs = trajectory.inputs(model, 1, 0, "cond")
    before, ran = model(*inputs), []
    with model.register_forward_hook(lambda *_: ran.append(1)):
        attention_numbers(trajectory, model)
    assert len(ran) == 4 and hooks_left(model) == 0 and torch.equal(model(*inputs), before)


def test_a_forward_that_is_looked_at_is_the_same_bit_for_bit():
    model, trajectory = run_of("U-DiT")
    inputs, outputs = trajectory.inputs(model, 2, 0, "cond"), []
    plain = model(*inputs)
    with model.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        attention_numbers(trajectory, model, steps=[2])
    assert torch.equal(outputs[0], plain)


def test_no_hook_stands_between_two_steps_or_after_an_exception():
    model, trajectory = run_of("adaln")
    for _ in passing(trajectory, model, [], range(2), [0]):
        assert hooks_left(model) == 0

    def stop(*_):
        raise ZeroDivisionError

    with model.out.register_forward_pre_hook(stop), pytest.raises(ZeroDivisionError):
        attention_numbers(trajectory, model)
    assert hooks_left(model) == 0


class Beside(torch.nn.Module):
    """A model whose blocks are not those that run, as after compiling it."""

    def __init__(self, shown, run):
        super().__init__()
        self.config, self.blocks, self.run = shown.config, shown.blocks, run

    def forward(self, *inputs):
        return self.run(*inputs)


def test_blocks_that_do_not_run_are_an_error():
    trajectory = run_of("adaln")[1]
    with pytest.raises(TraceError, match="nothing was seen: look with the model itself, uncompiled"):
        attention_numbers(trajectory, Beside(random_model("adaln"), random_model("adaln")))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (dict(steps=[]), "steps must name at least one of the steps 0 to 3"),
        (dict(steps=[4]), "step must be a whole number from 0 to 3, not 4"),
        (dict(steps=1), "steps must be a list of numbers, not 1"),
        (dict(sample=2), "sample must be a whole number from 0 to 1, not 2"),
        (dict(sample=[0, 1]), r"sample must be a whole number from 0 to 1, not \[0, 1\]"),
        (dict(half="both"), 'half must be "cond" or "uncond", not'),
        (dict(kind="cross"), "kind must be one of attn, which this model's blocks have, not 'cross'"),
        (dict(kind=["attn"]), "kind must be one of attn"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(asked, told):
    model, trajectory = run_of("adaln_zero")
    with pytest.raises(TraceError, match=told):
        attention_numbers(trajectory, model, **asked)


def test_a_run_of_another_model_is_refused():
    with pytest.raises(TraceError, match="another model; they differ in architecture"):
        attention_numbers(run_of("adaln_zero")[1], run_of("U-DiT")[0])


def test_a_trained_models_heads_look_at_different_distances():
    """What the numbers are for: local and global heads, and attention that is far from uniform and from itself."""
    model = dit_lab.load("mnist").model
    seen = attention_numbers(record(model, [7], steps=10, cfg_scale=3.0), model, steps=[5])
    assert seen.distance.max() > 1.5 * seen.distance.min() and seen.entropy.min() < 0.8 * math.log(49)
