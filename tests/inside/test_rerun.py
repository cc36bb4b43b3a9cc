"""Runs walked again: without edits or patched from themselves they keep every bit, patched from another they are it."""

from copy import deepcopy
from dataclasses import replace
from itertools import product

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.diffusion import SAMPLERS, Diffusion, from_picture, generate
from dit_lab.inside import TraceError, Trajectory, record, watch
from dit_lab.inside.edits import Cut, Label, Patch, Scale, edited
from dit_lab.inside.rerun import rerun
from dit_lab.inside.trace import branches
from dit_lab.inside.trajectory_file import Anew
from dit_lab.models import BLOCKS

MODELS = {**{block: random_model(block) for block in BLOCKS}, "u-dit": random_udit()}
FLOW = random_model(learned_variance=False, schedule="flow", prediction="velocity")
OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]
everywhere = pytest.mark.parametrize("name", MODELS)
WALKS = [
    *(dict(sampler=sampler) for sampler in SAMPLERS),
    *(dict(sampler=sampler, cfg_scale=1.0) for sampler in ("ddim", "heun")),
    dict(eta=0.7, clip_x0=True, cfg_channels=2),
    dict(sampler="heun", cfg_interval=[100, 700]),
    dict(sampler="ddpm", clip_x0=False, size=(16, 8)),
]


def rerun_of(run: Trajectory, model, *edits, **how) -> Trajectory:
    return replace(run, **rerun(run, model, *edits, **how))


def assert_same_run(ours: Trajectory, theirs: Trajectory):
    assert ours.t == theirs.t
    for name in "x", "x0", "eps", "sample":
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def everything_of(run: Trajectory, model) -> list[Patch]:
    """Every place of a model that can be patched."""
    places = [(number, what) for number, block in enumerate(model.blocks) for what in ("block", *branches(block))]
    heads = [Patch(run, number, "attn", tokens=[0, 3], heads=[1]) for number in range(len(model.blocks))]
    return [*(Patch(run, *place) for place in places), *heads]


@pytest.mark.parametrize("how", WALKS, ids=str)
def test_a_run_walked_again_without_edits_or_patched_from_itself_keeps_every_bit(how):
    model = MODELS["adaln_zero"]
    run = record(model, LABELS, **OPTIONS | how)
    assert_same_run(rerun_of(run, model), run)
    assert_same_run(rerun_of(run, model, *everything_of(run, model)), run)


@everywhere
def test_a_run_patched_from_itself_everywhere_keeps_every_bit(name):
    model = MODELS[name]
    run = record(model, [1, 5, 4], **OPTIONS)  # one of them is asked for without a class
    assert_same_run(rerun_of(run, model, *everything_of(run, model)), run)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_flow_matching_is_walked_again_and_patched_at_times_that_are_not_whole(sampler):
    run = record(FLOW, LABELS, **OPTIONS | dict(steps=7, sampler=sampler))
    assert any(t != round(t) for t in run.t)
    assert_same_run(rerun_of(run, FLOW, *everything_of(run, FLOW)), run)


def test_in_bfloat16_and_from_a_file_a_run_is_the_same_too(tmp_path):
    model = deepcopy(MODELS["adaln_zero"]).bfloat16()
    record(model, LABELS, **OPTIONS).save(tmp_path / "run.safetensors")
    run = Trajectory.load(tmp_path / "run.safetensors")
    assert_same_run(rerun_of(run, model, *everything_of(run, model), Scale(1, "attn", 1, heads=[0])), run)


@everywhere
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_a_run_whose_blocks_are_all_patched_becomes_the_source(name, sampler):
    """What follows the blocks knows the condition through the last norm's modulation alone, so that is held still here.

    Then the output is the source's at every step, and from the same noise so are x_t, x0 and the sample.
    """
    model = deepcopy(MODELS[name])
    if modulation := getattr(model.final_norm, "modulation", None):
        torch.nn.init.zeros_(modulation.linear.weight)
    run, source = (record(model, labels, **OPTIONS | dict(sampler=sampler)) for labels in (LABELS, [3, 0]))
    patched = rerun_of(run, model, *(Patch(source, block, "block") for block in range(len(model.blocks))))
    assert_same_run(patched, source)
    assert not torch.equal(run.sample, source.sample)


