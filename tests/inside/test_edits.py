"""Edits as scopes: a factor of 1 changes no bit, what is off is gone, and afterwards the model is what it was."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from einops import einsum
from looks import hooks_left
from shared import random_model, random_udit

import dit_lab
from dit_lab.diffusion import generate, sample
from dit_lab.inside import TraceError, record, watch
from dit_lab.inside.edits import Channels, Cut, Label, Modulate, Patch, Scale, Temperature, edited
from dit_lab.inside.geometry import interleaved
from dit_lab.inside.trace import attends, branches, modulation_of
from dit_lab.models import BLOCKS, fold

MODELS = {**{block: random_model(block) for block in BLOCKS}, "u-dit": random_udit()}
OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
INPUTS = (
    torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)),
    torch.tensor([333, 333]),
    torch.tensor([1, 5]),
)
modulated = pytest.mark.parametrize("name", ["adaln", "adaln_zero", "u-dit"])
everywhere = pytest.mark.parametrize("name", MODELS)


def run(model, *edits, inputs=INPUTS):
    """The model's output under edits."""
    with torch.no_grad(), edited(model, *edits):
        return model(*inputs)


def factors(model, factor) -> list:
    """Every edit that has a factor, in every block."""
    edits = []
    for number, block in enumerate(model.blocks):
        for kind in attends(block):
            edits += [Scale(number, kind, factor, heads=[1]), Temperature(number, factor, heads=[0], kind=kind)]
        edits += [Scale(number, branch, factor) for branch in branches(block)]
        if modulation := modulation_of(block):
            edits += [Modulate(number, part, factor) for part in modulation.parts]
        edits += [Temperature(number, factor), Channels(number, [0, 3], factor)]
    return edits


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_factor_of_1_changes_no_bit(name, dtype):
    model = deepcopy(MODELS[name]).to(dtype)
    inputs = INPUTS[0].to(dtype), *INPUTS[1:]
    plain = run(model, inputs=inputs)
    assert torch.equal(run(model, *factors(model, 1), inputs=inputs), plain)
    for edit in factors(model, 1.5):
        assert not torch.equal(run(model, edit, inputs=inputs), plain), edit


