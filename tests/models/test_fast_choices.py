"""What a fast model is made of and says of itself: what was tried, what is packed, and what is made ahead of a run."""

import shutil
import sys

import pytest
import torch
from shared import random_model, random_udit

from dit_lab.diffusion import generate
from dit_lab.models import ahead as ahead_file
from dit_lab.models import fast
from dit_lab.models.compiling import can_compile
from dit_lab.models.layers import Modulation
from dit_lab.models.packed import PackedLinear, packs

MODEL = random_model("adaln")
BF16 = pytest.mark.skipif(not packs(torch.bfloat16), reason="this machine does not compute in bf16")
HERE = sys.modules["dit_lab.models.fast"]  # the function has the module's name


def packed(model):
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def test_where_nothing_was_tried_it_says_the_precision_alone():
    speed = fast(MODEL, precision="fp32").speed
    assert str(speed) == "fp32" and speed.seconds == {}
    assert str(fast(random_udit(), precision="fp32").speed) == "fp32, folded"


@pytest.mark.parametrize("able", [True, False])
def test_bf16_on_a_cpu_that_does_not_compute_in_it_is_said_to_be_slow(able, monkeypatch):
    monkeypatch.setattr(HERE, "packs", lambda dtype: able)
    monkeypatch.setattr(HERE, "half", lambda plain, dtype, packed: plain)
    slow = "bf16" if able else "bf16 (slow: this CPU does not compute in it)"
    assert str(fast(MODEL, precision="bf16").speed) == slow
    assert str(fast(random_udit(), precision="bf16").speed) == f"{slow}, folded"
    assert str(fast(MODEL, precision="fp32").speed) == "fp32"


def test_in_fp32_it_takes_no_memory_of_its_own():
    quick = dict(fast(MODEL, precision="fp32").named_parameters())
    assert all(quick[name].data_ptr() == parameter.data_ptr() for name, parameter in MODEL.named_parameters())


@BF16
def test_in_half_precision_a_cpus_linears_are_packed_and_in_fp32_none_is():
    assert packed(fast(MODEL, precision="bf16")) and not packed(fast(MODEL, precision="fp32"))
    assert not packed(HERE.half(fast(MODEL, precision="fp32"), torch.bfloat16, packed=False))


@BF16
@pytest.mark.parametrize("model", [MODEL, random_udit()], ids=["dit", "u-dit"])
def test_every_linear_of_a_block_is_packed(model):
    for block in fast(model, precision="bf16").blocks:
        linears = [module for module in block.modules() if isinstance(module, torch.nn.Linear)]
        assert len(linears) > 3 and all(isinstance(linear, PackedLinear) for linear in linears)


@torch.no_grad()
def test_a_udits_convolutions_between_stages_compute_in_half_and_give_the_streams_precision():
    quick, given = fast(random_udit(), precision="bf16"), []
    convs = (*quick.down, *quick.up, *quick.merge, quick.neck)
    for conv in convs:
        conv.register_forward_hook(lambda module, inputs, output: given.append((inputs[0].dtype, output.dtype)))
    quick(torch.zeros(1, quick.config.in_channels, *quick.config.size), torch.tensor([5]), torch.tensor([0]))
    assert given == [(torch.bfloat16, torch.float32)] * len(convs)
    assert {parameter.dtype for conv in convs for parameter in conv.parameters()} == {torch.bfloat16}


def test_trying_disturbs_nobodys_random_numbers(monkeypatch):
    monkeypatch.setattr(HERE, "PATIENCE", 0.0)
    monkeypatch.setattr(HERE, "halves", lambda device: ["bf16"])
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert set(fast(MODEL).speed.seconds) == {"fp32", "bf16"}
    assert torch.equal(torch.rand(3), expected)


def test_the_half_precision_that_is_tried_is_one_that_the_device_computes_in(monkeypatch):
    for able, on_cuda, on_cpu in (True, ["bf16"], ["bf16"]), (False, ["fp16"], []):
        monkeypatch.setattr(HERE, "uses_bf16", lambda precision, device, able=able: able)
        monkeypatch.setattr(HERE, "packs", lambda dtype, able=able: able)
        assert HERE.halves(torch.device("cuda")) == on_cuda and HERE.halves(torch.device("cpu")) == on_cpu
        assert HERE.halves(torch.device("mps")) == ["bf16"]


def test_tables_are_made_up_to_the_limit_and_not_beyond(monkeypatch):
    quick, made = fast(MODEL, precision="bf16"), []
    tables = ahead_file.Ahead.tables
    monkeypatch.setattr(ahead_file.Ahead, "tables", lambda self, t, y: (made.append(len(t)), tables(self, t, y))[1])
    t, y = torch.tensor([900.0, 500.0, 100.0]), torch.tensor([0, 2])
    needed = 6 * sum(dtype.itemsize * count for dtype, count in quick.ahead.widths.items())
    for limit, expected in (needed - 1, []), (needed, [6]):
        monkeypatch.setattr(ahead_file, "MOST_BYTES", dict(cpu=limit))
        quick.ahead(t, y)
        assert made == expected


@torch.no_grad()
def test_what_was_made_ahead_is_not_made_again_at_a_step(monkeypatch):
    quick, made, forward = fast(MODEL, precision="bf16"), [], Modulation.forward
    monkeypatch.setattr(Modulation, "forward", lambda self, cond: (made.append(self), forward(self, cond))[1])
    t, y = torch.tensor([500]), torch.tensor([1])
    ask, before = quick.ahead(t, y), len(made)
    ask(torch.zeros(1, quick.config.in_channels, *quick.config.size), t, y)
    assert len(made) == before > 0


