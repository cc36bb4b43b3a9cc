"""A run of the original's script goes on here as it would there, and one of ours there as it would here.

The original's network, its update of the average and its checkpoint are written here anew, in plain torch.
"""

import argparse
import math
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from shared import assert_same, launch
from torch import nn

from dit_lab.checkpoints import CheckpointError, load, open_run
from dit_lab.checkpoints.meta_run import content_of
from dit_lab.data import open_data
from dit_lab.diffusion import Diffusion
from dit_lab.models.layers import position_table, timestep_waves
from dit_lab.training import TrainOptions, recipe, train
from dit_lab.training.batches import draw
from dit_lab.training.following import asked as asked_for
from dit_lab.training.others import saved_run, told

DIM, HEADS, DEPTH, PATCH, CLASSES = 32, 2, 2, 4, 10
# None of the steps draws t = 0: there the bound is a difference of two numbers next to 1, and keeps few digits.
SEED, BATCH, BEFORE, AFTER = 1, 8, 6, 8
SCRIPT = dict(lr=5e-4, weight_decay=0.0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(DIM // HEADS)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, DIM))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulated(x, shift, scale):
    return F.layer_norm(x, (DIM,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), Mlp()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 6 * DIM))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attn(modulated(x, shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulated(x, shift2, scale2))


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, 2 * PATCH**2)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(DIM, 2 * DIM))

    def forward(self, x, c):
        return self.linear(modulated(x, *self.adaLN_modulation(c).chunk(2, dim=1)))


class Theirs(nn.Module):
    """The original's network for the digits, its parameters under its names and in its order."""

    def __init__(self):
        super().__init__()
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Module(), nn.Module(), nn.Module()
        self.x_embedder.proj = nn.Conv2d(1, DIM, PATCH, PATCH)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, DIM), nn.SiLU(), nn.Linear(DIM, DIM))
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, DIM)
        self.pos_embed = nn.Parameter(position_table(DIM, 2, 2)[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.final_layer = Last()

    def forward(self, x, t, y):
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder.mlp(timestep_waves(t, 256)) + self.y_embedder.embedding_table(y)
        for block in self.blocks:
            x = block(x, c)
        x = self.final_layer(x, c).reshape(-1, 2, 2, PATCH, PATCH, 2)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, 2, 2 * PATCH, 2 * PATCH)


class Script:
    """The original's training script: no clipping, an average of 0.9999 from the first step, its four-part file."""

    def __init__(self, images):
        self.images, self.step = images, 0
        torch.manual_seed(0)
        self.model = Theirs()
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
        self.average = deepcopy(self.model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), **SCRIPT)

    def train(self, steps: int) -> list[float]:
        losses, options = [], TrainOptions(batch_size=BATCH, seed=SEED)
        for _ in range(steps):
            x0, i, y, eps = draw(self.images, self.step, Diffusion.named(), options)
            assert i.min() > 0
            loss = Diffusion.named().losses(self.model, x0, i, y, eps).loss.mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            for name, tensor in self.model.named_parameters():
                self.average.get_parameter(name).mul_(0.9999).add_(tensor.data, alpha=1 - 0.9999)
            self.step += 1
            losses.append(loss.item())
        return losses

    def content(self) -> dict:
        args = argparse.Namespace(
            model="DiT-nano/4", image_size=8, num_classes=CLASSES, global_batch_size=BATCH, global_seed=SEED, vae="ema",
            data_path="pictures", results_dir="results", epochs=1400, num_workers=4, log_every=100, ckpt_every=50_000,
        )  # fmt: skip
        kept = {"model": self.model, "ema": self.average, "opt": self.optimiser}
        return {name: deepcopy(part.state_dict()) for name, part in kept.items()} | {"args": args}

    def load(self, content: dict) -> "Script":
        for name, part in ("model", self.model), ("ema", self.average), ("opt", self.optimiser):
            part.load_state_dict(content[name])
        self.step = int(content["opt"]["state"][1]["step"])
        return self


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture(scope="module")
def begun(digits, tmp_path_factory):
    """(the file of a run of the original's script, what is in it, the script that goes on, its losses)."""
    script = Script(digits)
    script.train(BEFORE)
    content = script.content()
    torch.save(content, path := tmp_path_factory.mktemp("theirs") / "0000006.pt")
    return path, content, script, script.train(AFTER)


