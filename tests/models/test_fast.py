"""A fast model gives what the model gives, sooner: exactly in fp32, within what was promised in half precision."""

import copy
import shutil
import sys

import pytest
import torch
from halves import FORWARD, HALVES, ROUNDING, SAMPLE, error, inputs
from looks import hooks_left
from shared import random_model, random_udit
from torch.utils._python_dispatch import TorchDispatchMode

from dit_lab.diffusion import SAMPLERS, generate, sample
from dit_lab.inside import Label, Scale, edited, record, watch
from dit_lab.models import BLOCKS, DiT, DiTConfig, build, fast, fold
from dit_lab.models import ahead as ahead_file
from dit_lab.models.blocks import Block
from dit_lab.models.compiling import AS_CONSTANTS
from dit_lab.models.layers import LayerNorm

MODELS = {**{block: random_model(block) for block in BLOCKS}, "u-dit": random_udit()}
OPTIONS = dict(steps=4, cfg_scale=2.0, seed=1)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_in_fp32_it_is_the_model_or_of_a_udit_the_folded_one_bit_for_bit(name):
    model = fold(MODELS[name]) if name == "u-dit" else MODELS[name]
    quick = fast(MODELS[name], precision="fp32")
    assert torch.equal(quick(*inputs(model)), model(*inputs(model)))
    assert torch.equal(generate(quick, [1, 2], **OPTIONS), generate(model, [1, 2], **OPTIONS))


@torch.no_grad()
def test_in_fp32_a_folded_udit_is_off_by_rounding_alone():
    model = MODELS["u-dit"]
    quick = fast(model, precision="fp32")
    assert 0 < error(quick(*inputs(model)), model(*inputs(model))) < ROUNDING
    assert error(generate(quick, [1, 2], **OPTIONS), generate(model, [1, 2], **OPTIONS)) < ROUNDING


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_in_half_precision_a_forward_is_off_by_less_than_a_hundredth(name, half):
    model = MODELS[name]
    quick = fast(model, precision=half)
    assert 0 < error(quick(*inputs(model)), model(*inputs(model))) < FORWARD
    assert quick(*inputs(model)).dtype == torch.float32


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["adaln_zero", "cross_attention", "u-dit"])
def test_in_half_precision_a_sample_is_off_by_less_than_a_fiftieth(name, sampler, half):
    model = MODELS[name]
    drawn = generate(model, [1, 2], sampler=sampler, **OPTIONS)
    assert 0 < error(generate(fast(model, precision=half), [1, 2], sampler=sampler, **OPTIONS), drawn) < SAMPLE


@pytest.mark.parametrize("half", HALVES[:1])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_is_made_ahead_of_a_run_changes_nothing_but_rounding(name, half):
    model = fast(MODELS[name], precision=half)
    x, t, y = inputs(model)
    ask = model.ahead(t.flip(0), y.unique())
    assert error(ask(x, t, y), model(x, t, y)) < ROUNDING
    order = torch.tensor([2, 0, 3, 1])
    assert error(ask(x, t[order], y), model(x, t[order], y)) < ROUNDING


@pytest.mark.filterwarnings("error")
@torch.no_grad()
def test_a_time_of_one_number_for_all_pictures_is_looked_up_without_a_warning():
    model, (x, t, y) = fast(MODELS["adaln"], precision="bf16"), inputs(MODELS["adaln"])
    ask, one = model.ahead(t, y.unique()), t[1].expand(len(x))  # as a walk of fractional timesteps has it
    torch.set_warn_always(True)  # else only the first of a process is warned
    try:
        assert error(ask(x, one, y), model(x, one, y)) < ROUNDING
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("half", ["fp32", *HALVES])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_that_was_given_stays_what_it_is(name, half):
    model = copy.deepcopy(MODELS[name]).train()
    before = copy.deepcopy(model.state_dict())
    quick = fast(model, precision=half)
    generate(quick, [1], **OPTIONS)
    assert model.training and not quick.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in quick.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not hooks_left(model) and type(model.blocks[0].mlp) is type(MODELS[name].blocks[0].mlp)


