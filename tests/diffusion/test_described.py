"""A network of one's own as any model: sampled, recorded and trained; what is wrong is said in a sentence."""

from copy import deepcopy

import pytest
import torch
from einops import rearrange
from torch import nn
from torch.testing import assert_close

from dit_lab.data import open_data
from dit_lab.diffusion import Task, described, generate, sample
from dit_lab.inside import TraceError, Trajectory, record, watch
from dit_lab.models import BLOCKS, DiT, build, preset, taking
from dit_lab.training import TrainOptions, train

PLAIN = dict(input_size=(4, 6), in_channels=2)


def zeros(x, t, y):
    return torch.zeros_like(x)


class Tiny(nn.Module):
    """A network that knows neither schedules nor configs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, y):
        return self.inner(x)


def test_a_function_without_a_config_is_sampled_as_a_model_that_says_the_same():
    x0 = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    drawn = generate(described(lambda x, t, y: x0, prediction="x0", **PLAIN), [0, 0, 0], steps=5)
    assert_close(drawn, x0)
    model = build("DiT-nano/2", input_size=8, in_channels=1, num_classes=3).eval()
    asked = dict(steps=4, cfg_scale=2.0, seed=3)
    wrapped = generate(described(lambda x, t, y: model(x, t, y), model.config), [0, 2], **asked)
    assert torch.equal(wrapped, generate(model, [0, 2], **asked))


def test_it_sees_what_any_model_is_given():
    seen = []

    def network(x, t, y):
        seen.append((tuple(x.shape), x.dtype, t.tolist(), y.tolist()))
        return torch.zeros_like(x)

    generate(described(network, num_classes=4, **PLAIN), [1, 4], steps=2, cfg_scale=3.0)
    assert seen[0] == ((4, 2, 4, 6), torch.float32, [999] * 4, [1, 4, 4, 4]) and len(seen) == 2


@pytest.mark.parametrize("schedule, kind", [("linear", "eps"), ("cosine", "eps"), ("flow", "velocity")])
def test_what_is_predicted_is_by_itself_what_the_schedule_is_for(schedule, kind):
    config = described(zeros, schedule=schedule, **PLAIN).config
    assert config.prediction == kind and not config.learned_variance and config.size == (4, 6)
    assert Task((8, 8), 1) == Task(8, 1) == Task([8, 8], 1)


def test_a_module_is_trained_and_its_average_kept_in_memory():
    torch.manual_seed(0)
    images = open_data("digits")
    model = described(Tiny(), **taking(images), schedule="flow")
    average, before = deepcopy(model), deepcopy(model.state_dict())
    steps = list(train(model, images, TrainOptions(steps=3, batch_size=8, lr=1e-2, precision="fp32"), average=average))
    assert len(steps) == 3 and set(before) == {"network.inner.weight", "network.inner.bias"}
    for name, tensor in model.state_dict().items():
        assert not torch.equal(tensor, before[name]) and not torch.equal(average.state_dict()[name], before[name])
    assert generate(average, [3, 10], steps=3).shape == (2, 1, 8, 8)


def test_a_function_has_nothing_to_train():
    images = open_data("digits")
    with pytest.raises(ValueError, match="the model has no weights that could be trained"):
        train(described(zeros, **taking(images)), images)


def test_a_dit_with_a_piece_of_the_learners_own_is_trained_sampled_and_looked_into():
    class Mine(DiT):
        def patchify(self, x):
            cut = nn.functional.unfold(x, self.config.patch_size, stride=self.config.patch_size)
            return self.patch_embedding(rearrange(cut, "b d n -> b n d"))

    images = open_data("digits")
    config = preset("DiT-nano/2", **taking(images), dim=16, depth=1, heads=2)
    mine = Mine(config, BLOCKS["adaln_zero"])
    assert len(list(train(mine, images, TrainOptions(steps=2, batch_size=8, precision="fp32")))) == 2
    theirs = build(config)
    theirs.load_state_dict(mine.state_dict())
    asked = dict(steps=3, cfg_scale=2.0)
    run = record(mine, [3], **asked)
    assert_close(run.sample, generate(theirs, [3], **asked))
    assert run.attention(mine, 1).shape == (2, 16, 16) and run.contributions(mine, 1).error < 1e-4


def test_a_recorded_run_is_kept_and_found_again_and_says_that_there_is_no_model_in_it(tmp_path):
    model = described(zeros, num_classes=2, schedule="flow", **PLAIN)
    run = record(model, [0, 2], steps=3, seed=5)
    run.save(tmp_path / "run.safetensors")
    again = Trajectory.load(tmp_path / "run.safetensors")
    assert again.config == run.config == model.config and again.options == run.options
    assert torch.equal(again.x, run.x) and torch.equal(again.sample, run.sample)
    for look in lambda: again.edited(model), lambda: again.attention_rows(model, 0, 0), lambda: again.grid:
        with pytest.raises((TraceError, AttributeError)):
            look()
    with pytest.raises(TraceError, match="a network of one's own has no blocks that can be looked into"):
        again.replay(model, 0, 0, "cond")
    with pytest.raises(TraceError, match="recorded with another model; they differ in architecture"):
        again.replay(build("DiT-nano/2", input_size=(4, 6), in_channels=2, num_classes=2), 0, 0, "cond")


def test_what_else_is_asked_of_it_is_the_networks():
    inner = build("DiT-nano/2", input_size=8, in_channels=1, num_classes=3)
    model = described(lambda x, t, y: inner(x, t, y), inner.config)
    assert not hasattr(model, "blocks")
    model = described(inner, inner.config)
    assert model.blocks is inner.blocks
    with watch(model) as seen:
        model(torch.zeros(1, 1, 8, 8), torch.tensor([5]), torch.tensor([3]))
    assert seen.attention(0).shape == (1, 4, 16, 16)
    run = record(model, [1], steps=2)
    assert run.attention(model, 0).shape == (4, 16, 16)
    assert len(deepcopy(model).blocks) == len(inner.blocks)


@pytest.mark.parametrize(
    ("network", "fields", "told"),
    [
        (3, PLAIN, "a network is a function or a module"),
        (zeros, {}, r"say input_size and in_channels of the network, or give a config or \*\*taking"),
        (zeros, PLAIN | {"channels": 3}, "there is no field 'channels'; there are input_size, in_channels"),
        (zeros, PLAIN | {"in_channels": 0}, "in_channels must be a whole number of at least 1, not 0"),
        (zeros, PLAIN | {"num_classes": True}, "num_classes must be a whole number"),
        (zeros, PLAIN | {"input_size": (4, 0)}, "input_size must be a side or"),
        (zeros, PLAIN | {"input_size": "8"}, "input_size must be a side or"),
        (zeros, PLAIN | {"learned_variance": 1}, "learned_variance must be true or false"),
        (zeros, PLAIN | {"schedule": "line"}, "there is no schedule 'line'; there are linear"),
        (zeros, PLAIN | {"schedule": "flow", "prediction": "eps"}, "flow matching predicts velocity or x0"),
        (zeros, PLAIN | {"prediction": 3}, "schedule and prediction are names"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(network, fields, told):
    with pytest.raises(ValueError, match=told):
        described(network, **fields)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            lambda x, t, y: x[:, :1],
            r"for x of \(1, 2, 4, 6\) the network must give a tensor of \(1, 2, 4, 6\) and ",
        ),
        (lambda x, t, y: torch.cat([x, x], dim=1), r"and gave one of \(1, 4, 4, 6\)"),
        (lambda x, t, y: None, "and gave a NoneType"),
    ],
)
def test_an_output_of_another_shape_is_named_at_the_first_step(network, told):
    with pytest.raises(ValueError, match=told):
        next(iter(sample(described(network, **PLAIN), [0], steps=2)))