@everywhere
def test_what_is_patched_is_the_sources_and_what_is_not_named_stays(name):
    model = MODELS[name]
    run, source = (record(model, labels, **OPTIONS) for labels in (LABELS, [3, 0]))
    theirs = source.replay(model, 2, [0, 1], "cond").features[1]
    with edited(model, Patch(source, 1, "block", tokens=[1, 4])):
        ours = run.replay(model, 2, [0, 1], "cond").features[1]
    mine = run.replay(model, 2, [0, 1], "cond").features[1]
    assert torch.equal(ours[:, [1, 4]], theirs[:, [1, 4]])
    others = [token for token in range(mine.shape[1]) if token not in (1, 4)]
    assert torch.equal(ours[:, others], mine[:, others]) and not torch.equal(mine[:, [1, 4]], theirs[:, [1, 4]])


@everywhere
def test_all_heads_patched_are_the_branch_patched_and_all_tokens_the_whole(name):
    model = MODELS[name]
    run, source = (record(model, labels, **OPTIONS) for labels in (LABELS, [3, 0]))
    tokens, heads = range(run.tokens_of(1)), range(model.config.heads)
    whole = rerun_of(run, model, Patch(source, 1, "attn"))
    assert_same_run(rerun_of(run, model, Patch(source, 1, "attn", heads=heads)), whole)
    apart = [Patch(source, 1, "attn", [token], [head]) for token, head in product(tokens, heads)]
    assert_same_run(rerun_of(run, model, *apart), whole)
    assert not torch.equal(rerun_of(run, model, *apart[1:]).sample, whole.sample)


def test_the_source_is_replayed_without_the_edits_of_any_scope_around_it():
    model = MODELS["in_context"]
    run = record(model, LABELS, **OPTIONS)
    last = Patch(run, 2, "block")
    off = [Scale(block, "attn", 0) for block in range(3)], [Label(0), Cut(1, [0], [1])]
    for edits in off:
        assert not torch.equal(rerun_of(run, model, *edits).sample, run.sample)
        assert_same_run(rerun_of(run, model, *edits, last), run)
        with edited(model, *edits):
            assert_same_run(rerun_of(run, model, last), run)


def test_in_a_scope_of_its_own_a_patch_takes_the_null_half_for_rows_of_the_null_label():
    model = MODELS["cross_attention"]
    source = record(model, LABELS, **OPTIONS)
    for half in "cond", "uncond":
        inputs = source.inputs(model, 1, [0, 1], half)
        with torch.no_grad():
            plain = model(*inputs)
            with edited(model, *everything_of(source, model)):
                assert torch.equal(model(*inputs), plain), half
    with edited(model, *everything_of(source, model)):
        assert torch.equal(generate(model, LABELS, **OPTIONS), source.sample)


def test_a_source_of_one_sample_serves_all_samples_of_a_run():
    model = MODELS["adaln_zero"]
    run, source = record(model, LABELS, **OPTIONS), record(model, [3], **OPTIONS)
    with edited(model, Patch(source, 1, "block")):
        features = run.replay(model, 0, [0, 1], "cond").features[1]
    torch.testing.assert_close(features[0], features[1])
    theirs = source.replay(model, 0, 0, "cond").features[1][0]
    torch.testing.assert_close(features[0], theirs)
    assert not torch.equal(rerun_of(run, model, Patch(source, 1, "block")).sample, run.sample)


def test_a_look_under_a_patch_shows_the_patched_forward():
    model = MODELS["adaln_zero"]
    run, source = (record(model, [label], **OPTIONS) for label in (1, 3))
    with edited(model, Patch(source, 0, "block")), watch(model) as seen, torch.no_grad():
        model(*run.inputs(model, 2, 0, "cond"))
    with watch(model) as theirs, torch.no_grad():
        model(*source.inputs(model, 2, 0, "cond"))
    assert torch.equal(seen.features[0], theirs.features[0])
    assert not torch.equal(seen.modulation["gate_mlp"][1], theirs.modulation["gate_mlp"][1])


