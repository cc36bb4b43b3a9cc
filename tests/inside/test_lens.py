"""The lens: what the model would say after each block is what it says without the later ones."""

from copy import deepcopy

import pytest
import torch
from looks import hooks_left
from shared import random_model, random_udit
from torch import nn

import dit_lab
from dit_lab.diffusion import Diffusion
from dit_lab.diffusion.process import split_output
from dit_lab.inside import TraceError, record
from dit_lab.inside.lens import lens
from dit_lab.models import BLOCKS, build

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]
MODELS = [(random_model, block) for block in BLOCKS]
MODELS += [(random_udit, block) for block in BLOCKS if block != "in_context"]
PROCESSES = [("eps", "linear"), ("eps", "cosine"), ("x0", "linear"), ("v", "cosine"), ("x0", "flow")]
PROCESSES += [("velocity", "flow"), ("sit_velocity", "sit")]


def close(ours, theirs):
    """Equal up to rounding; x0 is large where it is read from eps in strong noise."""
    torch.testing.assert_close(ours, theirs, atol=5e-6 * theirs.abs().max().item(), rtol=0)


class Same(nn.Module):
    """A block that is left out."""

    def forward(self, x, cond):
        return x


@torch.no_grad()
def stopped(model, run, step, number, half):
    """The prediction `1 c h w` of a copy whose blocks after `number` are the identity."""
    model = deepcopy(model)
    lists = [stage.blocks for stage in model.stages] if hasattr(model, "stages") else [model.blocks]
    places = [(blocks, place) for blocks in lists for place in range(len(blocks))]
    for blocks, place in places[number + 1 :]:
        same = Same()
        same.exit = blocks[place].exit  # the model asks its last block
        blocks[place] = same
    x, t, y = run.inputs(model, step, 1, half)
    return split_output(model(x, t, y), x)[0]


@pytest.mark.parametrize(("make", "block"), MODELS)
def test_every_entry_is_the_model_without_the_later_blocks(make, block):
    model = make(block)
    run = record(model, LABELS, **OPTIONS)
    x, i = run.x[1, 1:2], torch.tensor([2])
    for half in "cond", "uncond":
        seen = lens(run, model, 1, sample=1, half=half)
        assert seen.shape == (len(model.blocks), 3, 8, 12) and seen.dtype == torch.float32
        for number, x0 in enumerate(seen):
            close(x0, run.process.denoised(stopped(model, run, 1, number, half), x, i)[0][0])
    assert (seen[:-1] - seen[1:]).abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize(("make", "block"), MODELS)
def test_the_last_entry_is_what_was_recorded(make, block):
    model = make(block)
    for options in OPTIONS, OPTIONS | dict(cfg_scale=1.0), OPTIONS | dict(cfg_channels=1, size=(16, 8)):
        run = record(model, LABELS, **options)
        for step in range(4):
            close(lens(run, model, step, sample=1)[-1], run.x0[step, 1])


@pytest.mark.parametrize(("prediction", "schedule"), PROCESSES)
def test_the_last_entry_is_what_was_recorded_whatever_is_predicted(prediction, schedule):
    learned = schedule == "linear"
    model = random_model(prediction=prediction, schedule=schedule, learned_variance=learned, in_channels=4)
    run = record(model, LABELS, **OPTIONS)
    for step in range(4):
        close(lens(run, model, step)[-1], run.x0[step, 0])


def test_a_step_without_guidance_is_seen_as_it_was_walked():
    model = random_model()
    run = record(model, LABELS, cfg_interval=(300, 700), **OPTIONS)
    for step, t in enumerate(run.t):
        seen = lens(run, model, step)
        close(seen[-1], run.x0[step, 0])
        assert torch.equal(seen, lens(run, model, step, half="guided" if 300 <= t <= 700 else "cond"))
    with pytest.raises(TraceError, match="step 0 of this run was taken without guidance"):
        lens(run, model, 0, half="guided")


