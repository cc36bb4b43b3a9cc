"""Small promises of the models: of dtypes, ends of ranges, and which device computes how."""

import pytest
import torch
from shared import random_model, random_udit, stirred
from torch import nn

from dit_lab.models import Config, count, fold, pick_device, preset
from dit_lab.models.conv_mlp import LinearPair
from dit_lab.models.devices import clocked, fastest, in_turns, one_thread, uses_bf16
from dit_lab.models.grid_layers import rotations
from dit_lab.models.layers import position_waves, timestep_waves
from dit_lab.models.unfilled import unfilled

CPU = torch.device("cpu")


def test_the_sinusoids_are_in_fp32_whatever_the_timesteps_are_in():
    whole = torch.tensor([0, 500])
    assert {timestep_waves(whole.to(dtype), 8).dtype for dtype in (torch.int64, torch.float64)} == {torch.float32}
    assert position_waves(5, 8).dtype == torch.float32


def test_a_model_in_bf16_takes_another_size_than_the_trained_one():
    model = random_model().bfloat16()
    x = torch.randn(1, 3, 16, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert model(x, torch.tensor([5]), torch.tensor([1])).dtype == torch.bfloat16


def test_a_u_dit_of_more_tokens_than_any_has_is_refused():
    with pytest.raises(ValueError, match="makes 1024 x 1024 tokens, the most are 262144"):
        preset("U-DiT-S", input_size=1024)


def test_folded_weights_are_the_rounded_products_in_float64_and_the_model_is_for_inference():
    model = random_udit(mlp="reparameterised").train()
    folded = fold(model)
    assert not folded.training and not any(module.training for module in folded.modules()) and model.training
    pairs = {name: module for name, module in model.named_modules() if isinstance(module, LinearPair)}
    for name, pair in pairs.items():
        first, second = pair.first.weight.double(), pair.second.weight.double()
        assert folded.state_dict()[f"{name}.weight"].equal((second @ first).float())
    assert pairs


@pytest.mark.parametrize("stride, middle", [(1, 0.0), (2, 0.5), (4, 1.5)])
def test_a_place_lies_in_the_middle_of_those_that_it_stands_for(stride, middle):
    column, row = rotations(4, 2, 3, stride)[0].angle().tolist()
    assert column == pytest.approx(middle) and row == pytest.approx(middle)
    far = rotations(4, 2, 2, stride)[3].angle()
    torch.testing.assert_close(torch.exp(1j * far), torch.exp(1j * torch.full((2,), middle + stride)))


def test_the_narrowest_reparameterised_mlp_has_a_middle_of_one():
    model = stirred(
        "U-DiT-S", input_size=8, in_channels=1, num_classes=0, dim=4, heads=1, depths=(1, 1, 1), mlp="reparameterised",
        mlp_ratio=0.25, rope=False,
    )  # fmt: skip
    pairs = [module for module in model.modules() if isinstance(module, LinearPair)]
    assert min(pair.first.weight.shape[0] for pair in pairs) == 1


@pytest.mark.parametrize("value", ["8", None, 2.0, True])
def test_a_width_that_is_no_whole_number_is_refused_in_a_sentence(value):
    with pytest.raises(ValueError, match="dim must be a whole number of at least 4, not"):
        Config(dim=value)


def test_a_model_in_bf16_is_counted_like_the_same_in_fp32():
    model = random_model()
    assert count(model) == count(random_model().bfloat16())


class OneProduct(nn.Module):
    """A network of one's own, of one product, which takes pictures of its own dtype alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 24)

    def forward(self, x, t, y):
        if x.dtype != self.linear.weight.dtype:
            raise ValueError("another dtype")
        return self.linear(x.flatten(1)).view_as(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_network_is_counted_in_the_dtype_that_it_is_in(dtype):
    (row,) = count(OneProduct().to(dtype), shape=(2, 3, 4)).rows
    assert row.macs == 24 * 24 and row.trained == 24 * 24 + 24


def test_parts_are_told_in_the_order_in_which_the_model_has_them():
    blocks = [f"blocks.*.{part}" for part in ("attn", "mlp", "modulation")]
    before, after = ["patch_embedding", "time_embedding", "label_embedding"], ["final_norm", "out", "positions"]
    assert [row.part for row in count(random_model()).rows] == [*before, *blocks, *after]


def test_tensors_that_lie_in_no_part_are_told_as_one():
    rows = {row.part: row for row in count(random_model()).rows}
    assert rows["positions"].copies == 1 and rows["blocks.*.attn"].copies == 3


def test_a_device_is_taken_by_name_and_one_that_is_not_there_is_refused():
    assert pick_device("cpu") == CPU
    for name in ("sheep", "meta", "xpu", "cpu:x", ""):
        with pytest.raises(ValueError, match="there is cpu|there is .*, cpu"):
            pick_device(name)


@pytest.mark.parametrize(
    "there, first", [((True, True), "cuda"), ((False, True), "mps"), ((False, False), "cpu")], ids=str
)
def test_auto_is_the_first_device_that_is_there(there, first, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there[0])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there[1])
    assert pick_device("auto").type == first
    assert pick_device("cpu") == CPU
    if there[0]:
        assert pick_device("cuda:1") == torch.device("cuda:1") and pick_device("cuda").type == "cuda"
        for name in ("cuda:2", "cuda:9"):
            with pytest.raises(ValueError, match=f"there is no device '{name}' here; the last is cuda:1"):
                pick_device(name)
    else:
        with pytest.raises(ValueError, match="there is no device 'cuda' here"):
            pick_device("cuda")


def test_where_there_is_one_gpu_it_is_taken_without_a_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda") == torch.device("cuda") and pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="the last is cuda:0"):
        pick_device("cuda:1")


def test_within_one_thread_there_is_one_and_after_it_as_many_as_before_also_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", [None, "avx512_bf16", "amx_bf16", "bf16", "avx2"])
def test_auto_is_bf16_on_cpus_that_compute_in_it_and_what_is_asked_for_is_taken(name, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True, "avx2": True})
    assert uses_bf16("auto", CPU) == (name not in (None, "avx2"))
    assert uses_bf16("bf16", CPU) and not uses_bf16("fp32", CPU)
    assert not uses_bf16("auto", torch.device("mps"))


@pytest.mark.parametrize("native", [True, False])
def test_on_a_gpu_auto_is_bf16_where_it_is_no_emulation(native, monkeypatch):
    there = lambda including_emulation: native or including_emulation
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", there)
    assert uses_bf16("auto", torch.device("cuda")) is native


def test_a_call_is_clocked_from_its_beginning_to_its_end(monkeypatch):
    times, called = iter([3.0, 5.5]), []
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    assert clocked(lambda: called.append(1), CPU) == 2.5 and called == [1]


def test_a_call_on_a_gpu_is_waited_for_before_and_after(monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append(device.type))
    clocked(lambda: told.append("call"), torch.device("cuda"))
    assert told == ["cuda", "call", "cuda"]


def test_in_turns_each_is_clocked_as_often_and_the_first_turn_does_not_count():
    asked = []
    clock = lambda name: asked.append(name) or len(asked)
    assert in_turns(clock, ["a", "b"], 3, patience=60) == {"a": [3, 5, 7], "b": [4, 6, 8]}
    assert asked == ["a", "b"] * 4


def test_once_patience_is_over_no_further_turn_begins_and_one_is_always_taken(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: 10.0 * next(now))
    assert in_turns(lambda name: 1.0, ["a"], 9, patience=0) == {"a": [1.0]}
    assert in_turns(lambda name: 1.0, ["a"], 9, patience=25) == {"a": [1.0] * 3}


def test_the_fastest_is_fp32_unless_another_is_worth_it():
    assert fastest(dict(fp32=1.0, bf16=0.9), 1.05) == "bf16"
    assert fastest(dict(fp32=1.0, bf16=0.99), 1.05) == "fp32"
    assert fastest(dict(fp32=1.0, bf16=2.0), 1.05) == "fp32"
    assert fastest(dict(fp32=1.0, bf16=0.8, fp16=0.5), 1.05) == "fp16"


def test_what_is_built_to_be_filled_has_the_dtypes_it_asks_for_and_no_memory():
    with unfilled():
        linear, scale = nn.Linear(2, 3, dtype=torch.float64), nn.Parameter(torch.full((2,), fill_value=3.0))
    assert {tensor.dtype for tensor in linear.parameters()} == {torch.float64}
    assert {tensor.device.type for tensor in (linear.weight, linear.bias, scale)} == {"meta"}
