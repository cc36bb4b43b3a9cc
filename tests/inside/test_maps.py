"""Maps put together: rollout, who attends to a patch, what a token receives, and how alike heads and steps are."""

import numpy as np
import pytest
import torch
from looks import hooks_left, run_of
from shared import random_model

from dit_lab.inside import TraceError, record
from dit_lab.inside.cutting import Cut
from dit_lab.inside.edits import edited
from dit_lab.inside.maps import attended_by, head_similarity, received, rollout, step_similarity, trajectory_rollout
from dit_lab.models import BLOCKS

NAMES = [*BLOCKS, "U-DiT", "U-DiT kv", "U-DiT whole"]
PLACES = [(block, None) for block in BLOCKS] + [
    (name, stage) for name in NAMES if "U-DiT" in name for stage in ("encoder 1", "middle")
]
STEPS, STEP, SAMPLE = 3, 1, 1
LOOKS = {
    "rollout": lambda run, model, step=0, **asked: trajectory_rollout(run, model, step, **asked),
    "attended_by": lambda run, model, step=0, patch=0, **asked: attended_by(run, model, step, patch, **asked),
    "received": lambda run, model, step=0, **asked: received(run, model, step, **asked),
    "head_similarity": lambda run, model, step=0, **asked: head_similarity(run, model, step, **asked),
}


def maps_of(name, stage, half="cond"):
    """The whole maps on the picture of a stage's blocks, `block head i j`."""
    model, trajectory = run_of(name, STEPS)
    blocks = trajectory.blocks_of(stage)
    return torch.stack([trajectory.attention(model, STEP, sample=SAMPLE, block=block, half=half) for block in blocks])


def test_rollout_is_the_product_of_the_averaged_maps_with_the_identity_mixed_in():
    random = np.random.default_rng(0)
    maps = random.dirichlet(np.ones(5), size=(3, 2, 4, 5))  # block b head i, over j
    for b in range(2):
        expected = np.eye(5)
        for block in range(3):
            expected = (0.5 * maps[block, b].mean(0) + 0.5 * np.eye(5)) @ expected
        ours = rollout([torch.from_numpy(maps[block]) for block in range(3)])[b]
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(ours.sum(-1).numpy(), 1, atol=1e-12)


def test_the_first_block_comes_first():
    """All look at token 0 first, then all at token 1: what reaches them in the end is mostly token 0's by way of 1."""
    to = lambda token: torch.eye(3)[[token] * 3].expand(1, 1, 3, 3)
    assert rollout([to(0), to(1)])[0].tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25]]


@pytest.mark.parametrize(
    "maps", [[], [torch.ones(1, 2, 3, 2)], [torch.ones(2, 3, 3)], [torch.ones(1, 1, 3, 3), torch.ones(1, 1, 4, 4)]]
)
def test_maps_that_do_not_follow_on_each_other_are_refused(maps):
    with pytest.raises(TraceError, match="rollout takes maps of b head i j, all with the same b and i = j, not"):
        rollout(maps)


