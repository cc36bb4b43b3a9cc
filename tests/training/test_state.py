"""The state of a run: what it keeps, how its averages move, and that it takes nothing from a file unchecked."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import assert_same, drawn

from dit_lab.data import open_data
from dit_lab.models import build
from dit_lab.training import TrainOptions, train
from dit_lab.training.state import TrainState, differences, is_number, is_recent, is_step, shown

RUN = {"model": {"dim": 16}, "option": {"lr": 0.1}, "data": {"pictures": 5}, "found": {"precision": "fp32"}}
DECAYS = (0.9, 0.5)


def tiny(seed=0):
    return drawn(build("DiT-nano/8", input_size=8, in_channels=1, num_classes=3, dim=16, depth=1, heads=2), seed)


def fresh(seed=0, **options):
    return TrainState.fresh(tiny(seed), 0.1, DECAYS, **options)


def stepped(state, count=3):
    """The state after some steps of its optimiser on made-up gradients, the averages moved along."""
    for step in range(1, count + 1):
        for parameter in state.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.01 * step)
        state.optimiser.step()
        state.step += 1
        state.average()
    return state


def everything(state) -> dict:
    """All tensors of a state by name."""
    kept = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for decay, average in state.averages.items():
        kept |= {f"{decay}.{name}": tensor for name, tensor in average.items()}
    for name, parameter in state.model.named_parameters():
        kept |= {f"{moment}.{name}": tensor for moment, tensor in state.optimiser.state[parameter].items()}
    return {name: tensor.detach().clone() for name, tensor in kept.items()}


@pytest.fixture
def saved(tmp_path):
    """(the file of a state, the state)."""
    state = stepped(fresh())
    state.recent = [{"loss": 1.5, "mse": 1.0}]
    state.save(tmp_path / "state.safetensors", RUN)
    return tmp_path / "state.safetensors", state


def test_a_state_comes_back_with_every_bit_and_goes_on_alike(saved):
    path, state = saved
    back = fresh(seed=1)
    back.restore(path, {name: RUN[name] for name in ("model", "option", "data")})
    assert (back.step, back.recent, back.precision) == (3, [{"loss": 1.5, "mse": 1.0}], "fp32")
    assert_same(everything(back), everything(state))
    assert_same(everything(stepped(back)), everything(stepped(state)))


def test_the_file_names_the_weights_each_average_and_the_moments(saved):
    path, state = saved
    names, tensors = [name for name, _ in state.model.named_parameters()], load_file(path)
    whole = {*state.model.state_dict()}
    assert whole - {*names} == {"positions"}
    wanted = {f"{part}.{name}" for part in ("model", "ema", "ema-0.5") for name in whole}
    wanted |= {f"optimiser.{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq", "step") for name in names}
    assert tensors.keys() == wanted
    assert torch.equal(tensors["ema.out.weight"], state.averages[0.9]["out.weight"])
    assert torch.equal(tensors["ema-0.5.out.weight"], state.averages[0.5]["out.weight"])
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    assert about == {"step": 3, "recent": [{"loss": 1.5, "mse": 1.0}], "run": RUN}


def test_averages_begin_at_the_weights_as_tensors_of_their_own(saved):
    state = fresh()
    for average in state.averages.values():
        for name, parameter in state.model.named_parameters():
            assert torch.equal(average[name], parameter) and average[name].data_ptr() != parameter.data_ptr()
            assert not average[name].requires_grad
    assert [state.title(decay) for decay in DECAYS] == ["ema", "ema-0.5"]


@pytest.mark.parametrize(("warmup", "steps"), [(True, (1, 2, 500)), (False, (1, 2, 500))])
def test_the_average_moves_by_its_decay_or_at_first_by_the_steps_so_far(warmup, steps):
    for step in steps:
        state = fresh(ema_warmup=warmup)
        before = {decay: average["out.bias"].clone() for decay, average in state.averages.items()}
        with torch.no_grad():
            state.model.out.bias.add_(1.0)
        state.step = step
        state.average()
        for decay in DECAYS:
            kept = min(decay, (1 + step) / (10 + step)) if warmup else decay
            expected = before[decay] + (1 - kept)
            torch.testing.assert_close(state.averages[decay]["out.bias"], expected)


def test_weights_are_as_trained_or_an_averages_and_are_shown_only_for_a_while(saved):
    _, state = saved
    trained = state.model.out.weight.detach().clone()
    assert torch.equal(state.weights()["out.weight"], trained)
    assert torch.equal(state.weights(0.5)["out.weight"], state.averages[0.5]["out.weight"])
    assert torch.equal(state.averaged().out.weight, state.averages[0.9]["out.weight"])
    assert not any(parameter.requires_grad for parameter in state.averaged().parameters())
    state.model.train()
    with state.showing(0.5) as model:
        assert torch.equal(model.out.weight, state.averages[0.5]["out.weight"]) and not model.training
    assert torch.equal(state.model.out.weight, trained)
    with pytest.raises(KeyError), state.showing(0.5):
        raise KeyError
    assert torch.equal(state.model.out.weight, trained)


def test_another_run_is_refused_by_what_differs_and_takes_nothing_over(saved):
    path, _ = saved
    back, born = fresh(seed=1), everything(stepped(fresh(seed=1)))
    stepped(back)
    asked = {"model": {"dim": 32}, "option": {"lr": 0.2, "new": 1}, "data": {"pictures": 6}}
    told = r"was started with model dim 16 \(now 32\), option lr 0.1 \(now 0.2\), option new None \(now 1\) and 1 more"
    with pytest.raises(ValueError, match=f"{told}; only how long and how often"):
        back.restore(path, asked)
    assert_same(everything(back), born)
    back.restore(path, {"option": {"lr": 0.1, "new": 1}}, {"option": {"lr": 5, "new": 1}})  # what it meant, not told
    assert back.step == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(step=-1), "its step should be a whole number from 0, not -1"),
        (dict(step=2.0), "its step should be a whole number from 0, not 2.0"),
        (dict(step=True), "its step should be a whole number from 0, not True"),
        (dict(step=2**63), "its step should be a whole number from 0"),
        (dict(recent=[{"loss": "low"}]), "its recent should be the figures of steps by name"),
        (dict(recent=[{"loss": True}]), "its recent should be the figures of steps by name"),
        (dict(recent=[5]), "its recent should be the figures of steps by name"),
        (dict(recent={}), "its recent should be the figures of steps by name"),
        (dict(recent=[{}] * 10_001), "its recent should be the figures of steps by name"),
        (dict(run={"model": 5}), "its run should be groups of values by name, found fp32 or bf16"),
        (dict(run={"found": {"precision": "fp8"}}), "its run should be groups of values by name, found fp32 or bf16"),
        (dict(run=None), "its run should be groups of values by name"),
    ],
    ids=range(12),
)
def test_what_a_file_says_of_itself_is_not_believed(change, told, saved):
    path, _ = saved
    about = {"step": 3, "recent": [], "run": RUN} | change
    save_file(load_file(path), path, {"dit_lab": json.dumps(about)})
    with pytest.raises(ValueError, match="is not a training state that can be continued from") as caught:
        fresh().restore(path, {})
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", ["shape", "kind", "missing"])
@pytest.mark.parametrize("name", ["model.out.bias", "ema-0.5.out.bias", "optimiser.exp_avg_sq.out.bias"])
def test_tensors_that_do_not_fit_are_refused_by_name(kind, name, saved):
    path, _ = saved
    tensors, about = load_file(path), {"dit_lab": json.dumps({"step": 3, "recent": [], "run": RUN})}
    if kind == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name].long() if kind == "kind" else tensors[name][1:].clone()
    save_file(tensors, path, about)
    with pytest.raises(ValueError, match="is not a training state") as caught:
        fresh().restore(path, {})
    assert name in str(caught.value)


def test_halves_are_taken_as_the_numbers_they_are(saved):
    path, state = saved
    halves = {name: tensor.bfloat16() if tensor.ndim else tensor for name, tensor in load_file(path).items()}
    save_file(halves, path, {"dit_lab": json.dumps({"step": 3, "recent": [], "run": {}})})
    back = fresh(seed=1)
    back.restore(path, {})
    assert back.precision == "" and back.averages[0.9]["out.bias"].dtype == torch.float32
    assert torch.equal(back.model.out.bias, state.model.out.bias.bfloat16().float())


def test_numbers_of_json_are_those_that_compute():
    assert all(map(is_number, (0, -1, 1.5, 2**63 - 1, float("nan"))))
    assert not any(map(is_number, (True, None, "1", 2**63, -(2**63), [1])))
    assert is_step(0) and is_step(2**63 - 1) and not is_step(2**63) and not is_step(-1) and not is_step(0.0)
    assert is_recent([]) and is_recent([{"a": 1}] * 10_000) and not is_recent([{"a": 1}] * 10_001)


def test_what_changed_is_said_in_plain_words():
    assert shown("adaln_zero") == "adaln_zero" and shown("a b") == "'a b'" and shown(0.5) == "0.5"
    assert shown("x" * 40) == "x" * 40 and "..." in shown("x" * 41) and len(shown("x" * 41)) == 20
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}, {}) == []
    assert differences({}, {"a": {"b": 1}}, {"a": {"b": 1}}) == ["a b None (now 1)"]  # a group that was not kept at all


def test_a_state_on_disk_is_the_one_that_trains(tmp_path):
    options = TrainOptions(steps=2, batch_size=4, precision="fp32", save_every=1, ema_decay=DECAYS)
    model = build("DiT-nano/8", input_size=8, in_channels=1, num_classes=10, dim=16, depth=1, heads=2)
    for step in train(model, open_data("digits"), options, out=tmp_path):
        held = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        there = load_file(tmp_path / "state.safetensors")
        assert_same({name: there[name] for name in held}, held)
        assert there["optimiser.step.out.bias"] == step.step
    assert replace(options, steps=3).fixed == options.fixed