@everywhere
def test_after_a_scope_no_hook_and_no_other_bit_is_left_also_after_an_error(name):
    model = deepcopy(MODELS[name])
    plain, before = run(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = record(model, [2, 3], **OPTIONS)
    edits = [*factors(model, 0.5), Cut(1, [0, 2], [2, 0]), Patch(source, 1, "attn"), Label(2)]
    with pytest.raises(ZeroDivisionError), edited(model, *edits):
        assert not torch.equal(run(model), plain)
        _ = 1 / 0
    with pytest.raises(TraceError, match="query"), edited(model, *edits, Cut(0, [500], [0])):
        model(*INPUTS)
    assert hooks_left(model) == 0 and torch.equal(run(model), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("name", "branch"), [*((name, "attn") for name in MODELS), ("cross_attention", "cross")])
def test_switched_off_heads_are_the_model_with_their_columns_of_the_output_projection_zeroed(name, branch):
    model = MODELS[name]
    zeroed, heads = deepcopy(model), [0] if name == "u-dit" else [1, 3]
    weight = branches(zeroed.blocks[1])[branch].out.weight
    width = weight.shape[1] // model.config.heads
    with torch.no_grad():
        for head in heads:
            weight[:, head * width : (head + 1) * width] = 0
    assert torch.equal(run(model, Scale(1, branch, 0, heads=heads)), run(zeroed))


@everywhere
def test_a_switched_off_branch_adds_nothing_with_its_bias(name):
    model = MODELS[name]
    for number, branch in (0, "attn"), (1, "mlp"):
        zeroed = deepcopy(model)
        block = branches(zeroed.blocks[number])[branch]
        block.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        assert torch.equal(run(model, Scale(number, branch, 0)), run(zeroed))


@pytest.mark.parametrize("name", ["adaln_zero", "u-dit"])
def test_a_gate_of_0_is_the_branch_of_0_and_twice_the_gate_is_twice_the_branch(name):
    model = MODELS[name]
    assert torch.equal(run(model, Modulate(1, "gate_mlp", 0)), run(model, Scale(1, "mlp", 0)))
    assert torch.equal(run(model, Modulate(1, "gate_attn", 2)), run(model, Scale(1, "attn", 2)))
    assert not torch.equal(run(model, Modulate(1, "shift_attn", 2)), run(model))


@modulated
def test_a_modulation_is_edited_by_its_name_and_the_others_are_not(name):
    model = MODELS[name]
    with watch(model) as plain, torch.no_grad():
        model(*INPUTS)
    with edited(model, Modulate(1, "scale_mlp", -3)), watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    for part, vectors in plain.modulation.items():
        for block, vector in vectors.items():
            factor = -3 if (part, block) == ("scale_mlp", 1) else 1
            assert torch.equal(seen.modulation[part][block], factor * vector), (part, block)


@everywhere
def test_a_temperature_divides_the_logits_of_its_heads_and_a_look_shows_it(name):
    model = MODELS[name]
    with watch(model) as plain, torch.no_grad():
        model(*INPUTS)
    with edited(model, Temperature(1, 2.0, heads=[1])), watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    before, after = plain.attention(1), seen.attention(1)
    expected = before[:, 1].sqrt() / before[:, 1].sqrt().sum(-1, keepdim=True)
    torch.testing.assert_close(after[:, 1], expected, atol=1e-5, rtol=0)
    assert torch.equal(after[:, 0], before[:, 0])


@everywhere
def test_channels_of_the_residual_stream_are_multiplied_and_only_those(name):
    model = MODELS[name]
    with edited(model, Channels(0, [2, 5], 0.25)), watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    with watch(model) as plain, torch.no_grad():
        model(*INPUTS)
    expected = plain.features[0].clone()
    expected[..., [2, 5]] *= 0.25
    assert torch.equal(seen.features[0], expected)


def test_a_look_that_began_before_the_edit_shows_it_too():
    model = MODELS["adaln_zero"]
    edits = Temperature(0, 3), Cut(0, [1], [2]), Channels(0, [0], 0), Modulate(0, "gate_mlp", 2)
    with watch(model) as around, edited(model, *edits), watch(model) as within, torch.no_grad():
        model(*INPUTS)
    assert torch.equal(around.attention(0), within.attention(0)) and (around.attention(0)[:, :, 1, 2] == 0).all()
    assert torch.equal(around.features[0], within.features[0]) and (around.features[0][..., 0] == 0).all()
    assert torch.equal(around.modulation["gate_mlp"][0], within.modulation["gate_mlp"][0])


def test_scopes_nest_and_edits_of_one_place_follow_each_other_as_given():
    model, source = MODELS["adaln_zero"], record(MODELS["adaln_zero"], [2, 3], **OPTIONS)
    patch, half = Patch(source, 1, "mlp"), Scale(1, "mlp", 0.5)
    patched, both = run(model, patch), run(model, patch, half)
    assert torch.equal(run(model, half, patch), patched) and not torch.equal(both, patched)
    with edited(model, patch):
        assert torch.equal(run(model, half), both)
        assert torch.equal(run(model), patched)
    with edited(model, half):
        assert torch.equal(run(model, patch), patched)
    assert torch.equal(run(model, half, half), run(model, Scale(1, "mlp", 0.25)))
    assert hooks_left(model) == 0


@everywhere
@pytest.mark.parametrize("heads", [None, [1]])
def test_a_cut_edge_weighs_nothing_and_the_rest_of_its_row_sums_to_1(name, heads):
    model = MODELS[name]
    queries, keys = ([0, 13], [2, 13, 26]) if name == "u-dit" else ([0, 4], [1, 4, 5])
    with watch(model) as plain, torch.no_grad():
        model(*INPUTS)
    with edited(model, Cut(1, queries, keys, heads=heads)), watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    before, after = plain.attention(1), seen.attention(1)
    expected, of = before.clone(), slice(None) if heads is None else heads
    for query in queries:
        row = expected[:, of, query]
        row[..., keys] = 0
        expected[:, of, query] = row / row.sum(-1, keepdim=True)
        assert (after[:, of, query][..., keys] == 0).all()
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.sum(-1), torch.ones_like(after[..., 0]))
    others = [query for query in range(after.shape[2]) if query not in queries]
    assert torch.equal(after[:, :, others], before[:, :, others])
    torch.testing.assert_close(seen.attention(1, queries=queries[:1]), after[:, :, queries[:1]], atol=1e-6, rtol=0)


