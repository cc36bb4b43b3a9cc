"""`bench run`: whole runs on one axis, each from the same noise towards the same limit, caches among them."""

import json

import pytest
import torch
from shared import stirred

from dit_lab.checkpoints import load, save
from dit_lab.commands import bench
from dit_lab.commands.bench import bench_command, running
from dit_lab.commands.bench.contestants import diffusers_model
from dit_lab.commands.bench.report import Line
from dit_lab.commands.bench.sampling import relative_error
from dit_lab.diffusion import generate, sample

LABELS = torch.arange(8) % 3
SHAPE = dict(input_size=8, in_channels=1, num_classes=3, dim=32, depth=2, heads=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model of the paper's kind, and one that diffusers' pipeline is not for."""
    folder = tmp_path_factory.mktemp("run")
    save(folder / "eps", stirred("DiT-nano/4", **SHAPE), codec_hint="pixels")
    flow = dict(schedule="flow", prediction="velocity", learned_variance=False)
    save(folder / "flow", stirred("DiT-nano/4", **SHAPE | flow), codec_hint="pixels")
    return folder


def noise_of(model):
    return next(sample(model, LABELS.tolist(), steps=2, seed=0)).x


@torch.no_grad()
def test_a_run_of_diffusers_is_that_of_as_many_steps_of_ours(home):
    """DDIM of many steps: what differs is where the few steps lie, so both come near to the same limit."""
    from diffusers import DDIMScheduler

    model = load(str(home / "eps")).model
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", timestep_spacing="trailing", clip_sample=False
    )
    theirs = running.walked(diffusers_model(model), scheduler, 1000, noise_of(model), LABELS)
    ours = generate(model, LABELS.tolist(), steps=1000, sampler="ddim", cfg_scale=running.GUIDANCE, clip_x0=False)
    assert relative_error(theirs, ours) < 1e-3


@torch.no_grad()
def test_caches_of_diffusers_spare_blocks_and_begin_every_run_anew(home, monkeypatch):
    monkeypatch.setattr(running, "THRESHOLDS", (2.0,))  # random weights' blocks change much from step to step
    model = load(str(home / "eps")).model
    runs = dict(running.their_runs(model, noise_of(model), LABELS))
    plain = runs.pop("diffusers, DDIM 50")()
    assert set(runs) == {
        "diffusers, DPM++ 14", "diffusers, DDIM 50, first block 2", "diffusers, DDIM 50, TaylorSeer 2",
        "diffusers, DDIM 50, TaylorSeer 5",
    }  # fmt: skip
    for who, run in runs.items():
        first = run()
        assert torch.equal(run(), first), who
        assert relative_error(first, plain) > 0, who


@torch.no_grad()
@pytest.mark.parametrize("every, computed", [(2, 3 + 23), (5, 3 + 10)])
def test_taylorseer_computes_its_branches_at_every_such_step_alone(every, computed, home, monkeypatch):
    """The first three steps, by its default, and each `every`-th from the second of the others on: of 50 in all."""
    monkeypatch.setattr(running, "EVERY", (every,))
    runs = dict(running.their_runs(load(str(home / "eps")).model, noise_of(load(str(home / "eps")).model), LABELS))
    run, calls = runs[f"diffusers, DDIM 50, TaylorSeer {every}"], []
    linear = run.args[0].transformer_blocks[0].ff.net[2]
    linear.register_forward_hook(lambda *_: calls.append(1))
    run()
    assert len(calls) == computed


def test_it_prints_and_keeps_a_line_a_way_with_its_error(home, tmp_path, capsys):
    bench_command("run", models=(str(home / "eps"),), rounds=3, out=tmp_path)
    kept = json.loads((tmp_path / "bench-run.json").read_text())
    lines = {line["who"]: line for line in kept["lines"]}
    assert kept["about"]["error"] == "of a sample, against 1,000 steps of DDIM in fp32"
    assert next(iter(lines)) == "dit_lab, fp32, DDIM 50" and len(lines) == 11
    assert all(0 < line["error"] < 1 and line["median"] > 0 and not line["why"] for line in lines.values())
    assert all(who in capsys.readouterr().out for who in [*lines][:1])


def test_where_diffusers_fails_ours_are_run_and_it_is_told(home, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no such kernel")

    def ours(model, drawn, own):
        return {"one that fails": fails, "one step": lambda: drawn(model, sampler="ddim", steps=1)}

    for name, value in {"ALL": 2, "our_runs": ours, "diffusers_model": fails}.items():
        monkeypatch.setattr(running, name, value)
    loaded = running.opened(str(home / "eps"), torch.device("cpu"))
    told = {line.who: line.why for line in running.bench_run("eps", loaded, 3, torch.device("cpu"))}
    assert told == {
        "diffusers": "left out: no such kernel", "one that fails": "RuntimeError: no such kernel", "one step": "",
    }  # fmt: skip
    assert capsys.readouterr().out.count("no such kernel") == 2


def test_a_checkpoint_without_classes_is_refused_before_another_is_run(home, command, tmp_path):
    unguided = save(tmp_path / "unguided", stirred("DiT-nano/4", **SHAPE | {"num_classes": 0}), codec_hint="pixels")
    code, out, told = command("bench", "run", "--models", home / "eps", unguided)
    assert (code, out) == (2, "")
    assert told == f"dit_lab: {unguided} has no classes, and runs are guided to one: name a checkpoint that has\n"


def test_what_was_run_before_one_is_killed_is_kept(home, monkeypatch, tmp_path):
    def run(name, *_):
        if name.endswith("flow"):
            raise KeyboardInterrupt
        return [Line("a run", "dit_lab")]

    monkeypatch.setattr(bench, "bench_run", run)
    with pytest.raises(KeyboardInterrupt):
        bench_command("run", models=(str(home / "eps"), str(home / "flow")), out=tmp_path)
    assert [line["work"] for line in json.loads((tmp_path / "bench-run.json").read_text())["lines"]] == ["a run"]


def test_a_flow_is_run_without_diffusers_whose_pipeline_is_not_for_it(home, tmp_path):
    bench_command("run", models=(str(home / "flow"),), rounds=3, out=tmp_path)
    lines = json.loads((tmp_path / "bench-run.json").read_text())["lines"]
    assert len(lines) == 5 and all(line["who"].startswith("dit_lab") for line in lines)
