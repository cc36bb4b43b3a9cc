"""Small promises of a model made fast: which device compiles how, and what a GPU's graph gives back."""

import logging
import shutil
import sys
import warnings
from contextlib import contextmanager

import pytest
import torch
from looks import hooks_left
from shared import random_model, random_udit
from torch import nn

from dit_lab.diffusion import generate
from dit_lab.models import DiT, fast
from dit_lab.models.ahead import Ahead, Looked, looking_up
from dit_lab.models.compiling import MOST, Graphed, Written, can_compile, check_compiler, compiled
from dit_lab.models.conv_mlp import LinearPair
from dit_lab.models.layers import Modulation
from dit_lab.models.packed import PackedLinear, packs

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
HERE = sys.modules["dit_lab.models.fast"]  # the function has the module's name


@pytest.mark.parametrize(
    "platform, named, looked_for",
    [("linux", None, "g++"), ("darwin", None, "clang++"), ("linux", "icx", "icx"), ("darwin", "icx", "icx")],
)
def test_the_compiler_is_the_systems_own_or_the_one_that_is_named_and_only_a_cpu_needs_it(
    platform, named, looked_for, monkeypatch
):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == looked_for else None)
    check_compiler(CPU)
    assert can_compile(CPU) and can_compile(CUDA) and not can_compile(MPS)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    check_compiler(CUDA)
    check_compiler(MPS)
    assert not can_compile(CPU) and can_compile(CUDA) and not can_compile(MPS)
    with pytest.raises(ValueError, match="--compile needs a C") as refused:
        check_compiler(CPU)
    assert repr(looked_for) in str(refused.value)


@pytest.fixture
def asked(monkeypatch):
    """What PyTorch is asked to compile, how, and what to leave as it is."""
    told = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: told.append((self, how)))
    monkeypatch.setattr(torch.compiler, "disable", lambda function: told.append(function) or function)
    return told


@pytest.mark.parametrize("device", [CPU, MPS], ids=str)
def test_off_a_gpu_the_whole_is_compiled_for_its_shape(device, asked):
    view = looking_up(random_model())[0]
    code = compiled(view, device)
    assert code is view if device == MPS else isinstance(code, Written) and code.call is view
    assert asked == [(view, dict(dynamic=False))]


def test_that_rope_is_left_to_plain_code_is_not_told_again_and_again(asked):
    compiled(looking_up(random_model())[0], CPU)
    log = logging.getLogger("torch._inductor.ir")
    says = lambda text: log.filter(log.makeRecord(log.name, logging.WARNING, __file__, 1, text, ("aten.clone",), None))
    assert not says("%s is missing a c-shim implementation, using proxy executor as fallback")
    assert says("%s is missing")


@pytest.mark.parametrize(
    "model, most",
    [
        (random_model(), 42),  # 6 tokens of 96
        (random_udit(), 8),  # 96 tokens of 32 in the widest stage, where it began with 16
    ],
    ids=["DiT", "U-DiT"],
)
@torch.no_grad()
def test_code_for_a_few_pictures_has_the_weights_as_constants_whenever_its_shape_is_new(model, most, asked):
    view, seen = looking_up(model)[0], []
    config = torch._inductor.config
    told = lambda: [config.freezing, config.cpp_wrapper, config.max_autotune, not torch.backends.mkldnn.enabled]
    view.forward = lambda x, t, y: seen.append(told()) or x
    code = compiled(view, CPU)
    ask = lambda count, y, dtype=torch.float32: code(torch.ones(count, 3, 8, 12, dtype=dtype), torch.ones(count), y)
    for times in range(2):
        for y in torch.ones(2), dict(made=torch.ones(2)):
            assert ask(1, y).shape == (1, 3, 8, 12)
        ask(most, y)
        ask(most + 1, y)
        ask(1, y, torch.float64)
        assert seen == (
            [[True] * 4, [False] * 4, [True] * 4, [False] * 4, [True] * 4] if times == 0 else [[False] * 4] * 5
        )
        seen.clear()
    view.forward = None
    with pytest.raises(TypeError):
        ask(2, y)
    assert told() == [False] * 4  # also after a failure
    half = random_model().bfloat16()
    half.forward = lambda x, t, y: seen.append(told()) or x
    compiled(half, CPU)(torch.ones(1, 3, 8, 12), torch.ones(1), y)
    assert seen == [[False] * 4]