@pytest.mark.parametrize("half", HALVES[:1])
@pytest.mark.parametrize("name", ["adaln_zero", "cross_attention", "u-dit"])
def test_it_can_be_watched_and_edited_while_it_samples(name, half):
    quick = fast(MODELS[name], precision=half)
    plain = generate(quick, [1], **OPTIONS)
    with watch(quick) as seen:
        watched = generate(quick, [1], **OPTIONS)
    assert seen.q_k and seen.features
    # Watched, the modulation is made step by step: a product of other rows, which some processors add up in another
    # order, so that single numbers of 8 bits are rounded to the other side.
    assert error(watched, plain) < 1e-3
    edits = [Scale(block, "mlp", 0.0) for block in range(len(quick.blocks))]
    with edited(quick, *edits):
        without = generate(quick, [1], **OPTIONS)
    with edited(MODELS[name], *edits):
        expected = generate(MODELS[name], [1], **OPTIONS)
    assert error(without, plain) > 0.02 > error(without, expected)
    assert torch.equal(generate(quick, [1], **OPTIONS), plain)


@pytest.mark.parametrize("half", HALVES[:1])
@pytest.mark.parametrize("name", MODELS)
def test_its_runs_are_replayed_by_the_model_and_by_itself(name, half):
    model, quick = MODELS[name], fast(MODELS[name], precision=half)
    run = record(quick, [1], **OPTIONS)
    assert error(run.lens(quick, 2)[-1], run.x0[2, 0]) < FORWARD
    assert error(run.lens(model, 2)[-1], run.x0[2, 0]) < 0.05
    rows = run.attention(quick, 2, block=0, queries=[1])
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows.sum(-1)))
    assert error(rows, run.attention(model, 2, block=0, queries=[1])) < 0.02


@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", *HALVES[:1]])
def test_compiled_it_draws_the_same(precision):
    model = random_model(depth=1)
    quick = fast(model, precision=precision, compile=True)
    drawn = generate(model, [1], steps=2, cfg_scale=2.0)
    assert error(generate(quick, [1], steps=2, cfg_scale=2.0), drawn) < (ROUNDING if precision == "fp32" else SAMPLE)
    assert quick.speed.compiled and "compiled" in str(quick.speed)
    with watch(quick) as seen:  # the model itself is not compiled
        quick(*inputs(quick))
    assert seen.q_k
    if precision == "fp32":  # of so small a model the code has weights of its own
        with torch.no_grad():
            model.blocks[0].mlp.up.weight.zero_()
        assert error(generate(quick, [1], steps=2, cfg_scale=2.0), drawn) < ROUNDING
        assert error(generate(model, [1], steps=2, cfg_scale=2.0), drawn) > 0.01


@needs_compiler
@torch.no_grad()
def test_code_that_is_kept_on_disk_is_never_taken_for_another_models_of_the_same_shape():
    """The weights are in it; PyTorch alone would look at their shapes."""
    for factor in (1.0, 0.5):
        model = random_model(depth=1)
        for weight in model.parameters():
            weight.mul_(factor)
        x, t, y = inputs(model, 2)
        code = fast(model, precision="fp32", compile=True).ahead(t, y)
        assert error(code(x, t, y), model(x, t, y)) < ROUNDING


@needs_compiler
@torch.no_grad()
def test_where_the_compiler_has_no_products_for_this_cpu_compiled_code_takes_the_libraries(monkeypatch):
    monkeypatch.setitem(AS_CONSTANTS, "max_autotune_gemm_backends", "TRITON")  # which a CPU has not
    model = random_model(depth=1)
    x, t, y = inputs(model, 2)
    code = fast(model, precision="fp32", compile=True).ahead(t, y)
    assert error(code(x, t, y), model(x, t, y)) < ROUNDING
    monkeypatch.setattr("dit_lab.models.compiling.weights_as_constants", None)  # which is asked for no second time
    assert error(code(x, t, y), model(x, t, y)) < ROUNDING


def test_without_a_compiler_it_says_so_before_any_work(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="'no-such-compiler' is not here: install one, or name yours in"):
        fast(MODELS["adaln"], compile=True)


def test_tables_beyond_the_limit_are_not_made_and_the_outputs_stay(monkeypatch):
    quick = fast(MODELS["adaln"], precision=HALVES[0])
    drawn = generate(quick, [1], **OPTIONS)
    made = []
    monkeypatch.setattr(ahead_file.Ahead, "tables", lambda self, *pairs: made.append(pairs))
    monkeypatch.setattr(ahead_file, "MOST_BYTES", dict(cpu=10))
    assert error(generate(quick, [1], **OPTIONS), drawn) < ROUNDING
    assert not made