@pytest.mark.parametrize("clip", [True, False])
def test_what_the_run_clipped_is_clipped(clip):
    model = random_model()
    run = record(model, LABELS, clip_x0=clip, **OPTIONS)
    seen = lens(run, model, 1)
    torch.testing.assert_close(seen[-1], run.x0[1, 0], atol=1e-4, rtol=0)
    assert (seen.abs().max() <= 1) == clip


@pytest.mark.parametrize("name", ["mnist", "mnist_udit", "mnist_in_context", "cifar10"])
def test_trained_models_say_it_block_by_block(name):
    model = dit_lab.load(name).model
    run = record(model, [7], steps=5, cfg_scale=2.0)
    seen = lens(run, model, 4)
    torch.testing.assert_close(seen[-1], run.x0[4, 0], atol=1e-5, rtol=0)
    far = (seen - run.x0[4, 0]).pow(2).mean((1, 2, 3))
    assert far.argmax() < len(far) // 2 < far.argmin()  # it comes nearer


def test_an_untrained_adaln_zero_model_says_the_same_after_every_block():
    for preset in "DiT-nano/2", "U-DiT-tiny":
        torch.manual_seed(0)
        model = build(preset, input_size=8, num_classes=3).eval()
        torch.nn.init.normal_(model.out.weight)
        seen = lens(record(model, [1], steps=2), model, 0)
        close(seen, seen[-1:].expand_as(seen))


def test_it_is_computed_in_the_models_precision():
    for dtype, ours, bound in ((torch.float64, torch.float64, 1e-6), (torch.bfloat16, torch.float32, 0.1)):
        model = random_model(prediction="v").to(dtype)
        run = record(model, LABELS, **OPTIONS)
        seen = lens(run, model, 1)
        assert seen.dtype == ours
        torch.testing.assert_close(seen[-1].float(), run.x0[1, 0], atol=bound * run.x0[1, 0].abs().max().item(), rtol=0)


@pytest.mark.parametrize("make", [random_model, random_udit])
def test_one_forward_no_changed_bit_and_no_hook_that_stays(make):
    model, forwards = make(), []
    run = record(model, LABELS, **OPTIONS)
    x, t, y = run.inputs(model, 1, 0, "cond")
    before = model(x, t, y)
    with model.register_forward_hook(lambda *passed: forwards.append(len(passed[1][0]))):
        lens(run, model, 1)
        lens(run, model, 1, half="cond")
    assert forwards == [2, 1]  # both halves of guidance in one
    assert torch.equal(model(x, t, y), before) and hooks_left(model) == 0

    def broken(module, given):
        raise ZeroDivisionError

    with model.blocks[2].register_forward_pre_hook(broken), pytest.raises(ZeroDivisionError):
        lens(run, model, 1)
    assert hooks_left(model) == 0


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (dict(step=4), "step must be a whole number from 0 to 3, not 4"),
        (dict(step=None), "step must be a whole number from 0 to 3, not None"),
        (dict(sample=2), "sample must be a whole number from 0 to 1, not 2"),
        (dict(sample=[0, 1]), "sample must be a whole number from 0 to 1"),
        (dict(half="left"), """half must be "cond", "uncond" or "guided" .*not 'left'"""),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(asked, told):
    model = random_model()
    with pytest.raises(TraceError, match=told):
        lens(record(model, LABELS, **OPTIONS), model, **dict(step=1) | asked)


def test_other_models_and_processes_are_refused():
    model = random_model()
    run = record(model, LABELS, **OPTIONS)
    with pytest.raises(TraceError, match="recorded with another model; they differ in depth"):
        lens(run, random_model(depth=2), 0)
    with pytest.raises(TraceError, match="compiled, .* _orig_mod"):
        lens(run, torch.compile(model), 0)
    own = record(model, LABELS, steps=2, process=Diffusion.named("cosine", steps=50))
    with pytest.raises(TraceError, match="a process of its own"):
        lens(own, model, 0)