def test_on_a_gpu_each_block_is_compiled_but_for_what_is_its_own_and_all_are_one_graph(asked):
    view = looking_up(random_model())[0]
    parts = [module.mine for module in view.modules() if isinstance(module, Looked)]
    assert isinstance(compiled(view, CUDA), Graphed)
    assert asked == [*parts, *((block, dict(dynamic=False)) for block in view.blocks)] and len(parts) == 4


def test_what_nobody_asked_to_have_compiled_is_left_as_it_is(asked):
    for precision in ("fp32", "bf16"):
        quick = fast(random_model(), precision=precision)
        assert not quick.speed.compiled and generate(quick, [1], steps=2).isfinite().all()
    assert not asked


@pytest.mark.parametrize("reads_anywhere", [False, True])
@torch.no_grad()
def test_compiled_code_answers_in_the_place_of_the_model_which_is_left(reads_anywhere, asked, monkeypatch):
    """With tables and where these would be too large; a block that may read the condition anywhere has none."""
    model, ran = random_model(), []
    if reads_anywhere:
        model.blocks[1].readers = ()
    ahead = Ahead(model, compile=True)
    views = [view for view, _ in asked]
    assert len(views) == (1 if reads_anywhere else 2) and not {*views} & {*model.modules()}
    for view in views:
        view.register_forward_hook(lambda view, *_: ran.append(view))
    x, t, y = torch.ones(2, 3, 8, 12), torch.tensor([900, 5]), torch.tensor([3, 0])
    for most, view in (0, views[0]), (2**20, views[-1]):
        monkeypatch.setattr("dit_lab.models.ahead.MOST_BYTES", dict(cpu=most))
        torch.testing.assert_close(ahead(t, y)(x, t, y), model(x, t, y))
        assert ran.pop() is view and not ran


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_code_that_was_tried_and_is_faster_is_what_runs_and_not_compiled_again(precision, asked, monkeypatch):
    timed = lambda calls, *_, **__: {name: 0.5 if "compiled" in name else 1.0 for name in calls}
    monkeypatch.setattr(HERE, "timed", timed)
    monkeypatch.setattr(HERE, "can_compile", lambda device: True)
    quick = fast(random_model(), precision=precision, compile="auto", forwards=10_000)
    assert quick.speed.compiled and len(asked) == 2 and bool(hooks_left(quick)) is (precision == "bf16")
    assert not any(isinstance(module, PackedLinear) for module in quick.modules())


@pytest.mark.parametrize("seconds, forwards, pays", [(0.01, 29_000, False), (0.01, 29_400, True), (4.0, 100, True)])
def test_compiling_is_tried_for_the_time_that_is_left_and_waited_for_before_it_is_clocked(
    seconds, forwards, pays, asked, monkeypatch
):
    """Of 48 modules it takes 29 s, and must be a tenth of what is left at most."""
    clocked = []
    timed = lambda calls, *_, **__: clocked.append([*calls]) or dict.fromkeys(calls, seconds)
    monkeypatch.setattr(HERE, "timed", timed)
    monkeypatch.setattr(HERE, "can_compile", lambda device: True)
    quick = fast(random_model(), precision="fp32", compile="auto", forwards=forwards)
    waited = [["fp32 compiled"], ["fp32", "fp32 compiled"]]
    assert clocked == [["fp32"], *(waited if pays else [])] and bool(asked) is pays and not quick.speed.compiled
    assert HERE.seconds_to_compile(random_model().to("meta")) == 60  # on any other device than a CPU


def test_the_time_that_is_left_is_reckoned_from_a_forward_that_is_clocked_after_one_to_warm_up(asked, monkeypatch):
    told, spent = [], iter([50.0] + [2.0] * 1000)
    monkeypatch.setattr(HERE, "clocked", lambda call, device: (call(), next(spent))[1])
    monkeypatch.setattr(HERE, "can_compile", lambda device: True)
    quick = fast(random_model(), precision="fp32", compile="auto", forwards=150, tell=told.append)
    assert told == ["150 forwards are to come, some 5 minutes: compiling is tried, in about 29 s"]
    assert quick.speed.seconds == {"fp32": 2.0, "fp32 compiled": 2.0} and not quick.speed.compiled


@pytest.mark.parametrize("able", [True, False])
def test_a_cpus_linears_are_packed_where_it_has_kernels_and_no_compiler_lays_them_out(able, asked, monkeypatch):
    packed = []
    monkeypatch.setattr(HERE, "check_compiler", lambda device: None)
    monkeypatch.setattr(HERE, "packs", lambda dtype: able)
    monkeypatch.setattr(HERE, "halve", lambda model, dtype, to_pack: packed.append((dtype, to_pack)))
    fast(random_model(), precision="bf16")
    assert packed == [(torch.bfloat16, able)]
    fast(random_model(), precision="bf16", compile=True)
    assert packed == [(torch.bfloat16, able)] * 2 + [(torch.bfloat16, False)]
    HERE.half(random_model().to("meta"), torch.float16, packed=True)
    assert packed.pop() == (torch.float16, False)


