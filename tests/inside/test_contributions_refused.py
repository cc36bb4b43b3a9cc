"""What contributions refuse: what is not there, runs and models that cannot be split, blocks that do not add."""

import pytest
import torch
from looks import hooks_left
from shared import random_model, random_udit

from dit_lab.diffusion import Diffusion
from dit_lab.inside import TraceError, record
from dit_lab.inside.contributions import contribution_norms, contributions
from dit_lab.inside.edits import Channels, Label, Modulate, Scale, edited
from dit_lab.inside.parts import Part
from dit_lab.models import BLOCKS, Block
from dit_lab.models.layers import LayerNorm, Modulation, modulate

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 4]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def run(model):
    return record(model, LABELS, **OPTIONS)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (dict(step=4), "step must be a whole number from 0 to 3, not 4"),
        (dict(step=-1), "step must be a whole number from 0 to 3, not -1"),
        (dict(sample=2), "sample must be a whole number from 0 to 1, not 2"),
        (dict(sample=[0]), "sample must be a whole number from 0 to 1"),
        (dict(half="both"), """half must be "cond", "uncond" or "guided" .*not 'both'"""),
        (dict(limit=1000), r"23 parts of \(3, 8, 12\) take 77.6 KiB, more than the limit of 0.977 KiB"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(run, model, asked, told):
    with pytest.raises(TraceError, match=told):
        contributions(run, model, **dict(step=1) | asked)


def test_parts_are_found_by_kind_block_and_head(run, model):
    found = contributions(run, model, 1)
    second = found.of("attn", 1)
    assert second.parts == [Part("attn", 1, head) for head in range(4)]
    places = [found.parts.index(part) for part in second.parts]
    assert torch.equal(second.x0, found.x0[places]) and torch.equal(second.eps, found.eps[places])
    with pytest.raises(TraceError, match="kind must be one of patches, positions, attn, .*not 'cross'"):
        found.of("cross")
    with pytest.raises(TraceError, match="no attn of block 3 and head 0: they go from block 0 head 0 to"):
        found.of("attn", 3, 0)


def test_runs_and_models_that_cannot_be_split_are_refused(run, model):
    with pytest.raises(TraceError, match="recorded with another model; they differ in depth"):
        contributions(run, random_model(depth=2), 0)
    with pytest.raises(TraceError, match="step 0 of this run was taken without guidance"):
        contributions(record(model, LABELS, steps=2), model, 0, half="guided")
    own = record(model, LABELS, steps=2, process=Diffusion.named("cosine", steps=50))
    with pytest.raises(TraceError, match="a process of its own"):
        contributions(own, model, 0)
    with pytest.raises(TraceError, match="compiled, .* _orig_mod"):
        contributions(run, torch.compile(model), 0)
    in_place = random_model()
    in_place.compile()
    with pytest.raises(TraceError, match="compiled"):
        contribution_norms(run, in_place)


def test_a_compiled_block_hides_what_passes():
    model = random_model()
    run = record(model, LABELS, **OPTIONS)
    forward = model.blocks[1].attn.out.forward
    model.blocks[1].attn.out._compiled_call_impl = lambda x: forward(x)  # as compile() leaves it: past all hooks
    with pytest.raises(TraceError, match="nothing passed the attn of block 1, .*not compiled"):
        contributions(run, model, 1)
    assert hooks_left(model) == 0


def test_an_output_that_is_not_finite_has_no_parts(run):
    model = random_model()
    with torch.no_grad():
        model.out.bias[0] = torch.nan
    with pytest.raises(TraceError, match="NaN or Inf"):
        contributions(run, model, 1)


def fifth_block(forward):
    """A block of somebody's own: one gate for both branches' input, and `forward` as it is given."""

    class Fifth(Block):
        name, title, modulated = "fifth", "fifth", True

        def __init__(self, dim, heads, attn, mlp):
            super().__init__(dim, heads, attn, mlp)
            self.norm = LayerNorm(dim)
            self.modulation = Modulation(dim, ("shift", "scale", "gate_mlp"))

    Fifth.forward = forward
    return Fifth


@pytest.fixture
def registered():
    yield
    BLOCKS.pop("fifth", None)


def test_a_fifth_block_that_adds_gated_branches_is_split_like_the_four(registered):
    def parallel(self, x, cond):
        shift, scale, gate = self.modulation(cond)
        y = modulate(self.norm(x), shift, scale)
        return x + self.attn(y) + gate * self.mlp(y)

    fifth_block(parallel)
    for make in random_model, random_udit:
        model = make("fifth")
        assert contributions(record(model, LABELS, **OPTIONS), model, 1).error < 1e-5


def test_a_fifth_block_that_does_otherwise_is_told_what_it_must_do(registered):
    def halved(self, x, cond):
        return x / 2 + self.attn(self.norm(x)) + self.modulation(cond)[2] * self.mlp(x)

    fifth_block(halved)
    model = random_model("fifth")
    with pytest.raises(TraceError, match="miss the model's output by .*a block must add to its input its attn, cross"):
        contributions(record(model, LABELS, **OPTIONS), model, 1)


def test_edits_are_split_or_said_to_come_between(run, model):
    with edited(model, Scale(1, "attn", 0.0, heads=[2]), Modulate(0, "gate_mlp", 0.5), Label(3)):
        found = contributions(run, model, 2)
        assert found.error < 1e-5 and not found.of("attn", 1, 2).output.any() and found.of("attn", 1, 1).output.any()
    for edit in Scale(1, "attn", 0.5), Channels(0, [3], 0.0):
        with edited(model, edit), pytest.raises(TraceError, match="an active edit may come between"):
            contributions(run, model, 2)


def test_layers_that_have_no_heads_to_split_are_named(run):
    model = random_model()
    model.blocks[1].attn.out = torch.nn.Sequential(model.blocks[1].attn.out)
    with pytest.raises(TraceError, match="the attn of block 1 has no `heads` that meet in a linear layer"):
        contributions(run, model, 1)
    model = random_model()
    model.final_norm = torch.nn.Identity()
    with pytest.raises(TraceError, match="the last norm is a 'Identity', no ModulatedNorm or PlainNorm"):
        contributions(run, model, 1)