def test_edits_are_active_at_their_steps_alone():
    model = MODELS["adaln_zero"]
    run, edit = record(model, LABELS, **OPTIONS), Scale(1, "mlp", 0)
    late = rerun_of(run, model, edit, steps=range(2, 4))
    assert torch.equal(late.x[:3], run.x[:3]) and torch.equal(late.x0[:2], run.x0[:2])
    assert not torch.equal(late.x0[2], run.x0[2]) and not torch.equal(late.sample, run.sample)
    assert_same_run(rerun_of(run, model, edit, steps=[3, 2, 2]), late)
    assert_same_run(rerun_of(run, model, edit, steps=range(4)), rerun_of(run, model, edit))
    with edited(model, edit):
        assert torch.equal(rerun_of(run, model, edit).sample, rerun_of(run, model).sample)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_label_from_some_step_on_leaves_the_null_half_and_everything_before():
    model = MODELS["adaln_zero"]
    run, other = (record(model, labels, **OPTIONS) for labels in (LABELS, [3, 3]))
    assert_same_run(rerun_of(run, model, Label(3)), other)
    late = rerun_of(run, model, Label(3), steps=[3])
    assert torch.equal(late.x, run.x) and not torch.equal(late.sample, run.sample)
    null = record(model, [5, 1], **OPTIONS)  # the first sample is asked for without a class
    assert_same_run(rerun_of(null, model, Label(3)), other)
    assert late.labels == LABELS


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp", "unipc"])
def test_a_run_that_began_with_a_picture_is_walked_again_from_there_and_can_be_edited(sampler, tmp_path):
    model, pictures = MODELS["adaln_zero"], torch.linspace(-1, 1, 2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    begun = from_picture(model, pictures, strength=0.6, steps=8, sampler=sampler, seed=4)
    record(model, LABELS, cfg_scale=2.0, **begun).save(tmp_path / "run.safetensors")
    run = Trajectory.load(tmp_path / "run.safetensors")
    assert_same_run(rerun_of(run, model), run)
    edited_run = run.edited(model, Scale(0, "attn", 0))
    assert torch.equal(edited_run.x[0], run.x[0]) and not torch.equal(edited_run.sample, run.sample)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp", "unipc"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_run_that_drew_a_part_of_a_picture_anew_is_walked_again_and_keeps_the_rest_when_edited(
    sampler, strength, tmp_path
):
    model, pictures = MODELS["adaln_zero"], torch.linspace(-1, 1, 2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    mask = torch.zeros(2, 1, 8, 12, dtype=torch.bool)
    mask[0, :, :4], mask[1, :, 2:] = True, True
    begun = from_picture(model, pictures, strength=strength, mask=mask, steps=8, sampler=sampler, seed=4)
    record(model, LABELS, cfg_scale=2.0, **begun).save(tmp_path / "run.safetensors")
    run = Trajectory.load(tmp_path / "run.safetensors")
    assert run.options["sampler"] == "own" and torch.equal(run.anew.mask, mask)
    assert_same_run(rerun_of(run, model), run)
    edited_run = run.edited(model, Scale(0, "attn", 0))
    kept = ~mask.expand_as(run.sample)
    assert torch.equal(edited_run.sample[kept], run.sample[kept]) and torch.equal(run.sample[kept], pictures[kept])
    assert not torch.equal(edited_run.sample[~kept], run.sample[~kept])
    assert_same_run(rerun_of(edited_run, model), run)


def test_a_part_that_was_drawn_anew_with_fresh_noise_or_by_a_function_cannot_be_walked_again():
    model, pictures = MODELS["adaln_zero"], torch.zeros(1, 3, 8, 12)
    mask = torch.arange(96).reshape(8, 12) < 40
    own = lambda process, now, *rest: now.x
    for sampler, told in ("ddpm", "at each step is not kept"), (own, "sampler was a function of its maker's"):
        run = record(model, LABELS, **from_picture(model, pictures, mask=mask, steps=3, sampler=sampler))
        with pytest.raises(TraceError, match=told):
            rerun(run, model)


def test_a_mask_that_fits_no_picture_or_names_no_sampler_is_refused():
    model = MODELS["adaln_zero"]
    mask = torch.arange(96).reshape(8, 12) < 40
    run = record(model, LABELS, **from_picture(model, torch.zeros(1, 3, 8, 12), mask=mask, steps=3))
    for told, *wrong in (
        ("the mask must be bools of .8, 12., not", mask[:4], "ddim"), ("the mask must be", mask.float(), "ddim"),
        *(("a part was drawn anew by no sampler that there is", mask, name) for name in ("mine", None, [])),
    ):  # fmt: skip
        with pytest.raises(TraceError, match=f"this is not a whole trajectory: {told}"):
            replace(run, anew=Anew(*wrong))


def test_what_cannot_be_walked_again_is_refused_with_what_to_do():
    model = MODELS["adaln_zero"]
    run = record(model, LABELS, **OPTIONS)
    for fresh in dict(sampler="ddpm"), dict(sampler="dpmpp_sde"), dict(eta=0.5):
        with pytest.raises(TraceError, match="noise was given.* at each step is not kept.* record it with a seed, or"):
            rerun(record(model, LABELS, steps=2, noise=torch.zeros, **fresh), model)
    with pytest.raises(TraceError, match="walked a process of its own"):
        rerun(record(model, LABELS, steps=2, process=Diffusion.named("cosine")), model)
    with pytest.raises(TraceError, match="recorded with another model; they differ in block"):
        rerun(run, MODELS["adaln"])
    for steps in [], range(4, 2), ():
        with pytest.raises(TraceError, match="steps must name at least one step from 0 to 3, not"):
            rerun(run, model, steps=steps)
    for steps in [4], [-1], [0.5], range(2, 5):
        with pytest.raises(TraceError, match="step must be a whole number from 0 to 3, not"):
            rerun(run, model, steps=steps)
    with pytest.raises(TraceError, match="steps must be a list of numbers, not 2"):
        rerun(run, model, steps=2)


def test_in_a_run_edits_of_tokens_that_are_not_there_are_refused_before_anything_runs():
    calls = []
    for model, tokens in (MODELS["adaln_zero"], 6), (MODELS["in_context"], 8), (MODELS["u-dit"], 96):
        run = record(model, LABELS, **OPTIONS)
        hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
        with pytest.raises(TraceError, match=f"query must be a whole number from 0 to {tokens - 1}, not {tokens}"):
            rerun(run, model, Cut(0, [tokens], [0]), steps=[3])
        with pytest.raises(TraceError, match=f"token must be a whole number from 0 to {tokens - 1}, not {tokens}"):
            rerun(run, model, Patch(run, 0, "block", tokens=[tokens]))
        hook.remove()
    assert not calls
    rerun(record(model, [1], steps=2, size=(4, 8)), model, Cut(0, [31], [29]))


def test_sources_that_do_not_fit_are_refused_in_a_sentence_that_names_what_they_have():
    model = MODELS["adaln_zero"]
    run = record(model, LABELS, **OPTIONS)
    refused = {
        r"has no step at t = 666; it has \[999, 0\]": record(model, LABELS, steps=2),
        "is 16 x 12, what is patched 8 x 12": record(model, LABELS, **OPTIONS | dict(size=(16, 12))),
        "has 3 samples and what is patched 2: record it with as many, or with one": record(model, [1, 2, 3], **OPTIONS),
        "recorded with another model; they differ in block": record(MODELS["adaln"], LABELS, **OPTIONS),
    }
    for sentence, source in refused.items():
        with pytest.raises(TraceError, match=sentence):
            rerun(run, model, Patch(source, 0, "attn"))
    for patch, sentence in {
        Patch(run, 0, "cross"): "what can be patched is block, attn, mlp, not 'cross'",
        Patch(run, 0, "block", heads=[0]): "the output of a block has no heads: patch its attn, or leave heads out",
        Patch(run, 0, "mlp", heads=[0]): "the mlp of a block has no heads: leave heads out",
        Patch(run, 0, "attn", heads=[4]): "head must be a whole number from 0 to 3, not 4",
        Patch(run, 3, "attn"): "block must be a whole number from 0 to 2, not 3",
    }.items():
        with pytest.raises(TraceError, match=sentence):
            rerun(run, model, patch)
    x, t, y = run.inputs(model, 0, [0, 1], "cond")
    with edited(model, Patch(run, 0, "attn")):
        with pytest.raises(TraceError, match="all rows of a forward that is patched must have the same t"):
            model(x, torch.tensor([999, 666]), y)
        with pytest.raises(TraceError, match="run the model itself inside the scope"):
            model.blocks[0](torch.zeros(2, 6, model.config.dim), model.condition(t, y))
        with pytest.raises(TraceError, match="has 2 samples and what is patched 1"):
            run.replay(model, 0, 0, "cond")