@pytest.mark.parametrize("kinds", [["forward"], ["forward_pre"], ["forward", "forward_pre"]])
@torch.no_grad()
def test_whoever_hangs_any_hook_in_it_is_asked_at_every_step(kinds):
    quick, seen = fast(MODEL, precision="bf16"), []
    y = torch.tensor([1])
    ask = quick.ahead(torch.tensor([500]), y)
    module = quick.blocks[0].modulation  # which what was made ahead stands for
    for kind in kinds:
        getattr(module, f"register_{kind}_hook")(lambda *given: seen.append(1))
    ask(torch.zeros(1, quick.config.in_channels, *quick.config.size), torch.tensor([500]), y)
    assert len(seen) == len(kinds)


def test_what_a_compiler_lays_out_is_not_packed(monkeypatch):
    monkeypatch.setattr(HERE, "check_compiler", lambda device: None)
    monkeypatch.setattr(HERE, "Ahead", lambda model, compile: (model, compile))
    quick = fast(MODEL, precision="bf16", compile=True)
    assert quick.ahead == (quick, True) and not packed(quick)
    assert (quick.speed.precision, quick.speed.compiled) == ("bf16", True)


@pytest.fixture
def clocks(monkeypatch):
    """`clocks(as it is, compiled)`, in seconds, are what forwards seem to take; gives a list for what is told."""

    def pretend(plain, compiled):
        def timed(calls, *_, **__):
            if isinstance(compiled, Exception) and "fp32 compiled" in calls:
                raise compiled
            return {name: compiled if "compiled" in name else plain for name in calls}

        monkeypatch.setattr(HERE, "timed", timed)
        monkeypatch.setattr(HERE, "can_compile", lambda device: True)
        return []

    return pretend


def auto(told, forwards, model=MODEL):
    return fast(model, precision="fp32", compile="auto", forwards=forwards, tell=told.append)


def test_left_to_itself_it_compiles_where_the_work_takes_many_times_as_long(clocks):
    cost = HERE.seconds_to_compile(MODEL)
    told = clocks(1.0, 0.5)
    assert not auto(told, int(HERE.PAYS * cost) - 1).speed.compiled and not told
    quick = auto(told, int(HERE.PAYS * cost) + 1)
    assert str(quick.speed) == "fp32, compiled (a forward of 2: fp32 1e+03 ms, fp32 compiled 500 ms)"
    assert told == ["293 forwards are to come, some 5 minutes: compiling is tried, in about 29 s"]


def test_of_few_forwards_not_even_one_is_taken_to_find_out(clocks, monkeypatch):
    told = clocks(1e6, 1.0)
    monkeypatch.setattr(HERE, "timed", None)
    quick = auto(told, HERE.FEW - 1)
    assert not quick.speed.compiled and not told and not hasattr(quick, "ahead")


@pytest.mark.parametrize("compiled, stays", [(0.96, True), (0.94, False), (2.0, True)])
def test_compiled_code_that_is_hardly_faster_is_left(compiled, stays, clocks):
    told = clocks(1.0, compiled)
    quick = auto(told, 10_000)
    assert quick.speed.compiled is not stays and len(told) == 1 and hasattr(quick, "ahead") is not stays
    assert quick.speed.seconds == {"fp32": 1.0, "fp32 compiled": compiled}


ERRORS = [RuntimeError("no header\nthere"), OSError("no header\nthere")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_compiler_that_fails_unasked_is_told_of_and_gone_on_without(error, clocks):
    told = clocks(1.0, error)
    quick = auto(told, 10_000)
    assert not quick.speed.compiled and told[1] == "compiling failed, so it runs as it is ('no header')"


@pytest.mark.parametrize("error", ERRORS)
def test_a_compiler_that_cannot_even_be_opened_is_told_of_and_gone_on_without(error, clocks, monkeypatch):
    monkeypatch.setattr(ahead_file, "compiled", lambda view, device: (_ for _ in ()).throw(error))
    told = clocks(1.0, 0.5)
    quick = auto(told, 10_000)
    assert not quick.speed.compiled and told[1] == "compiling failed, so it runs as it is ('no header')"


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_where_compiled_code_cannot_be_written_it_runs_as_it_is(monkeypatch, tmp_path):
    import torch._inductor.compile_fx  # noqa: F401 (it makes the folder when it is first imported: half of it would stay)

    monkeypatch.setattr(HERE, "PAYS", 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    told, model = [], random_model(depth=1, dim=24)  # which nothing else has compiled
    quick = auto(told, 100, model)
    assert not quick.speed.compiled and told[1].startswith("compiling failed, so it runs as it is (")
    assert torch.equal(generate(quick, [1], steps=2), generate(model, [1], steps=2))


def test_where_nothing_can_compile_nothing_is_tried(clocks, monkeypatch):
    told = clocks(1.0, 0.5)
    monkeypatch.setattr(HERE, "can_compile", lambda device: False)
    assert not auto(told, 10_000).speed.compiled and not told
    monkeypatch.undo()
    assert can_compile(torch.device("cuda")) and not can_compile(torch.device("mps"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not can_compile(torch.device("cpu"))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
@pytest.mark.parametrize("worth", [0.0, 1e9])
def test_what_was_tried_for_real_draws_what_the_model_draws(worth, monkeypatch):
    """Kept whatever it takes, and left whatever it takes."""
    monkeypatch.setattr(HERE, "PAYS", 0)
    monkeypatch.setattr(HERE, "COMPILED_WORTH", worth)
    model, told = random_model(depth=1), []
    quick = auto(told, 100, model)
    assert quick.speed.compiled is (worth == 0) and set(quick.speed.seconds) == {"fp32", "fp32 compiled"}
    one, other = (generate(each, [1], steps=2, cfg_scale=2.0) for each in (quick, model))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