def test_blocks_that_may_read_the_condition_anywhere_are_left_to_read_it():
    """A fifth block says nothing of its readers, and is right; one that is unlike its `readers` would not be."""

    class Added(Block):
        title = "added"

        def __init__(self, dim, heads, attn, mlp):
            super().__init__(dim, heads, attn, mlp)
            self.norm = LayerNorm(dim)

        def forward(self, x, cond):
            return x + self.mlp(self.attn(self.norm(x)) + cond.sum(1, keepdim=True))

    torch.manual_seed(0)
    model = DiT(DiTConfig(dim=32, heads=2, depth=2, input_size=8, num_classes=5), Added).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    quick = fast(model, precision=HALVES[0])
    assert error(generate(quick, [1, 2], **OPTIONS), generate(model, [1, 2], **OPTIONS)) < SAMPLE


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_auto_takes_half_precision_only_where_it_is_clearly_faster_and_says_what_it_found(monkeypatch, bf16, chosen):
    module, turns = sys.modules["dit_lab.models.fast"], iter(range(1000))  # the function has the module's name
    monkeypatch.setattr(module, "clocked", lambda call, device: (call(), (1.0, bf16)[next(turns) % 2])[1])
    monkeypatch.setattr(module, "halves", lambda device: ["bf16"])
    quick = fast(MODELS["adaln"])
    assert quick.speed.precision == chosen
    assert f"fp32 1e+03 ms, bf16 {bf16 * 1e3:.3g} ms" in str(quick.speed)


def test_precisions_that_are_not_there_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="precision must be auto, fp32, bf16, fp16, not 'int4'"):
        fast(MODELS["adaln"], precision="int4")
    if "fp16" not in HALVES:
        with pytest.raises(ValueError, match="this CPU does not compute in fp16: take bf16, fp32 or auto"):
            fast(MODELS["adaln"], precision="fp16")


@pytest.mark.parametrize("name", ["adaln", "u-dit"])
@pytest.mark.parametrize("precision", ["fp32", *HALVES[:1]])
@torch.no_grad()
def test_made_while_the_model_is_edited_or_watched_it_is_neither_and_the_model_still_is(precision, name):
    model, given = MODELS[name], [tensor[-2:] for tensor in inputs(MODELS[name])]
    plain, expected = model(*given), fast(model, precision=precision)(*given)
    for scope in edited(model, Scale(0, "mlp", 0.0)), edited(model, Label(2)), watch(model):
        with scope as seen:
            quick, hung = fast(model, precision=precision), hooks_left(model)
            assert hung and torch.equal(quick(*given), expected)
            assert hooks_left(model) == hung and torch.equal(model(*given), plain) is (seen is not model)
        assert torch.equal(quick(*given), expected) and (precision != "fp32" or not hooks_left(quick))


@pytest.mark.parametrize("half", HALVES[:1])
@pytest.mark.parametrize("name", ["adaln", "u-dit"])
@torch.no_grad()
def test_a_fast_model_can_be_made_fast_again_for_its_hooks_are_its_own(name, half):
    quick = fast(MODELS[name], precision=half)
    again = fast(quick, precision="fp32")
    assert hooks_left(quick) and torch.equal(again(*inputs(quick)), quick(*inputs(quick)))


@pytest.mark.parametrize("other", ["yes", "no", "True", "", None, 1, 0])
def test_compile_is_true_false_or_auto_and_all_else_is_refused_in_a_sentence(other):
    with pytest.raises(ValueError, match=f"compile must be True, False or auto, not {other!r}$"):
        fast(MODELS["adaln"], precision="fp32", compile=other)


class Waits(TorchDispatchMode):
    """Counts what would make a GPU's host wait: a number read from a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


class Linear(torch.nn.Module):
    """A network of one number, with a config; it looks at nothing."""

    def __init__(self):
        super().__init__()
        self.config = build("DiT-nano/4", input_size=8, learned_variance=False).config
        self.weight = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x, t, y):
        return self.weight * x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_reads_a_number_back_from_the_device(sampler):
    steps = sample(Linear(), [1, 2], steps=4, sampler=sampler, cfg_scale=2.0, cfg_interval=(200, 800))
    with Waits() as waits:
        assert len(list(steps)) == 4
    assert waits.count == 0
