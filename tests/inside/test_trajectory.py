"""Recorded runs: nothing changes by recording, replays are exact, and files are checked before they are believed."""

import json
import pickle

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import random_model, random_udit

from dit_lab.diffusion import generate, sample
from dit_lab.inside import Recording, TraceError, Trajectory, record, token_under, watch
from dit_lab.models import BLOCKS

OPTIONS = dict(steps=4, cfg_scale=2.0, seed=3)
LABELS = [1, 5]
CLOSE = dict(atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def trajectory(model):
    return record(model, LABELS, **OPTIONS)


@pytest.fixture
def saved(trajectory, tmp_path):
    trajectory.save(tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize("block", BLOCKS)
def test_recorded_and_unrecorded_sampling_give_identical_images(block):
    model = random_model(block)
    options = OPTIONS | dict(sampler="ddpm")
    assert torch.equal(record(model, LABELS, **options).sample, generate(model, LABELS, **options))


def test_a_recording_yields_the_steps_of_sample_and_keeps_them(model):
    recording = Recording(model, LABELS, **OPTIONS)
    with pytest.raises(TraceError, match="to its end"):
        _ = recording.trajectory
    for ours, theirs in zip(recording, sample(model, LABELS, **OPTIONS), strict=True):
        for name in ("x", "x0", "eps", "eps_cond", "eps_uncond", "log_variance", "previous"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        kept = theirs
    trajectory = recording.trajectory
    assert trajectory.x.shape == (4, 2, 3, 8, 12)
    assert torch.equal(trajectory.x[3], kept.x) and torch.equal(trajectory.x0[3], kept.x0)
    assert torch.equal(trajectory.eps[3], kept.eps) and torch.equal(trajectory.sample, kept.previous)
    assert (trajectory.t, trajectory.labels) == ([999, 666, 333, 0], LABELS)
    assert trajectory.options["steps"] == 4 and trajectory.options["eta"] == 0.0
    assert list(recording) == [] and recording.trajectory is trajectory


def test_injected_noise_leaves_no_seed_behind(model):
    trajectory = record(model, [0], steps=2, noise=torch.zeros)
    assert trajectory.options["seed"] is None


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("half", ["cond", "uncond"])
def test_replays_see_the_attention_of_the_recorded_run(block, half):
    model = random_model(block)
    seen = []
    # Guided steps run the doubled batch: the conditional half first, then the unconditional.
    hook = model.blocks[2].attn.attend.register_forward_pre_hook(lambda module, args: seen.append(args[:2]))
    trajectory = record(model, LABELS, **OPTIONS)
    hook.remove()
    q, k = (rearrange(part, "(two b) ... -> two b ...", two=2)[int(half == "uncond"), 1] for part in seen[2])
    explicit = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    look = dict(sample=1, half=half)
    full = trajectory.attention(model, 2, block=2, **look)
    torch.testing.assert_close(full, explicit, **CLOSE)
    rows = trajectory.attention(model, 2, block=2, head=3, queries=[5, 0], **look)
    torch.testing.assert_close(rows, explicit[[3]][:, [5, 0]], **CLOSE)
    clicked = trajectory.attention_rows(model, 2, 4, **look)
    assert clicked.shape == (3, 4, trajectory.tokens_of(0))
    torch.testing.assert_close(clicked[2], explicit[:, 4], **CLOSE)


def test_in_context_maps_end_with_the_condition_tokens():
    model = random_model("in_context")
    trajectory = record(model, LABELS, steps=2)
    assert (trajectory.grid, trajectory.tokens_of(0)) == ((2, 3), 8)
    before = trajectory.attention(model, 0, queries=[0])
    with torch.no_grad():
        model.label_embedding.weight[1] *= -1  # not a positive factor: the layer norm would undo it
    moved = (trajectory.attention(model, 0, queries=[0]).log() - before.log()).squeeze()
    # Only the label's key moved, so all other log-weights fall by the same amount.
    torch.testing.assert_close(moved[:, :7], moved[:, :1].expand(-1, 7), **CLOSE)
    assert (moved[:, 7] - moved[:, 0]).abs().max() > 1e-3


def test_cross_attention_has_a_map_of_its_own_and_others_say_so(model, trajectory):
    crossed = random_model("cross_attention")
    run = record(crossed, LABELS, steps=2)
    assert run.attention(crossed, 0, kind="cross", queries=[1]).shape == (4, 1, 2)
    assert run.attention_rows(crossed, 0, 1, kind="cross").shape == (3, 4, 2)
    with pytest.raises(TraceError, match="no cross of block 0"):
        trajectory.attention(model, 0, kind="cross")


def test_modulation_without_a_replay_is_what_the_blocks_get(model, trajectory):
    over_time = trajectory.modulation(model, sample=1)
    assert list(over_time) == list(model.blocks[0].modulation.parts)
    for step, t in enumerate(trajectory.t):
        with watch(model, attention=None, features=False) as seen, torch.no_grad():
            model(trajectory.x[step], torch.tensor([t, t]), torch.tensor(LABELS))
        at_step = trajectory.modulation(model, step, sample=1)
        for part, vectors in over_time.items():
            expected = torch.stack([seen.modulation[part][block][1] for block in range(3)])
            torch.testing.assert_close(vectors[step], expected, **CLOSE)
            torch.testing.assert_close(at_step[part], expected, **CLOSE)
    norms = trajectory.modulation_norms(model, sample=1)
    assert norms["gate_mlp"].shape == (3, 4)
    torch.testing.assert_close(norms["gate_mlp"][2, 1], over_time["gate_mlp"][1, 2].square().mean().sqrt())


def test_modulation_of_blocks_without_any_is_refused():
    model = random_model("cross_attention")
    with pytest.raises(TraceError, match="cross-attention blocks have no modulation"):
        record(model, [0], steps=1).modulation(model)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_last_features_make_the_output(block):
    model = random_model(block)
    trajectory = record(model, LABELS, steps=3)
    features = trajectory.features(model, 1, sample=1)
    assert features.shape == (3, 6, 96)
    t, y = torch.tensor([trajectory.t[1]]), torch.tensor(LABELS[1:])
    with torch.no_grad():
        out = model.unpatchify(model.out(model.final_norm(features[-1:], model.condition(t, y))), rows=2)
    torch.testing.assert_close(out[:, :3], trajectory.eps[1, 1:], **CLOSE)


def test_runs_of_another_size_are_replayed_at_that_size(model):
    trajectory = record(model, LABELS, steps=2, size=(12, 8))
    assert trajectory.grid == (3, 2)
    assert trajectory.features(model, 0).shape == (3, 6, 96)
    assert trajectory.attention(model, 1).shape == (4, 6, 6)


def test_maps_above_the_limit_are_refused_before_anything_runs(model, trajectory):
    assert trajectory.attention_bytes() == 3 * 4 * 6 * 6 * 4
    assert trajectory.attention_bytes(queries=[1, 2], blocks=[0], heads=[1]) == 2 * 6 * 4
    assert trajectory.attention(model, 0).nbytes == trajectory.attention_bytes(blocks=[0])
    broken = lambda *inputs: pytest.fail("ran")
    hook = model.register_forward_pre_hook(broken)
    try:
        with pytest.raises(TraceError, match="takes 576 bytes, more than the limit of 100 bytes; ask for the rows"):
            trajectory.attention(model, 0, limit=100)
    finally:
        hook.remove()
    assert trajectory.attention(model, 0, queries=[0], head=0, limit=100).shape == (1, 1, 6)


def test_queries_are_a_list_an_array_or_a_tensor(model, trajectory):
    expected = trajectory.attention(model, 0, queries=[2, 0])
    for queries in (torch.tensor([2, 0]), np.array([2, 0]), (2, 0)):
        assert torch.equal(trajectory.attention(model, 0, queries=queries), expected)
    assert torch.equal(trajectory.attention(model, 0, queries=range(3)), trajectory.attention(model, 0)[:, :3])
    with pytest.raises(TraceError, match="queries must be a list of numbers, not 1"):
        trajectory.attention(model, 0, queries=1)


def test_labels_and_options_are_taken_as_sample_takes_them(model):
    run = dict(steps=3, cfg_scale=2.0)
    expected = record(model, [1, 2], cfg_interval=[1, 500], **run)
    for labels, interval in ((iter([1, 2]), (1, 500)), (torch.tensor([1, 2]), [np.int64(1), np.int64(500)])):
        trajectory = record(model, labels, cfg_interval=interval, **run)
        assert torch.equal(trajectory.sample, expected.sample) and trajectory.options == expected.options


def test_what_is_not_there_is_refused_in_a_sentence(model, trajectory):
    for call, message in [
        (lambda: trajectory.attention(model, 4), "step must be a whole number from 0 to 3, not 4"),
        (lambda: trajectory.attention(model, 0, sample=2), "sample must be"),
        (lambda: trajectory.attention(model, 0, block=3), "block must be"),
        (lambda: trajectory.attention(model, 0, head=4), "head must be"),
        (lambda: trajectory.attention(model, 0, queries=[6]), "query must be"),
        (lambda: trajectory.attention_rows(model, 0, -1), "query must be"),
        (lambda: trajectory.features(model, 0, half="both"), "half must be"),
        (lambda: trajectory.features(random_model(depth=2), 0), "another model; they differ in depth"),
        (lambda: trajectory.modulation(random_model("adaln")), "differ in block"),
    ]:
        with pytest.raises(TraceError, match=message):
            call()
    unconditional = random_model(num_classes=0)
    with pytest.raises(TraceError, match="without classes"):
        record(unconditional, [0], steps=1).features(unconditional, 0, half="uncond")


def test_a_saved_trajectory_comes_back_whole(model, tmp_path):
    labels, interval = np.array([1, 5]), (100, 900)
    trajectory = record(model, labels, steps=np.int64(3), cfg_scale=1.5, cfg_interval=interval, eta=0.5, size=(4, 8))
    trajectory.save(tmp_path / "run.safetensors")
    back = Trajectory.load(tmp_path / "run.safetensors")
    for name in ("config", "labels", "options", "t"):
        assert getattr(back, name) == getattr(trajectory, name)
    for name in ("x", "x0", "eps", "sample"):
        assert torch.equal(getattr(back, name), getattr(trajectory, name))
    assert torch.equal(back.attention(model, 1), trajectory.attention(model, 1))
    assert torch.equal(generate(model, back.labels, **back.options), trajectory.sample)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_bf16_models_are_recorded_in_fp32():
    model = random_model().bfloat16()
    trajectory = record(model, [0], steps=2)
    assert trajectory.x.dtype == trajectory.eps.dtype == torch.float32
    assert trajectory.attention(model, 0).dtype == trajectory.features(model, 0).dtype == torch.float32
    assert trajectory.modulation_norms(model)["gate_attn"].dtype == torch.float32


def rewritten(path, change):
    """Save a trajectory file again after `change(about, tensors)`."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(about, tensors)
    save_file(tensors, path, {"dit_lab": json.dumps(about)})


@pytest.mark.parametrize("sampler", ["ddim", "euler", "ddpm"])
def test_files_of_before_clipping_still_load_and_say_that_nothing_was_clipped(model, tmp_path, sampler):
    """Then an eta was taken, and did nothing, where the sampler has none."""
    file, eta = tmp_path / "old.safetensors", 0.5
    trajectory = record(model, LABELS, sampler=sampler, eta=eta * (sampler == "ddim"), **OPTIONS)
    trajectory.save(file)

    def aged(about, tensors):
        del about["options"]["clip_x0"]
        about["options"]["eta"] = eta

    rewritten(file, aged)
    back = Trajectory.load(file)
    assert back.options == trajectory.options and back.options["clip_x0"] is False
    assert torch.equal(generate(model, back.labels, **back.options), back.sample)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about, tensors: about.update(version=2), "version 2; this dit_lab reads 1"),
        (lambda about, tensors: about.update(format="dit_lab"), "not a trajectory"),
        (lambda about, tensors: about.pop("t"), "description lacks t"),
        (lambda about, tensors: about["t"].append(5), "t must be 4 timesteps"),
        (lambda about, tensors: about.update(t=["now"] * 4), "t must be 4 timesteps"),
        (lambda about, tensors: about.update(labels=[1]), "x must be fp32 of shape"),
        (lambda about, tensors: about.update(labels=[1, 99]), "whole numbers from 0 to 5"),
        (lambda about, tensors: about["options"].pop("eta"), "the options must be"),
        (lambda about, tensors: about["options"].update(sampler=["ddim"]), "damaged"),
        (lambda about, tensors: about["options"].update(clip_x0=1), "clip_x0 must be true, false or None"),
        (lambda about, tensors: about["options"].update(sampler="euler", eta=1), "eta is ddim's alone"),
        (lambda about, tensors: about["options"].update(size=[8, 8]), "x must be fp32 of shape"),
        (lambda about, tensors: about.update(config={"depth": "many"}), "depth must be a whole number"),
        (lambda about, tensors: about["config"].update(block="fifth"), "no conditioning block 'fifth'"),
        (lambda about, tensors: about["config"].update(shape=1), "damaged"),
        (lambda about, tensors: tensors.pop("eps"), "not a whole trajectory file"),
        (lambda about, tensors: tensors.update(eps=tensors["eps"].half()), "eps must be fp32"),
        (lambda about, tensors: tensors.update(sample=tensors["sample"][:1].clone()), "sample must be fp32 of shape"),
    ],
)
def test_files_that_contradict_themselves_are_refused(saved, change, message):
    rewritten(saved, change)
    with pytest.raises(TraceError, match=message) as refusal:
        Trajectory.load(saved)
    assert str(saved) in str(refusal.value) and "\n" not in str(refusal.value)


def test_files_that_are_no_trajectories_are_refused(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    whole = saved.read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello " * 99, "pickle": pickle.dumps(Bomb())}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "nested", {"dit_lab": "[" * 100_000})
    for name in (*bad, "foreign", "nested", "missing", "."):
        with pytest.raises(TraceError, match="trajectory|damaged"):
            Trajectory.load(tmp_path / name)


def test_a_place_that_cannot_be_written_is_said_and_leaves_nothing(trajectory, tmp_path):
    with pytest.raises(TraceError, match="could not write"):
        trajectory.save(tmp_path / "no such folder" / "run.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TraceError, match="could not write"):
        trajectory.save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.fixture(scope="module")
def udit():
    model = random_udit()
    return model, record(model, LABELS, **OPTIONS)


def test_a_u_dit_run_is_recorded_replayed_and_reloaded(udit, tmp_path):
    model, trajectory = udit
    assert torch.equal(trajectory.sample, generate(model, LABELS, **OPTIONS))
    trajectory.save(tmp_path / "run.safetensors")
    again = Trajectory.load(tmp_path / "run.safetensors")
    assert again.config == model.config
    assert torch.equal(again.attention(model, 1, block=3), trajectory.attention(model, 1, block=3))


def test_a_clicked_patch_is_followed_through_the_stages_of_a_u_dit(udit):
    model, trajectory = udit
    assert (trajectory.grid, trajectory.grid_of(2)) == ((8, 12), (4, 6))
    rows = trajectory.patch_rows(model, 2, 43, sample=1, half="uncond")
    assert {name: tuple(of.shape) for name, of in rows.items()} == {
        "encoder 1": (2, 2, 96), "middle": (2, 2, 24), "decoder 1": (2, 2, 96)
    }  # fmt: skip
    coarse = token_under(43, (8, 12), 1, (4, 6), 2)
    for stage, query in ("encoder 1", 43), ("middle", coarse), ("decoder 1", 43):
        alone = trajectory.attention_rows(model, 2, query, stage=stage, sample=1, half="uncond")
        assert torch.equal(rows[stage], alone)
    whole = trajectory.attention(model, 2, block=3, sample=1, half="uncond")
    torch.testing.assert_close(rows["middle"][1], whole[:, coarse])


def test_a_u_dit_shows_features_and_modulation_by_stage(udit):
    model, trajectory = udit
    assert trajectory.features(model, 1, stage="middle").shape == (2, 24, 32)
    assert trajectory.modulation(model, 1, stage="encoder 1")["shift_attn"].shape == (2, 16)
    assert trajectory.modulation(model, stage="decoder 1")["gate_mlp"].shape == (4, 2, 32)
    assert trajectory.modulation_norms(model)["gate_mlp"].shape == (6, 4)
    seen = trajectory.replay(model, 1, 0, "cond", attention=None)
    for block in range(6):
        stage = model.config.stage_of(block).name
        place = block - model.config.stage_blocks[stage].start
        ours = trajectory.modulation(model, 1, stage=stage)["scale_mlp"][place]
        torch.testing.assert_close(ours, seen.modulation["scale_mlp"][block][0])


@pytest.mark.parametrize("look", ["features", "modulation", "attention_rows"])
def test_a_u_dit_asks_for_a_stage_by_name(udit, look):
    model, trajectory = udit
    for stage in (None, "latent"):
        with pytest.raises(TraceError, match="stage must be one of encoder 1, middle, decoder 1"):
            getattr(trajectory, look)(model, 0, *([3] if look == "attention_rows" else []), stage=stage)


def test_the_bytes_of_a_u_dits_maps_are_counted_grid_by_grid(udit):
    model, trajectory = udit
    assert trajectory.attention_bytes() == 4 * 2 * (4 * 96**2 + 2 * 24**2)
    assert trajectory.attention(model, 0, block=2).nbytes == trajectory.attention_bytes(blocks=[2])
    with pytest.raises(TraceError, match="query must be a whole number from 0 to 23"):
        trajectory.attention(model, 0, block=2, queries=[24])


def test_a_u_dits_run_is_not_replayed_with_a_dit(udit, model):
    with pytest.raises(TraceError, match="another model; they differ in architecture"):
        udit[1].features(model, 0, stage="middle")