@everywhere
def test_the_network_runs_with_the_attention_that_a_look_shows(name):
    """What `Attend` gives under cuts and a temperature is the map that is seen times v; other rows keep every bit."""
    model, passed = MODELS[name], []
    cuts = Cut(1, [0, 1], [2, 13]), Cut(1, [0], [0]), Temperature(1, 2, heads=[0]), Cut(1, [3], [1, 3], heads=[1])
    if name != "u-dit":
        cuts = Cut(1, [0, 1], [2, 3]), Cut(1, [0], [0]), Temperature(1, 2, heads=[0]), Cut(1, [3], [1, 3], heads=[1])
    attend = model.blocks[1].attn.attend
    with edited(model, *cuts):
        keep = attend.register_forward_hook(lambda module, inputs, output: passed.append((*inputs, output)))
        with watch(model) as seen, torch.no_grad():
            model(*INPUTS)
    keep.remove()
    ((q, k, v, out),) = passed
    if name == "u-dit":
        grids = interleaved(8, 12, 2)
        v, out = (x.unflatten(0, (2, 4)) for x in (v, out))
        whole = lambda x: torch.stack([x[:, :, :, m] for m in range(24)]).permute(1, 3, 2, 0, 4).flatten(2, 3)
        v, out = (torch.zeros_like(whole(x)).index_copy_(2, grids.flatten(), whole(x)) for x in (v, out))
    torch.testing.assert_close(einsum(seen.attention(1), v, "b head i j, b head j e -> b head i e"), out)
    if name != "u-dit":
        untouched = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert torch.equal(out[:, :, 2], untouched[:, :, 2]) and torch.equal(out[:, 0, 3], untouched[:, 0, 3])
        assert not torch.equal(out[:, 1, 3], untouched[:, 1, 3])


def test_a_cut_at_sharp_attention_renormalises_what_would_have_underflown():
    model = deepcopy(MODELS["adaln_zero"])
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight *= 40
    with watch(model) as plain, torch.no_grad():
        model(*INPUTS)
    sharpest = plain.attention(1)[0, 0].max(-1)
    query = sharpest.values.argmax().item()
    assert sharpest.values[query] > 1 - 1e-6
    with edited(model, Cut(1, [query], [sharpest.indices[query].item()])), watch(model) as seen, torch.no_grad():
        assert model(*INPUTS).isfinite().all()
    torch.testing.assert_close(seen.attention(1)[0, 0, query].sum(), torch.tensor(1.0))


def test_condition_tokens_can_be_cut_off_in_context_and_in_cross_attention():
    model = MODELS["in_context"]
    with edited(model, *(Cut(block, range(7), [7]) for block in range(3))), torch.no_grad():
        label = [model(*INPUTS[:2], torch.tensor(y)) for y in ([1, 5], [3, 0])]
    assert torch.equal(*label)  # neither image nor time token saw the label, and its own is dropped at the end
    model = MODELS["cross_attention"]
    with edited(model, *(Cut(block, range(6), [1], kind="cross") for block in range(3))), torch.no_grad():
        label = [model(*INPUTS[:2], torch.tensor(y)) for y in ([1, 5], [3, 0])]
        with watch(model) as seen:
            model(*INPUTS)
    assert torch.equal(*label)
    assert (seen.attention(2, kind="cross") == torch.tensor([1.0, 0.0])).all()


def test_keys_that_cover_several_tokens_are_cut_together():
    model = random_udit(downsample="kv")
    with pytest.raises(TraceError, match="keys of block 0 cover 4 tokens each: name all of 2, 3, 14, 15"):
        run(model, Cut(0, [0], [2, 3, 14]))
    with edited(model, Cut(0, [0, 7], [2, 3, 14, 15])), watch(model) as seen, torch.no_grad():
        model(*INPUTS)
    weights = seen.attention(0)
    assert (weights[:, :, [0, 7]][..., [2, 3, 14, 15]] == 0).all() and (weights[:, :, 1, 2] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 96))