def opened(path):
    return open_run(path, heads=HEADS)


def moving(name: str, tensor):
    """Without the bias of the keys: it has no gradient but rounding, which Adam makes steps of."""
    return torch.cat([tensor[:DIM], tensor[2 * DIM :]]) if tensor.ndim and name.endswith("qkv.bias") else tensor


def assert_close(ours: dict, theirs: dict, most: float = 1e-6):
    """The same tensors by name, to `most`."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(moving(name, ours[name]), moving(name, tensor), rtol=0, atol=most, msg=name)


@pytest.fixture(scope="module")
def gone_on(begun, digits, tmp_path_factory):
    """(our folder, our steps) of that run gone on with."""
    theirs, out = opened(begun[0]), tmp_path_factory.mktemp("ours") / "run"
    options = recipe(theirs, TrainOptions(steps=BEFORE + AFTER))
    return out, list(train(theirs.loaded.model, digits, options, out=out, theirs=theirs))


def test_a_run_of_the_originals_goes_on_as_it_goes_on_there(begun, gone_on):
    _, before, script, losses = begun
    out, steps = gone_on
    assert [step.step for step in steps] == list(range(BEFORE + 1, BEFORE + AFTER + 1))
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-6)
    ours, theirs = content_of(saved_run(out)), script.content()
    assert max((tensor - before["model"][name]).abs().max() for name, tensor in theirs["model"].items()) > 2e-3
    assert_close(ours["model"], theirs["model"])
    assert_close(ours["ema"], theirs["ema"], most=3e-6)  # theirs also averages its position table, which drifts
    names = list(theirs["model"])
    for moment, most in ("exp_avg", 1e-7), ("exp_avg_sq", 1e-9), ("step", 0):
        kept = [{names[n]: state[moment] for n, state in each["opt"]["state"].items()} for each in (ours, theirs)]
        assert_close(*kept, most=most)


def in_process(path, out, shard):
    """In one of several: go on with a run, and return the losses."""
    theirs = opened(path)
    options = recipe(theirs, TrainOptions(steps=BEFORE + AFTER, shard=shard))
    steps = train(theirs.loaded.model, open_data("digits"), options, out=out, theirs=theirs)
    return [step.loss for step in steps]


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_go_on_as_one_does(shard, begun, gone_on, tmp_path):
    losses = launch(2, in_process, begun[0], tmp_path / "run", shard)
    assert losses[0] == losses[1] == pytest.approx(begun[3], abs=1e-6)
    ours, alone = (content_of(saved_run(out)) for out in (tmp_path / "run", gone_on[0]))
    assert_close(ours["model"], alone["model"])
    assert_close(ours["ema"], alone["ema"])


def test_what_the_original_reads_back_from_ours_goes_on_as_ours_does(begun, gone_on, digits, command, tmp_path):
    code, printed, said = command("convert", gone_on[0], tmp_path / "back.pt", "--to", "meta_dit", "--training")
    assert code == 0 and f"after {BEFORE + AFTER} steps" in printed, said
    back = Script(digits).load(torch.load(tmp_path / "back.pt", weights_only=False))
    assert back.step == BEFORE + AFTER
    theirs = opened(tmp_path / "back.pt")
    options = recipe(theirs, TrainOptions(steps=back.step + 3))
    ours = list(train(theirs.loaded.model, digits, options, out=tmp_path / "run", theirs=theirs))
    assert [step.loss for step in ours] == pytest.approx(back.train(3), abs=1e-6)
    assert_close(content_of(saved_run(tmp_path / "run"))["model"], back.content()["model"])


def test_a_file_of_theirs_comes_back_with_every_bit(begun):
    path, content, *_ = begun
    back = content_of(opened(path))
    assert back["opt"]["param_groups"] == content["opt"]["param_groups"]
    assert back["opt"]["state"].keys() == content["opt"]["state"].keys()
    for number, state in content["opt"]["state"].items():
        assert_same(back["opt"]["state"][number], state)
    assert_same(back["model"], content["model"])
    table = "pos_embed"  # that of the average is not ours: it is the model's, and rounding
    assert_same(back["ema"] | {table: 0 * back["ema"][table]}, content["ema"] | {table: 0 * content["ema"][table]})
    assert vars(content["args"]).items() <= vars(back["args"]).items()


def test_the_command_goes_on_says_with_what_and_is_resumed_bit_for_bit(begun, gone_on, command, tmp_path):
    given = ["train", "--go-on", begun[0], "--heads", HEADS, "--data", "digits", "--device", "cpu"]
    out = tmp_path / "run"
    code, _, said = command(*given, "--out", out, "--steps", BEFORE + 3)
    assert code == 0, said
    assert (
        f"{begun[0]} goes on after step {BEFORE} as it was, with ema_decay 0.9999, ema_warmup False, clip None" in said
    )
    assert f"seed {SEED}, batch_size {BATCH}, lr 0.0005" in said and "flips half of the pictures (--mirror)" in said
    shutil.copytree(out, tmp_path / "plainly")
    code, _, said = command(*given, "--out", out, "--steps", BEFORE + AFTER, "--resume")
    assert code == 0, said
    ours, whole = (load_file(folder / "state.safetensors") for folder in (out, gone_on[0]))
    assert_same(ours, whole)
    plain = ["train", "--out", tmp_path / "plainly", "--resume", "--steps", BEFORE + AFTER, "--device", "cpu"]
    code, _, said = command(*plain)
    assert (
        code == 0 and "plainly is continued as it was started, with batch_size 8, lr 0.0005, ema_warmup False" in said
    )
    assert_same(load_file(tmp_path / "plainly" / "state.safetensors"), whole)


def test_options_at_their_defaults_are_the_runs_and_others_count(begun):
    theirs = opened(begun[0])
    options = recipe(theirs, TrainOptions(steps=99))
    wanted = dict(lr=5e-4, betas=(0.9, 0.999), weight_decay=0.0, ema_decay=0.9999, ema_warmup=False, clip=None)
    wanted |= dict(batch_size=BATCH, seed=SEED, precision="fp32", label_dropout=0.1, steps=99)
    assert options == replace(TrainOptions(), **wanted)
    asked = recipe(theirs, TrainOptions(steps=99, lr=1e-5, clip=0.5, batch_size=32, ema_decay=0.99, mirror=True))
    assert (asked.lr, asked.clip, asked.batch_size, asked.ema_decay, asked.ema_warmup) == (1e-5, 0.5, 32, 0.99, False)
    assert told(theirs, asked).endswith(
        "; otherwise than it was, with ema_decay 0.99 (was 0.9999), clip 0.5 (was None), "
        f"batch_size 32 (was {BATCH}), lr 1e-05 (was 0.0005)"
    )
    of_features = replace(theirs, args={"feature_path": "features"})
    assert "--mirror" in told(theirs, options) and "--mirror" not in told(of_features, recipe(of_features, options))
    with pytest.raises(ValueError, match="has done 6 steps already, and 6 are asked for in all; ask for more with --s"):
        recipe(theirs, TrainOptions(steps=BEFORE))


def test_the_heads_that_a_file_does_not_say_are_given_with_its_weights_too(begun, command, tmp_path):
    given = ["train", "--init", begun[0], "--device", "cpu", "--out", tmp_path / "run", "--steps", 1]
    code, _, said = command(*given)
    assert code == 2 and "so say how many heads it has" in said and "--heads" in said
    code, _, said = command(*given, "--heads", HEADS)
    assert code == 0 and load(tmp_path / "run").config.heads == HEADS, said
    code, _, said = command("train", "--init", tmp_path / "run", "--heads", 4, "--out", tmp_path / "other")
    assert code == 2 and "it says of itself heads 2, not 4; leave heads out" in said


def test_what_is_given_counts_also_where_it_is_our_default(begun, command, tmp_path):
    theirs, usual = opened(begun[0]), TrainOptions(steps=99)
    asked = recipe(theirs, usual, {"lr", "clip", "ema_warmup"})
    assert (asked.lr, asked.clip, asked.ema_warmup) == (usual.lr, usual.clip, usual.ema_warmup) == (1e-4, 1.0, True)
    assert asked.batch_size == BATCH
    given = ["train", "--go-on", begun[0], "--heads", HEADS, "--device", "cpu", "--steps", BEFORE + 1]
    out = tmp_path / "run"
    code, _, said = command(*given, "--out", out, "--clip=1.0", "--ema_warmup", "--lr", "1e-4", "--batch-size", 64)
    assert code == 0, said
    assert (
        "otherwise than it was, with ema_warmup True (was False), clip 1.0 (was None), "
        f"batch_size 64 (was {BATCH}), lr 0.0001 (was 0.0005)"
    ) in said


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--lr", "1e-4", "--out", "clip"], {"lr"}),
        (["--batch_size=64", "--ema-warmup"], {"batch_size", "ema_warmup"}),
        (["--no-ema-warmup", "--no_mirror"], {"ema_warmup", "mirror"}),
        (["--go-on", "a.pt", "--data", "x"], set()),
    ],
)
def test_what_a_command_line_gives_is_known_by_name(words, names):
    assert asked_for(words, TrainOptions) == names


def test_a_further_average_begins_at_the_weights(begun, digits):
    theirs = opened(begun[0])
    trained = theirs.loaded.model.out.weight.detach().clone()
    options = recipe(theirs, TrainOptions(steps=BEFORE + 1, ema_decay=(0.5, 1.0)))
    average = deepcopy(theirs.loaded.model)
    list(train(theirs.loaded.model, digits, options, theirs=theirs, average=average))
    moved = theirs.loaded.model.out.weight.detach()
    torch.testing.assert_close(average.out.weight, (theirs.average["out.weight"] + moved) / 2)
    assert not torch.equal(trained, moved)


@pytest.mark.parametrize("kind", ["a table that is no parameter", "steps as numbers", "wrapped names"])
def test_forks_and_older_files_go_on_too(kind, begun, tmp_path):
    content = deepcopy(begun[1])
    states, group = content["opt"]["state"], content["opt"]["param_groups"][0]
    if kind == "a table that is no parameter":
        group["params"] = group["params"][:-1]
        content["opt"]["state"] = {number - 1: state for number, state in states.items()}
    elif kind == "steps as numbers":
        for state in states.values():
            state["step"] = int(state["step"])
        for name in "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay":
            group.pop(name, None)
    else:
        content["model"] = {f"module._orig_mod.{name}": tensor for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "a.pt")
    ours, theirs = opened(tmp_path / "a.pt"), opened(begun[0])
    assert ours.step == BEFORE and ours.adamw == theirs.adamw
    for moment in "exp_avg", "exp_avg_sq":
        assert_same(ours.moments[moment], theirs.moments[moment])


def damaged(content: dict, where: str, value) -> dict:
    """The content with another value at a place, such as opt.state.3.exp_avg; None takes it away."""
    content = deepcopy(content)
    *way, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    part = content
    for step in way:
        part = part[step]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return content


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("opt", None, "is no whole training checkpoint (model, ema, opt), so it cannot be gone on with; begin with its "
                      "weights: --init"),
        ("ema", None, "is no whole training checkpoint"),
        ("opt.state.3", None, "its optimiser has no moments of t_embedder.mlp.0.weight"),
        ("opt.state.3.exp_avg", torch.zeros(4), "exp_avg does not fit the weights, or is not finite: t_embedder.mlp.0"),
        ("opt.state.3.exp_avg", "x", "exp_avg does not fit the weights"),
        ("opt.state.3.exp_avg_sq", torch.full((DIM, 256), -1.0), "exp_avg_sq does not fit the weights"),
        ("opt.state.3.exp_avg_sq", torch.full((DIM, 256), math.nan), "exp_avg_sq does not fit the weights"),
        ("opt.state.3.step", torch.tensor(5.0), "should have done one number of steps, not [5.0, 6.0]"),
        ("opt.state.3.step", torch.zeros(2), "its opt is no AdamW's state"),
        ("opt.state.3.exp_avg", None, "its opt is no AdamW's state"),
        ("opt.state", 5, "its opt is no AdamW's state"),
        ("opt.param_groups.0.params", [0, 1], "its optimiser has 2 parameters, its model 32"),
        ("opt.param_groups.0.amsgrad", True, "its AdamW has amsgrad True, which dit_lab's has not"),
        ("opt.param_groups.0.eps", 1e-6, "its AdamW has eps 1e-06"),
        ("opt.param_groups", [], "has 0 groups of parameters, the original's has one"),
        ("opt.param_groups.0.lr", None, "its opt is no AdamW's state"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_is_one_sentence(where, value, told, begun, tmp_path):
    torch.save(damaged(begun[1], where, value), tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path / "a.pt")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'a.pt'}") and told in said and said.isprintable() and len(said) < 400


@pytest.mark.parametrize("name", ["lr", "betas", "weight_decay"])
def test_an_optimiser_of_impossible_numbers_is_refused(name, begun, tmp_path):
    torch.save(damaged(begun[1], f"opt.param_groups.0.{name}", -1.0), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"a.pt says of its training what no run has: {name} must be "):
        recipe(opened(tmp_path / "a.pt"), TrainOptions())


def test_a_run_of_sits_script_is_refused_as_what_it_is(begun, tmp_path):
    torch.save(begun[1] | {"args": argparse.Namespace(model="SiT-S/4", path_type="Linear")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="a.pt is no DiT's; of others' runs only a DiT's is gone on with"):
        opened(tmp_path / "a.pt")


def test_code_in_a_run_is_never_run(begun, tmp_path):
    torch.save(begun[1] | {"args": argparse.ArgumentParser}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors .argparse.ArgumentParser."):
        opened(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--go-on", "runs/none.pt"], "runs/none.pt is no file; a run is gone on with from the .pt that"),
        (["--go-on", "runs/none.pt", "--preset", "DiT-S/2", "--init", "mnist"], "leave out --init, --preset"),
    ],
)
def test_the_command_refuses_before_any_work(arguments, told, command, tmp_path):
    code, _, said = command("train", *arguments, "--out", tmp_path / "run")
    assert code == 2 and told in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--to", "diffusers"], "in the format meta_dit alone"),
        (["--to", "meta_dit", "--dtype", "float16"], "--training writes a run as it is"),
        (["--to", "meta_dit", "--weights", "model"], "--training writes a run as it is"),
    ],
)
def test_a_run_is_written_whole_or_not(more, told, gone_on, command, tmp_path):
    code, _, said = command("convert", gone_on[0], tmp_path / "back.pt", *more, "--training")
    assert code == 2 and told in said and not list(tmp_path.iterdir())
    code, _, said = command("convert", "mnist", tmp_path / "back.pt", "--to", "meta_dit", "--training")
    assert code == 2 and "mnist holds no run of ours: it has no state.safetensors" in said
