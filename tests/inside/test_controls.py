"""Controls are edits of the same kind and size elsewhere, and an effect is measured beside theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from looks import hooks_left
from shared import random_model, random_udit

from dit_lab.inside import Box, TraceError, record
from dit_lab.inside.controls import control, controls_of, effect, effects
from dit_lab.inside.edits import Channels, Cut, Label, Modulate, Patch, Scale, Temperature, edited
from dit_lab.inside.rerun import rerun

MODEL, JOINED, CROSSED, UDIT = (
    random_model(),
    random_model("in_context"),
    random_model("cross_attention"),
    random_udit(),
)
OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]


def sources():
    return {model: record(model, [3], **OPTIONS) for model in (MODEL, JOINED, UDIT)}


SOURCES = sources()
EDITS = [
    (MODEL, Scale(1, "attn", 0, heads=[0, 2])),
    (MODEL, Scale(1, "mlp", 0.5)),
    (CROSSED, Scale(2, "cross", 0, heads=[3])),
    (MODEL, Modulate(0, "gate_attn", 0)),
    (JOINED, Temperature(2, 4, heads=[1])),
    (CROSSED, Temperature(2, 4, kind="cross")),
    (MODEL, Channels(1, [3, 4, 90], 0)),
    (MODEL, Label(2)),
    (MODEL, Cut(1, [0, 1], [4])),
    (JOINED, Cut(1, [0, 6], [4, 7], heads=[2])),
    (CROSSED, Cut(1, [0, 3], [1], kind="cross")),
    (UDIT, Cut(2, [0, 1], [2, 13], heads=[1])),
    (UDIT, Scale(4, "attn", 0, heads=[0])),
    (MODEL, Patch(SOURCES[MODEL], 0, "attn", heads=[1], tokens=[0, 1])),
    (JOINED, Patch(SOURCES[JOINED], 0, "block", tokens=[5, 7])),
    (UDIT, Patch(SOURCES[UDIT], 0, "mlp")),
]
each = pytest.mark.parametrize(("model", "edit"), EDITS, ids=[type(edit).__name__ for _, edit in EDITS])


def length(value):
    return len(value) if isinstance(value, tuple) else value


@each
def test_a_control_is_the_same_kind_and_size_of_edit_elsewhere(model, edit):
    controls = [control(edit, model, seed) for seed in range(40)]
    assert controls[:5] == [control(edit, model, seed) for seed in range(5)]
    assert len(set(controls)) > 1 or model is UDIT  # whose stages have two blocks
    for other in controls:
        assert other != edit and type(other) is type(edit)
        kept = {name for name in vars(edit) if name not in ("block", "label")}
        assert all(length(getattr(other, name)) == length(getattr(edit, name)) for name in kept), other
        if not isinstance(edit, Label):
            stages = list(model.config.stage_blocks.values())
            assert [edit.block in blocks for blocks in stages] == [other.block in blocks for blocks in stages]
        with edited(model, other), torch.no_grad():
            model(torch.zeros(1, 3, 8, 12), torch.tensor([333]), torch.tensor([1]))


def test_places_are_drawn_from_all_there_are():
    heads = [control(Scale(1, "attn", 0, heads=[2]), MODEL, seed) for seed in range(300)]
    assert {(edit.block, *edit.heads) for edit in heads} == {(b, h) for b in range(3) for h in range(4)} - {(1, 2)}
    whole = [control(Scale(1, "mlp", 0), MODEL, seed) for seed in range(50)]
    assert {edit.block for edit in whole} == {0, 2}
    labels = [control(Label(5), MODEL, seed).label for seed in range(100)]
    assert set(labels) == {0, 1, 2, 3, 4}


def test_tokens_move_together_around_the_edges_so_that_their_shape_stays():
    edit = Cut(1, [0, 1, 3], [5])
    for seed in range(50):
        other = control(edit, MODEL, seed)
        places = [np.divmod(tokens, 3) for tokens in (other.queries, other.keys)]
        found = {
            (down, right)
            for down in range(2)
            for right in range(3)
            if all(
                set(tokens) == {(token // 3 + down) % 2 * 3 + (token % 3 + right) % 3 for token in own}
                for tokens, own in ((other.queries, edit.queries), (other.keys, edit.keys))
            )
        }
        assert found and (0, 0) not in found, places


def test_condition_tokens_become_image_tokens_and_image_tokens_stay_image_tokens():
    for seed in range(50):
        other = control(Cut(1, [0, 1], [6, 7, 2]), JOINED, seed)
        assert max(*other.queries, *other.keys) < 6 and len(set(other.keys)) == 3
        assert control(Cut(1, [0], [1], kind="cross"), CROSSED, seed).keys == (1,)


def test_keys_that_cover_several_tokens_stay_whole():
    model = random_udit(downsample="kv")
    for seed in range(20):
        other = control(Cut(0, [0, 7], [2, 3, 14, 15]), model, seed)
        with edited(model, other), torch.no_grad():
            model(torch.zeros(1, 3, 8, 12), torch.tensor([333]), torch.tensor([1]))


def test_channels_are_others_and_all_others_where_more_than_half_are_edited():
    for seed in range(20):
        assert not set(control(Channels(0, range(40), 0), MODEL, seed).numbers) & set(range(40))
    many = control(Channels(0, range(60), 0), MODEL, 0).numbers
    assert set(range(60, 96)) < set(many) and len(many) == 60


def test_where_there_is_no_other_place_there_is_no_control():
    shallow = random_model(depth=1)
    for edit in Scale(0, "attn", 0), Scale(0, "attn", 0, heads=range(4)), Modulate(0, "gate_mlp", 0):
        with pytest.raises(TraceError, match=f"no other place for a {type(edit).__name__} of this size, so it has no"):
            control(edit, shallow, 0)
    assert control(Scale(0, "attn", 0, heads=[1]), shallow, 0).block == 0
    with pytest.raises(TraceError, match="no other place for a Channels"):
        control(Channels(0, range(96), 0), shallow, 0)
    with pytest.raises(TraceError, match="no other place for a Label"):
        control(Label(0), random_model(num_classes=1), 0)
    with pytest.raises(TraceError, match="no other place for a Patch"):
        source = record(shallow, [1], **OPTIONS)
        control(Patch(source, 0, "block", tokens=range(6)), shallow, 0)


def test_an_effect_is_the_distance_that_the_edit_and_its_controls_move_a_run():
    run, edit = record(MODEL, LABELS, **OPTIONS), Scale(1, "attn", 0, heads=[2])
    found = effect(run, MODEL, edit, controls=5)
    assert found.edit == edit and len({*found.controls, edit}) == 6
    for each, picture, x0 in zip(
        [edit, *found.controls],
        [found.picture, *found.picture_controls],
        [found.x0, *found.x0_controls],
        strict=True,
    ):
        moved = rerun(run, MODEL, each)
        distance = np.sqrt(np.mean((moved["sample"] - run.sample).numpy() ** 2))
        np.testing.assert_allclose(float(picture), distance, rtol=1e-6)
        steps = np.sqrt(np.mean((moved["x0"] - run.x0).numpy() ** 2, axis=(1, 2, 3, 4)))
        np.testing.assert_allclose(x0, steps, rtol=1e-4)
    assert found.x0.shape == (4,) and found.x0_controls.shape == (5, 4)
    assert found.rank == 1 + sum(float(picture) >= found.picture for picture in found.picture_controls)
    ranks = {effect(run, MODEL, control, controls=11).rank for control in (edit, *found.controls)}
    assert len(ranks) == 6  # of the twelve heads, each is another one's control


def test_an_effect_step_by_step_is_the_same_and_between_two_steps_the_model_is_what_it_was():
    run, edit = record(MODEL, LABELS, **OPTIONS), Scale(1, "attn", 0, heads=[2])
    edits = [edit, *controls_of(run, MODEL, edit, 2)]
    walking, seen, walks = effects(run, MODEL, edits, steps=[1, 2]), [], []
    while True:
        try:
            number, step, walked = next(walking)
        except StopIteration as end:
            found = end.value
            break
        assert hooks_left(MODEL) == 0
        (seen if walked is None else walks).append((number, step) if walked is None else walked)
    assert seen == [(number, step) for number in range(3) for step in range(4)]
    same = effect(run, MODEL, edit, 2, steps=[1, 2])
    assert found.edit == same.edit and found.controls == same.controls == edits[1:]
    assert (found.picture, found.rank) == (same.picture, same.rank) and torch.equal(found.x0_controls, same.x0_controls)
    for each, walked in zip(edits, walks, strict=True):
        assert torch.equal(walked["x0"], rerun(run, MODEL, each, steps=[1, 2])["x0"])
    with pytest.raises(TraceError, match="block must be a whole number"):
        effects(run, MODEL, [edit, Scale(9, "mlp", 0)])  # at once, before any step


def test_an_effect_at_some_steps_and_in_a_region_is_of_those_alone():
    run, edit = record(MODEL, LABELS, **OPTIONS), Scale(1, "mlp", 0)
    late = effect(run, MODEL, edit, controls=2, steps=[2, 3])
    assert (late.x0[:2] == 0).all() and (late.x0[2:] > 0).all() and (late.x0_controls[:, :2] == 0).all()
    box, mask = Box(4, 0, 4, 8), torch.zeros(8, 12, dtype=torch.bool)
    mask[4:8, 0:8] = True
    within, same = (effect(run, MODEL, edit, controls=2, steps=[3], region=region) for region in (box, mask))
    moved = rerun(run, MODEL, edit, steps=[3])["sample"] - run.sample
    assert within.picture == same.picture
    torch.testing.assert_close(within.picture, moved[..., 4:8, 0:8].square().mean().sqrt().item())
    assert within.picture != effect(run, MODEL, edit, controls=2, steps=[3]).picture


def test_fewer_places_give_fewer_controls_and_the_runs_own_label_is_none():
    run = record(MODEL, [1, 1], **OPTIONS)
    found = effect(run, MODEL, Scale(1, "mlp", 0))
    assert sorted(edit.block for edit in found.controls) == [0, 2] and found.picture_controls.shape == (2,)
    labels = effect(run, MODEL, Label(3), steps=[3]).controls
    assert sorted(edit.label for edit in labels) == [0, 2, 4]
    assert (effect(run, MODEL, Label(3)).picture_controls > 0).all()


def test_a_stage_with_too_few_places_borrows_from_others_and_tokens_from_those_of_their_grid():
    run = SOURCES[UDIT]
    assert [edit.block for edit in effect(run, UDIT, Scale(3, "mlp", 0), controls=1).controls] == [2]
    first, *rest = effect(run, UDIT, Scale(3, "mlp", 0)).controls
    assert first.block == 2 and sorted(edit.block for edit in rest) == [0, 1, 4, 5]
    tokens = [control(Patch(run, 0, "mlp", tokens=[95]), UDIT, seed, wide=True) for seed in range(60)]
    assert {edit.block for edit in tokens} == {1, 4, 5}


def test_what_makes_no_sense_is_refused_in_a_sentence():
    run = record(MODEL, LABELS, **OPTIONS)
    refused = [
        (dict(controls=0), "controls must be a whole number of at least 1, not 0"),
        (dict(controls=2.5), "controls must be a whole number of at least 1, not 2.5"),
        (dict(steps=[]), "steps must name at least one step from 0 to 3"),
        (dict(region=Box(0, 0, 0, 4)), "the region is empty"),
        (dict(region=Box(0, 10, 2, 4)), "reaches out of it"),
    ]
    for options, sentence in refused:
        with pytest.raises(TraceError, match=sentence):
            effect(run, MODEL, Scale(1, "mlp", 0), **options)
    with pytest.raises(TraceError, match="block must be a whole number from 0 to 2, not 3"):
        effect(run, MODEL, Scale(3, "mlp", 0))
    with pytest.raises(TraceError, match="recorded with another model"):
        effect(run, JOINED, Scale(1, "mlp", 0))
    with pytest.raises(TraceError, match="seed must be a whole number, not 'x'"):
        control(Scale(1, "mlp", 0), MODEL, "x")
    with pytest.raises(TraceError, match="an edit is one of"):
        control("Scale", MODEL, 0)
    with pytest.raises(TraceError, match="token must be a whole number from 0 to 5, not 9"):
        control(Cut(1, [9], [0]), MODEL, 0)
    assert control(Cut(1, [9], [0]), MODEL, 0, size=(16, 12)).queries != (9,)
    with pytest.raises(TraceError, match="step must be a whole number from 0 to 3, not 4"):
        replace(run, **rerun(run, MODEL, Label(2), steps=[4]))