def test_clocked_are_forwards_of_as_many_pictures_of_the_size_that_is_asked_for(monkeypatch):
    model, seen, forward = random_model(), [], DiT.forward
    noted = lambda self, x, t, y: seen.append([*x.shape, *t.shape, *y.shape]) or forward(self, x, t, y)
    monkeypatch.setattr(DiT, "forward", noted)
    monkeypatch.setattr(HERE, "halves", lambda device: ["bf16"])
    monkeypatch.setattr(HERE, "in_turns", lambda clock, names, *_: {name: [clock(name)] for name in names})
    for size, found in (None, (8, 12)), ((16, 4), (16, 4)), (16, (16, 16)):
        fast(model, batch=5, size=size)
        assert seen == [[5, 3, *found, 5, 5]] * 2
        seen.clear()


@torch.no_grad()
def test_half_precision_that_was_tried_and_left_leaves_no_trace_in_fp32(monkeypatch):
    monkeypatch.setattr(HERE, "halves", lambda device: ["bf16"])
    monkeypatch.setattr(HERE, "timed", lambda calls, *_, **__: dict.fromkeys(calls, 1.0))
    model = random_model()
    quick = fast(model)
    x, t, y = torch.ones(2, 3, *model.config.size), torch.tensor([500, 20]), torch.tensor([0, 1])
    assert {*quick.speed.seconds} == {"fp32", "bf16"} and quick.speed.precision == "fp32"
    assert torch.equal(quick(x, t, y), model(x, t, y)) and not hooks_left(quick)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_both_are_clocked_as_a_run_asks_them_with_what_it_makes_ahead(precision, asked, monkeypatch):
    """Compiled code and half precision; in fp32 every step makes its modulation."""
    made, forward, clocked = [], Modulation.forward, {}
    monkeypatch.setattr(Modulation, "forward", lambda self, cond: made.append(self) or forward(self, cond))
    model = random_model()
    x, t, y = torch.zeros(2, 3, *model.config.size), torch.tensor([500, 500]), torch.tensor([0, 0])

    def timed(calls, *_, **__):
        for name, call in calls.items() if len(calls) == 2 else ():
            before = len(made)
            call(x, t, y)
            clocked[name] = len(made) - before
        return dict.fromkeys(calls, 1.0)

    monkeypatch.setattr(HERE, "timed", timed)
    monkeypatch.setattr(HERE, "can_compile", lambda device: True)
    fast(model, precision=precision, compile="auto", forwards=10_000)
    every = sum(isinstance(module, Modulation) for module in model.modules())
    assert clocked == {precision: every if precision == "fp32" else 0, f"{precision} compiled": 0} and every


@torch.no_grad()
def test_on_a_cpu_without_kernels_for_a_half_precision_it_is_computed_in_all_the_same(monkeypatch):
    monkeypatch.setattr(HERE, "packs", lambda dtype: False)
    model = random_model()
    quick = fast(model, precision="bf16")
    x, t, y = torch.ones(2, 3, *model.config.size), torch.tensor([500, 20]), torch.tensor([0, 1])
    assert not any(isinstance(module, PackedLinear) for module in quick.modules())
    assert 0 < (quick(x, t, y) - model(x, t, y)).norm() / model(x, t, y).norm() < 0.01


def test_a_model_without_classes_is_tried_in_every_way_and_nobodys_random_numbers_are_drawn(asked, monkeypatch):
    monkeypatch.setattr(HERE, "PATIENCE", 0.0)
    monkeypatch.setattr(HERE, "PAYS", 0)
    monkeypatch.setattr(HERE, "halves", lambda device: ["bf16"])
    monkeypatch.setattr(HERE, "can_compile", lambda device: True)
    model, before = random_model(num_classes=0, depth=1), torch.get_rng_state()
    quick = fast(model, compile="auto", forwards=HERE.FEW)
    assert set(quick.speed.seconds) in ({"fp32", "bf16", "fp32 compiled"}, {"fp32", "bf16", "bf16 compiled"})
    assert torch.equal(before, torch.get_rng_state())