@everywhere
@pytest.mark.parametrize("keyword", [False, True])
def test_a_label_takes_the_place_of_every_row_that_is_not_null(name, keyword):
    model, (x, t, _) = MODELS[name], INPUTS
    given, expected = torch.tensor([1, 5]), torch.tensor([3, 5])
    with edited(model, Label(3)), torch.no_grad():
        out = model(x, t=t, y=given) if keyword else model(x, t, given)
    assert torch.equal(out, run(model, inputs=(x, t, expected)))
    guided = [torch.cat([tensor, tensor]) for tensor in (x, t)]
    out = run(model, Label(3), inputs=(*guided, torch.tensor([1, 2, 5, 5])))
    assert torch.equal(out, run(model, inputs=(*guided, torch.tensor([3, 3, 5, 5]))))
    for nobody in None, torch.tensor([5, 5]):
        with pytest.raises(TraceError, match="all rows of this forward have the null label"):
            run(model, Label(3), inputs=(x, t, nobody))


def test_sampling_in_a_label_scope_is_sampling_that_label():
    model = MODELS["adaln_zero"]
    with edited(model, Label(4)):
        sampled = generate(model, [1, 2], **OPTIONS)
    assert torch.equal(sampled, generate(model, [4, 4], **OPTIONS))
    steps = []
    for step in sample(model, [1, 2], **OPTIONS):
        steps.append(step)
    assert not torch.equal(steps[-1].previous, sampled)


def test_a_folded_u_dit_is_an_ordinary_model_that_can_be_edited():
    model, folded = MODELS["u-dit"], fold(MODELS["u-dit"])
    edits = Scale(3, "mlp", 0.5), Scale(0, "attn", 0, heads=[1]), Cut(1, [0], [2])
    torch.testing.assert_close(run(folded, *edits), run(model, *edits), atol=1e-4, rtol=1e-4)
    source = record(model, [1], **OPTIONS)
    patches = Patch(source, 0, "attn"), Patch(source, 2, "mlp")
    torch.testing.assert_close(run(folded, *patches), run(model, *patches), atol=1e-4, rtol=1e-4)


