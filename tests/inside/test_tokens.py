"""Tokens in numbers: against the features themselves, sorting, and what was planted."""

import numpy as np
import pytest
import torch
from looks import PLACES, features_of, hooks_left, run_of
from shared import random_model, random_udit

from dit_lab.inside import TraceError, record
from dit_lab.inside.colours import fit_colours, normalised
from dit_lab.inside.tokens import massive, token_norms, token_similarity

LOOKS = {
    "token_norms": token_norms,
    "massive": massive,
    "token_similarity": lambda run, model, steps=(0,), **asked: token_similarity(run, model, steps[0], 0, **asked),
    "fit_colours": fit_colours,
}


@pytest.mark.parametrize(("name", "stage"), PLACES)
@pytest.mark.parametrize("half", ["cond", "uncond"])
def test_norms_are_those_of_the_features_at_every_step_and_block(name, stage, half):
    model, trajectory = run_of(name)
    ours = token_norms(trajectory, model, sample=1, half=half, stage=stage)
    expected = np.linalg.norm(features_of(name, stage, 1, half).double().numpy(), axis=-1)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)
    some = token_norms(trajectory, model, sample=1, half=half, stage=stage, steps=range(3, 0, -2))
    assert torch.equal(some, ours[[3, 1]])


@pytest.mark.parametrize(("name", "stage"), PLACES)
def test_the_largest_features_are_those_that_sorting_finds(name, stage):
    model, trajectory = run_of(name)
    seen = massive(trajectory, model, top=3, stage=stage)
    assert seen.t == trajectory.t
    for step, of_blocks in enumerate(features_of(name, stage).abs().numpy()):
        for block, size in enumerate(of_blocks):
            order = np.argsort(-size.max(0))[:3]
            assert seen.feature[step, block].tolist() == order.tolist()
            assert seen.token[step, block].tolist() == size.argmax(0)[order].tolist()
            low_median = np.sort(size.flatten())[(size.size - 1) // 2]
            np.testing.assert_allclose(seen.times[step, block], size.max(0)[order] / low_median, rtol=1e-4)


def test_a_massive_feature_is_found_in_the_block_that_makes_it_and_in_those_after():
    model = random_model("cross_attention")
    with torch.no_grad():
        model.blocks[1].mlp.down.bias[37] += 500
    seen = massive(record(model, [1], steps=1), model, top=2)
    assert (seen.feature[:, 1:, 0] == 37).all() and (seen.times[:, 1:, 0] > 100).all()
    assert (seen.times[:, 0] < 20).all() and (seen.times[:, :, 1] < 20).all()


@pytest.mark.parametrize(("name", "stage"), PLACES)
def test_a_token_is_compared_with_all_in_every_block(name, stage):
    model, trajectory = run_of(name)
    features = features_of(name, stage)[2].double().numpy()
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    for patch in 0, features.shape[1] - 1:
        ours = token_similarity(trajectory, model, 2, patch, stage=stage).numpy()
        np.testing.assert_allclose(ours, (unit * unit[:, patch : patch + 1]).sum(-1), atol=1e-5)
        np.testing.assert_allclose(ours[:, patch], 1, atol=1e-6)


@pytest.mark.parametrize(("dtype", "told"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("build", [random_model, random_udit])
def test_models_of_another_precision_are_read_in_fp32_at_least(build, dtype, told):
    model = build().to(dtype)
    trajectory, stage = record(model, [1], steps=2), None if build is random_model else "middle"
    colours = fit_colours(trajectory, model, stage=stage)
    assert token_norms(trajectory, model, stage=stage).dtype == told
    assert massive(trajectory, model, stage=stage).times.dtype == told
    assert token_similarity(trajectory, model, 1, 2, stage=stage).dtype == told
    features = trajectory.features(model, 0, stage=stage)
    shown = colours.of(features, trajectory.grid_of(trajectory.blocks_of(stage)[0]))
    assert shown.dtype == colours.axes.dtype == told and torch.isfinite(shown).all()
    assert normalised(features.to(dtype)).dtype == told


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_costs_one_forward_a_step_and_leaves_no_trace(look):
    model, trajectory = run_of("in_context")
    inputs, ran = trajectory.inputs(model, 0, 0, "cond"), []
    before = model(*inputs)
    with model.register_forward_hook(lambda *_: ran.append(1)):
        LOOKS[look](trajectory, model)
    assert len(ran) == (1 if look == "token_similarity" else 4) and torch.equal(model(*inputs), before)

    def stop(*_):
        raise ZeroDivisionError

    with model.out.register_forward_pre_hook(stop), pytest.raises(ZeroDivisionError):
        LOOKS[look](trajectory, model)
    assert hooks_left(model) == 0


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_not_there_is_refused_in_a_sentence(look):
    model, trajectory = run_of("adaln_zero")
    udit, its_run = run_of("U-DiT")
    with pytest.raises(TraceError, match="step must be a whole number from 0 to 3, not 4"):
        LOOKS[look](trajectory, model, steps=[4])
    with pytest.raises(TraceError, match="sample must be a whole number from 0 to 1, not 2"):
        LOOKS[look](trajectory, model, sample=2)
    with pytest.raises(TraceError, match='half must be "cond" or "uncond"'):
        LOOKS[look](trajectory, model, half="both")
    with pytest.raises(TraceError, match="stage must be one of encoder 1, middle, decoder 1"):
        LOOKS[look](its_run, udit)
    with pytest.raises(TraceError, match="recorded with another model"):
        LOOKS[look](trajectory, udit)
    if look != "token_similarity":
        with pytest.raises(TraceError, match="steps must name at least one of the steps 0 to 3"):
            LOOKS[look](trajectory, model, steps=[])
        with pytest.raises(TraceError, match="would take .*, more than the limit of 10 bytes"):
            LOOKS[look](trajectory, model, limit=10)


def test_patches_features_and_samples_that_are_not_there_are_refused():
    model, trajectory = run_of("in_context")
    for top in 0, 2.0, 1 + model.config.dim, True:
        with pytest.raises(TraceError, match=f"top must be a whole number from 1 to {model.config.dim}"):
            massive(trajectory, model, top=top)
    with pytest.raises(TraceError, match="patch must be a whole number from 0 to 5, not 6"):
        token_similarity(trajectory, model, 0, 6)
    with pytest.raises(TraceError, match="sample must name at least one"):
        fit_colours(trajectory, model, sample=[])
    with pytest.raises(TraceError, match="sample must be a whole number from 0 to 1, not 2"):
        fit_colours(trajectory, model, sample=[0, 2])