@pytest.mark.parametrize(("name", "stage"), PLACES)
@pytest.mark.parametrize("half", ["cond", "uncond"])
def test_a_runs_rollout_is_that_of_its_maps(name, stage, half):
    model, trajectory = run_of(name, STEPS)
    ours = trajectory_rollout(trajectory, model, STEP, stage=stage, sample=SAMPLE, half=half)
    maps = maps_of(name, stage, half)
    torch.testing.assert_close(ours, rollout(list(maps[:, None]))[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.sum(-1), torch.ones(len(ours)))


@pytest.mark.parametrize(("name", "stage"), PLACES)
def test_who_attends_to_a_patch_is_the_column_of_every_map(name, stage):
    model, trajectory = run_of(name, STEPS)
    maps = maps_of(name, stage)
    for patch in {0, 4, maps.shape[-1] // 2 + 1, maps.shape[-1] - 1}:
        ours = attended_by(trajectory, model, STEP, patch, stage=stage, sample=SAMPLE)
        torch.testing.assert_close(ours, maps[:, :, :, patch], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "stage"), PLACES)
def test_what_a_token_receives_is_the_mean_of_its_column_over_the_images_queries(name, stage):
    model, trajectory = run_of(name, STEPS)
    ours = received(trajectory, model, STEP, stage=stage, sample=SAMPLE)
    rows, columns = trajectory.grid_of(trajectory.blocks_of(stage)[0])
    torch.testing.assert_close(ours, maps_of(name, stage)[:, :, : rows * columns].mean(2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.sum(-1), torch.ones(ours.shape[:2]))


@pytest.mark.parametrize(("name", "stage"), PLACES)
def test_heads_are_alike_as_their_maps_are(name, stage):
    model, trajectory = run_of(name, STEPS)
    flat = maps_of(name, stage).flatten(2).flatten(0, 1).double().numpy()
    expected = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
    ours = head_similarity(trajectory, model, STEP, stage=stage, sample=SAMPLE)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    assert ours.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_alike_as_one_heads_maps_are(name):
    model, trajectory = run_of(name, STEPS)
    ours = step_similarity(trajectory, model, 2, 1, sample=SAMPLE, steps=[2, 0, 1])
    for row, step in enumerate([2, 0, 1]):
        for column, other in enumerate([2, 0, 1]):
            a, b = (trajectory.attention(model, s, sample=SAMPLE, block=2, head=1).flatten() for s in (step, other))
            assert ours[row, column] == pytest.approx(torch.cosine_similarity(a, b, dim=0).item(), abs=1e-5)
    assert step_similarity(trajectory, model, 2, 1).shape == (3, 3)


@pytest.mark.parametrize(("name", "stage"), [("in_context", None), ("U-DiT", "encoder 1"), ("U-DiT kv", "encoder 1")])
def test_cut_edges_are_missing_in_every_look(name, stage):
    model, trajectory = run_of(name, STEPS)
    asked = dict(stage=stage, sample=SAMPLE)
    with edited(model, Cut(1, [0, 2, 5], [0, 1, 12, 13] if "kv" in name else [2, 4], heads=[1])):
        maps, rolled = maps_of(name, stage), trajectory_rollout(trajectory, model, STEP, **asked)
        columns, given = attended_by(trajectory, model, STEP, 0, **asked), received(trajectory, model, STEP, **asked)
        heads = head_similarity(trajectory, model, STEP, **asked)
        one, other = (step_similarity(trajectory, model, 1, head, sample=SAMPLE) for head in (1, 0))
    close = dict(rtol=1e-4, atol=1e-6)
    flat = torch.nn.functional.normalize(maps.flatten(2).flatten(0, 1), dim=-1)
    rows, width = trajectory.grid_of(trajectory.blocks_of(stage)[0])
    assert (maps == 0).any()
    torch.testing.assert_close(rolled, rollout(list(maps[:, None]))[0], **close)
    torch.testing.assert_close(columns, maps[:, :, :, 0], **close)
    torch.testing.assert_close(given, maps[:, :, : rows * width].mean(2), **close)
    torch.testing.assert_close(heads, flat @ flat.T, rtol=0, atol=1e-5)
    whole = [step_similarity(trajectory, model, 1, head, sample=SAMPLE) for head in (1, 0)]
    assert not torch.equal(one, whole[0]) and torch.equal(other, whole[1])


@pytest.mark.parametrize("look", LOOKS)
def test_few_rows_at_a_time_change_nothing(look, monkeypatch):
    for name, stage in ("in_context", None), ("U-DiT", "middle"), ("U-DiT kv", "encoder 1"):
        model, trajectory = run_of(name, STEPS)
        whole = LOOKS[look](trajectory, model, stage=stage)
        with monkeypatch.context() as changed:
            changed.setattr("dit_lab.inside.looks.AT_ONCE", 1)
            torch.testing.assert_close(LOOKS[look](trajectory, model, stage=stage), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("look", "told"),
    [
        ("rollout", "rollout over these tokens would take 1 KiB"),
        ("attended_by", "one query's row of the attention in all heads would take 512 bytes"),
        ("received", "one query's row of the attention in all heads would take 512 bytes"),
        ("head_similarity", "12 attention maps would take 3 KiB"),
        ("step_similarity", "3 attention maps would take 768 bytes"),
    ],
)
def test_what_takes_too_much_is_said_before_anything_runs(look, told):
    model, trajectory = run_of("in_context", STEPS)
    looks = LOOKS | {"step_similarity": lambda run, model, **asked: step_similarity(run, model, 0, 0, **asked)}
    ran = []
    with model.register_forward_pre_hook(lambda *_: ran.append(1)), pytest.raises(TraceError, match=told):
        looks[look](trajectory, model, limit=400)
    assert not ran


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_not_there_is_refused_in_a_sentence(look):
    model, trajectory = run_of("adaln_zero", STEPS)
    udit, its_run = run_of("U-DiT", STEPS)
    with pytest.raises(TraceError, match="step must be a whole number from 0 to 2, not 3"):
        LOOKS[look](trajectory, model, 3)
    with pytest.raises(TraceError, match="sample must be a whole number from 0 to 1, not 2"):
        LOOKS[look](trajectory, model, sample=2)
    with pytest.raises(TraceError, match='half must be "cond" or "uncond"'):
        LOOKS[look](trajectory, model, half="both")
    with pytest.raises(TraceError, match="stage must be one of encoder 1, middle, decoder 1"):
        LOOKS[look](its_run, udit)
    with pytest.raises(TraceError, match="recorded with another model"):
        LOOKS[look](trajectory, udit)


def test_patches_blocks_and_heads_that_are_not_there_are_refused():
    model, trajectory = run_of("in_context", STEPS)
    assert attended_by(trajectory, model, 0, 7).shape == (3, 4, 8)  # the label token: who attends to the label
    with pytest.raises(TraceError, match="patch must be a whole number from 0 to 7, not 8"):
        attended_by(trajectory, model, 0, 8)
    with pytest.raises(TraceError, match="block must be a whole number from 0 to 2, not 3"):
        step_similarity(trajectory, model, 3, 0)
    with pytest.raises(TraceError, match="head must be a whole number from 0 to 3, not 4"):
        step_similarity(trajectory, model, 0, 4)
    with pytest.raises(TraceError, match="steps must name at least one"):
        step_similarity(trajectory, model, 0, 0, steps=[])


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(("dtype", "told"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_models_of_another_precision_are_read_in_fp32_at_least(look, dtype, told):
    model = random_model("in_context").to(dtype)
    trajectory = record(model, [1], steps=2)
    seen = LOOKS[look](trajectory, model)
    assert seen.dtype == told and torch.isfinite(seen).all()
    torch.testing.assert_close(seen.double(), LOOKS[look](trajectory, model.double()), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_is_one_forward_and_leaves_no_hook(look):
    model, trajectory = run_of("adaln", STEPS)
    inputs, ran = trajectory.inputs(model, 0, 0, "cond"), []
    before = model(*inputs)
    with model.register_forward_hook(lambda *_: ran.append(1)):
        LOOKS[look](trajectory, model)
    assert len(ran) == 1 and torch.equal(model(*inputs), before)
    assert hooks_left(model) == 0