def test_compiled_models_are_refused_and_told_what_to_edit_instead():
    model = random_model()
    with pytest.raises(TraceError, match=r"edit and run the model itself, model\._orig_mod"):
        run(torch.compile(model), Scale(0, "mlp", 0))
    run(model, Scale(0, "mlp", 0))
    for part in model, model.blocks[1]:
        part.compile()
        with pytest.raises(TraceError, match=r"edit and run a plain copy of it, copy\.deepcopy\(model\)"):
            run(model, Scale(0, "mlp", 0))
    assert not torch.equal(run(deepcopy(model), Scale(0, "mlp", 0)), run(deepcopy(model)))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda: Scale(3, "attn", 0), "block must be a whole number from 0 to 2, not 3"),
        (lambda: Scale(True, "attn", 0), "block must be a whole number from 0 to 2, not True"),
        (lambda: Scale(1, "cross", 0), "block 1 has the branches attn, mlp, not 'cross'"),
        (lambda: Scale(1, ["attn"], 0), "block 1 has the branches attn, mlp, not"),
        (lambda: Scale(1, "attn", float("nan")), "factor must be a finite number, not nan"),
        (lambda: Scale(1, "attn", 10**400), "factor must be a finite number, not"),
        (lambda: Scale(1, "attn", "2"), "factor must be a finite number, not '2'"),
        (lambda: Scale(1, "attn", 0, heads=[4]), "head must be a whole number from 0 to 3, not 4"),
        (lambda: Scale(1, "attn", 0, heads=[]), r"heads must be a list of at least one number, not \[\]"),
        (lambda: Scale(1, "attn", 0, heads=2), "heads must be a list of numbers, not 2"),
        (lambda: Scale(1, "attn", 0, heads=[1.5]), "heads must be whole numbers from 0 on, not 1.5"),
        (lambda: Scale(1, "attn", 0, heads="01"), "heads must be whole numbers from 0 on, not '0'"),
        (lambda: Scale(1, "mlp", 0, heads=[0]), "the mlp of a block has no heads: leave heads out"),
        (lambda: Modulate(1, "gate", 0), "part must be one of shift_attn, scale_attn, gate_attn, shift_mlp"),
        (lambda: Temperature(1, 0), "the factor of a temperature must be above 0, not 0.0"),
        (lambda: Temperature(1, 2, kind="mlp"), "block 1 has attention of kind attn, not 'mlp'"),
        (lambda: Channels(1, [10**4], 0), "channel must be a whole number from 0 to 95, not 10000"),
        (lambda: Channels(1, None, 0), "numbers must be a list of at least one number, not None"),
        (lambda: Label(6), "label must be a whole number from 0 to 5, not 6"),
        (lambda: Cut(0, [], [1]), r"queries must be a list of at least one number, not \[\]"),
        (lambda: Cut(0, [6], [1]), "query must be a whole number from 0 to 5, not 6"),
        (lambda: Cut(0, [0], [8]), "key must be a whole number from 0 to 5, not 8"),
        (lambda: Cut(0, [0], range(6)), "a cut in block 0 leaves a query no key to attend to"),
        (lambda: Cut(0, [0], [1], kind="cross"), "block 0 has attention of kind attn, not 'cross'"),
        (lambda: Patch("run", 0, "attn"), r"a patch takes a recorded run, record\(model, labels\), not 'run'"),
        (lambda: "Scale", "an edit is one of Cut, Patch, Scale, Modulate, .* given one by one, not 'Scale'"),
        (lambda: [Label(1)], "an edit is one of .* given one by one, not"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence_that_names_what_is(edit, sentence):
    model = MODELS["adaln_zero"]
    with pytest.raises(TraceError, match=sentence):
        run(model, edit())
    assert hooks_left(model) == 0


def test_what_this_kind_of_model_has_no_place_for_is_refused():
    for name in "in_context", "cross_attention":
        with pytest.raises(TraceError, match="blocks have no modulation; adaLN and adaLN-Zero have"):
            run(MODELS[name], Modulate(0, "gate_attn", 0))
    with pytest.raises(TraceError, match="a model without classes has no label"):
        run(random_model(num_classes=0), Label(0))
    with pytest.raises(TraceError, match="label must be a whole number from 0 to 4, not 5"):
        run(random_model(null_label=False), Label(5))
    with pytest.raises(TraceError, match="none of these queries attends to one of these keys, which are on other"):
        run(MODELS["u-dit"], Cut(0, [0], [1, 12]))
    with pytest.raises(TraceError, match="leaves a query no key"):
        run(MODELS["adaln_zero"], Cut(0, [0], [0, 1, 2]), Cut(0, [0], [3, 4, 5]))
    with pytest.raises(TraceError, match="is a DiT or U-DiT itself, unwrapped, not a Linear"):
        run(torch.nn.Linear(2, 2), Scale(0, "attn", 0))


def test_edits_compare_by_what_they_say():
    assert Scale(0, "attn", 0, heads=[2, 1, 1]) == Scale(0, "attn", 0.0, heads=np.array([1, 2]))
    assert Cut(0, range(2), torch.tensor([3])) == Cut(0, [1, 0], (3,))
    assert Scale(0, "attn", 0) != Scale(0, "attn", 0, heads=[0])
    assert len({Scale(0, "attn", 0, heads=[1]), Scale(0, "attn", 0, heads=(1,))}) == 1


def test_on_the_shipped_model_one_head_off_moves_the_prediction_and_another_number_of_tokens_is_found_out():
    model = dit_lab.load("mnist").model
    trajectory = record(model, [3], steps=3, seed=0)
    inputs = trajectory.inputs(model, 1, 0, "cond")
    assert not torch.equal(run(model, Scale(2, "attn", 0, heads=[0]), inputs=inputs), run(model, inputs=inputs))
    with pytest.raises(TraceError, match="query must be a whole number from 0 to"):
        run(model, Cut(0, [10**4], [0]), inputs=inputs)