def test_without_pytorchs_kernels_for_it_nothing_is_packed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not any(packs(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_it_computes_with_are_parameters_that_ask_for_no_gradient(precision):
    quick = fast(random_model(), precision=precision)
    assert {(type(each), each.requires_grad) for each in quick.parameters()} == {(nn.Parameter, False)}


def test_in_fp32_nothing_is_cast_on_the_way_and_a_u_dits_pairs_are_folded():
    model = random_udit(mlp="reparameterised")
    quick = fast(model, precision="fp32")
    pairs = lambda model: [module for module in model.modules() if isinstance(module, LinearPair)]
    assert not hooks_left(quick) and not pairs(quick) and pairs(model) and quick.speed.folded
    assert not fast(random_udit(mlp="plain"), precision="fp32").speed.folded


def test_compiling_says_nothing_of_complex_numbers_and_other_warnings_are_shown(asked):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compiled(random_model(), CPU)
        warnings.warn("Torchinductor does not support code generation for complex operators.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert [str(each.message) for each in shown] == ["something else"]


def test_one_process_compiles_for_more_shapes_than_pytorch_would_by_itself(asked, monkeypatch):
    """Else it would run the ninth as it is, and say nothing: all models of a kind share their forward's code."""
    limits = torch._dynamo.config
    for before, after in (8, MOST), (MOST + 1, MOST + 1):
        with limits.patch(recompile_limit=before):
            compiled(random_model(), CPU)
            assert limits.recompile_limit == after


@pytest.fixture
def pretended(monkeypatch):
    """`pretended(function)` runs on a GPU that is none: within a graph nothing is computed, at each replay all is."""
    told, graphs, streams = [], [], ["the usual"]

    class Stream:
        name = "its own"

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    class Usual(Stream):
        name = "the usual"

    class Graph:
        def replay(self):
            self.output.copy_(self.work())

    @contextmanager
    def within(stack, one):
        stack.append(one)
        yield
        stack.pop()

    for name, made in dict(
        Stream=Stream, CUDAGraph=Graph, current_stream=Usual, stream=lambda one: within(streams, one.name),
        graph=lambda one: within(graphs, one),
    ).items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, made)

    def on_gpu(function):
        def call(*given):
            told.append("noted" if graphs else f"run on {streams[-1]}")
            if not graphs:
                return function(*given)
            graph = graphs[-1]
            graph.work, graph.output = lambda: function(*given), torch.full_like(function(*given), torch.nan)
            return graph.output

        return Graphed(call), told

    return on_gpu


def weighed(x, t, given):
    given = given if isinstance(given, dict) else {torch.int64: given}
    return x * t[:, None] + sum(weight * part[:, None] for weight, part in enumerate(given.values(), 2))


def drawn(seed, batch=3, tables=True, dtype=torch.float32):
    """`x, t` and what is given in the place of labels: tables by dtype, or the labels."""
    random = torch.Generator().manual_seed(seed)
    x, t, one, two = torch.randn(batch, 4, generator=random).to(dtype), *torch.rand(3, batch, generator=random)
    return x, t, {torch.float32: one, torch.float16: two.half()} if tables else (9 * one).long()


@pytest.mark.parametrize("tables", [True, False], ids=["tables", "labels"])
def test_a_graph_gives_at_each_call_what_the_function_gives_and_leaves_what_it_gave_before(tables, pretended):
    graph, told = pretended(weighed)
    inputs, kept = ([drawn(seed, tables=tables) for seed in range(3)] for _ in range(2))
    found = [graph(*each) for each in inputs]
    for one, (x, t, given), other in zip(found, inputs, kept, strict=True):
        assert torch.equal(one, weighed(*other)) and torch.equal(x, other[0]) and torch.equal(t, other[1])
        pairs = zip(given.values(), other[2].values(), strict=True) if tables else [(given, other[2])]
        assert all(torch.equal(*pair) for pair in pairs)
    assert told.count("noted") == 1


def test_a_graph_is_noted_again_for_other_shapes_and_dtypes_alone(pretended):
    graph, told = pretended(weighed)
    for count, how in enumerate([{}, dict(batch=5), dict(batch=5, dtype=torch.float64), {}], 1):
        for seed in range(2):
            given = drawn(seed, **how)
            assert torch.equal(graph(*given), weighed(*given)) and told.count("noted") == count


def test_before_a_graph_is_noted_it_is_run_on_a_stream_of_its_own_between_what_was_and_what_will_be(pretended):
    graph, told = pretended(weighed)
    graph(*drawn(0))
    before, *runs, after, noted = told
    assert before == "its own waits for the usual" and after == "the usual waits for its own" and noted == "noted"
    assert len(runs) > 1 and set(runs) == {"run on its own"}
