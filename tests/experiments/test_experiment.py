"""Experiments: what is kept when a run is stopped, that judging on the way changes nothing, and what pages tell."""

import json
import math
import os
import signal
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
from safetensors.torch import load_file
from shared import ROOT, processes, tiny_vae

from dit_lab.checkpoints import load
from dit_lab.commands.cli import EXPERIMENTS
from dit_lab.data import open_codec, open_data
from dit_lab.evaluation import frechet_distance, judge
from dit_lab.experiments import Experiment, FourBlocks, Kept, Ladder, Plan, Scaling, carry_out, plots
from dit_lab.experiments.experiment import folder_of, judged_before
from dit_lab.experiments.four_blocks import four_blocks_command
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.kept import log_of, read_results
from dit_lab.experiments.page import sections
from dit_lab.experiments.papers import DIT_BLOCKS
from dit_lab.experiments.scaling import SIZES, correlation, scaling_command
from dit_lab.models import BLOCKS, preset

PLAN = Plan(data="digits", seeds=(0,), steps=(2, 4), batch_size=4, samples=130, sample_steps=2)


@dataclass(frozen=True)
class One(Experiment):
    """An experiment of a single tiny model, whose name has a slash as a rung's has."""

    name, title, files = "one", "One", "one"
    model: str = "toy/one"
    dim: int = 16

    def configs(self, images):
        taken = dict(in_channels=1, input_size=8, num_classes=10)
        if self.model == "toy/u":
            return {self.model: preset("U-DiT-S", dim=self.dim, heads=1, depths=(1, 1, 1), **taken)}
        return {self.model: preset("DiT-nano/8", dim=self.dim, depth=1, heads=1, **taken)}

    @staticmethod
    def markdown(table):
        return f"{len(table['runs'])} run"

    @staticmethod
    def figure(table):
        return plots.scaling({"S/2": [dict(macs=1e6, frechet=1.0, test_mse=0.1)]})


def carried_out(folder, plan=PLAN, die_at=None, models=One(), results="results.json"):  # noqa: B008
    """The experiment of one tiny model; with `die_at` the process is killed as it keeps its so-many-th judgement."""
    if die_at:
        here = import_module("dit_lab.experiments.experiment")
        write, kept = here.write_json, []

        def deadly(path, content):
            kept.append(path)
            if len(kept) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, content)

        here.write_json = deadly
    return carry_out(models, plan, Kept(folder / "runs", folder / results))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, carried_out(folder)


def test_a_run_of_another_model_or_plan_in_the_same_folder_is_refused(whole):
    with pytest.raises(ValueError, match="toy-one-0 holds a run with another model; give --out another folder"):
        carried_out(whole[0], models=One(dim=24), results="others.json")
    with pytest.raises(ValueError, match="another samples"):
        carried_out(whole[0], replace(PLAN, samples=131), results="others.json")
    assert not (whole[0] / "others.json").exists()


def test_results_of_another_model_are_not_mixed_in(whole):
    with pytest.raises(ValueError, match="results.json was made with another dim; give --results another name"):
        carried_out(whole[0], models=One(dim=24))


def test_every_experiment_has_its_command_and_its_files_under_its_name(whole):
    """The page says the command that made it, and each command's results are where those that ship are."""
    page = (whole[0] / "results.md").read_text()
    assert page.startswith("# One\n") and "written by python -m dit_lab experiment one -->\n1 run\n" in page
    kinds = {kind.name: kind for kind in (FourBlocks, Ladder, Scaling)}
    assert kinds.keys() | {"causal", "fewer-steps", "gallery", "how-many", "spectrum"} == EXPERIMENTS.keys()
    for name, kind in kinds.items():
        results = ROOT / Kept.named(kind.files).results
        assert results.is_file() and kind.command() == f"python -m dit_lab experiment {name}"
        assert f"<!-- written by {kind.command()} -->" in results.with_suffix(".md").read_text()


def test_a_udit_that_was_judged_is_not_judged_again(tmp_path):
    """Its config holds tuples, which JSON does not."""
    first = carried_out(tmp_path, replace(PLAN, steps=(1,)), models=One(model="toy/u"))
    (tmp_path / "results.json").unlink()
    assert carried_out(tmp_path, replace(PLAN, steps=(1,)), models=One(model="toy/u")) == first
    (tmp_path / "runs" / "toy-u-0" / "judged.json").write_text("[]")
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="judged.json does not say what was judged; give --out another folder"):
        carried_out(tmp_path, replace(PLAN, steps=(1,)), models=One(model="toy/u"))


def curve(**changes):
    """What was judged of a run, changed."""
    figures = dict.fromkeys(("train_loss", "test_mse", "test_vb", "frechet", "agreement", "seconds"), 1.0)
    return {"made": {}, "curve": [figures | {"step": 2} | changes]}


@pytest.mark.parametrize(
    "content",
    [
        *("{", "5", '{"made": 5, "curve": []}', '{"made": {}, "curve": {}}', '{"made": {}, "curve": [5]}', "[" * 10**5),
        *map(json.dumps, (curve(step="2"), curve(step=10**400), curve(frechet=None), curve(agreement="x"))),
    ],
)
def test_judgements_that_are_none_are_refused_in_a_sentence(content, tmp_path):
    (tmp_path / "judged.json").write_text(content)
    told = "judged.json does not say what was judged; give --out another folder"
    with pytest.raises(ValueError, match=told) as caught:
        judged_before(tmp_path / "judged.json", {})
    assert len(str(caught.value)) - len(str(tmp_path)) <= 200
    (tmp_path / "judged.json").write_text(json.dumps(curve()))
    assert judged_before(tmp_path / "judged.json", {}) == curve()["curve"]


def table(**changes):
    """The results of one run, changed."""
    row = curve()["curve"][0] | dict(model="toy/one", seed=0, parameters=5, macs=5, tokens=1, losses=[[2, 0.5]])
    return {"settings": {"train_to_test_frechet": 1.0}, "runs": [row | {"curve": curve()["curve"]} | changes]}


@pytest.mark.parametrize(
    "content",
    [
        *("{", "5", "{}", '{"settings": {}, "runs": []}', '{"settings": [], "runs": []}', "[" * 10**5),
        json.dumps(table() | {"runs": {}}), json.dumps(table() | {"runs": ["x"]}),
        *[
            json.dumps(table(**change))
            for change in (
                dict(model=5), dict(seed="0"), dict(macs=10**400), dict(frechet="x"), dict(losses=5),
                dict(losses=[[1]]), dict(losses=[["1", 2]]), dict(curve=5), dict(curve=[{"step": 1}]), dict(tokens=0.5),
            )
        ],
        *[
            json.dumps(table() | {part: rows})
            for part in ("sampling", "decoders")
            for rows in (5, [5], [{}], [dict(model="toy/one", seed=0, frechet="x", agreement=1.0)])
        ],
    ],
)  # fmt: skip
def test_results_that_are_none_are_refused_in_a_sentence(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    told = "results.json holds no results of an experiment; give --results another name"
    with pytest.raises(ValueError, match=told) as caught:
        read_results(tmp_path / "results.json")
    assert len(str(caught.value)) - len(str(tmp_path)) <= 200
    (tmp_path / "results.json").write_text(json.dumps(table()))
    assert read_results(tmp_path / "results.json") == table()


@pytest.mark.parametrize("line", ["{", "5", '{"step": "1"}', '{"step": 1, "loss": "x", "mse": 1}', "[" * 10**5])
def test_a_log_that_is_none_is_refused_by_its_line(line, tmp_path):
    good = '{"step": 1, "loss": 1.5, "mse": 1}\n'
    (tmp_path / "log.jsonl").write_text(good)
    assert [found["loss"] for found in log_of(tmp_path)] == [1.5]
    (tmp_path / "log.jsonl").write_text(good + line + "\n")
    with pytest.raises(ValueError, match="line 2 of .*log.jsonl is no line of a loss log; give --out another folder"):
        log_of(tmp_path)


@pytest.mark.parametrize("results", ["a.png", "a.md"])
def test_results_that_the_figure_or_the_page_would_replace_are_refused_before_any_work(results, tmp_path):
    with pytest.raises(ValueError, match="are the same file; give each a name of its own"):
        carry_out(One(), PLAN, Kept(tmp_path / "runs", tmp_path / results))
    assert not list(tmp_path.iterdir())


def timeless(table):
    """What came out, but for the time it took."""
    drop = lambda row: {name: value for name, value in row.items() if name != "seconds"}
    return [drop(row) | {"curve": [drop(figures) for figures in row["curve"]]} for row in table["runs"]]


def test_a_model_is_judged_at_each_of_the_plans_steps(whole):
    [row] = whole[1]["runs"]
    assert [figures["step"] for figures in row["curve"]] == [2, 4]
    assert row["frechet"] == row["curve"][-1]["frechet"] and row["curve"][0]["frechet"] != row["frechet"]
    assert [step for step, _ in row["losses"]] == [2, 4]


def test_judging_on_the_way_changes_no_bit_of_the_training(whole, tmp_path):
    carried_out(tmp_path, replace(PLAN, steps=(4,)))
    ours, theirs = (
        load_file(folder_of(where / "runs", "toy/one", 0) / "model.safetensors") for where in (whole[0], tmp_path)
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("die_at", [1, 2])
def test_an_experiment_killed_at_a_judgement_ends_as_the_uninterrupted_one(die_at, whole, tmp_path):
    process = processes.Process(target=carried_out, args=(tmp_path, PLAN, die_at))
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    assert timeless(carried_out(tmp_path)) == timeless(whole[1])
    assert timeless(json.loads((tmp_path / "results.json").read_text())) == timeless(whole[1])


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "vae"
    tiny_vae().save_pretrained(folder)
    return folder


def test_models_of_latents_learn_latents_and_are_judged_by_the_pictures_that_their_vae_makes(vae, tmp_path):
    plan = replace(PLAN, vae=str(vae), steps=(2,))
    alone = Scaling(patches=(2,), sampling_steps=(), decoders=())
    scaling_command(alone, plan, Kept(tmp_path / "runs", tmp_path / "s.json"))
    table = json.loads((tmp_path / "s.json").read_text())
    assert [row["tokens"] for row in table["runs"]] == [4] * len(SIZES)
    assert table["settings"]["rebuilt_to_test_frechet"] > table["settings"]["train_to_test_frechet"]
    assert "what the VAE makes of them" in (tmp_path / "s.md").read_text()
    for name, (dim, depth, _) in SIZES.items():
        loaded = load(tmp_path / "runs" / f"{name}-2-0")
        assert (loaded.config.dim, loaded.config.depth) == (dim, depth)
        assert (loaded.config.in_channels, loaded.config.size, loaded.codec_hint) == (4, (4, 4), str(vae))


def test_a_judge_of_latents_measures_rebuilt_pictures_and_encodes_once(vae, tmp_path):
    plan = replace(PLAN, vae=str(vae))
    found = Judge(plan, None, tmp_path)
    shards = sorted(tmp_path.glob("latents-*/shard-*"))
    written = [path.stat().st_mtime_ns for path in shards]
    again = Judge(plan, None, tmp_path)
    assert shards and [path.stat().st_mtime_ns for path in shards] == written
    codec, test = open_codec(None, str(vae), channels=4), open_data("digits", split="test")
    rebuilt = codec.decode(codec.encode(test.batch(range(len(test)))[0])).mean(1, keepdim=True)
    features = [judge(found.classifier, x)[1] for x in (rebuilt, test.batch(range(len(test)))[0])]
    assert found.distance_of_rebuilt() == pytest.approx(frechet_distance(*features), rel=1e-2)
    assert again.distance_of_real() == found.distance_of_real()


def test_the_four_blocks_are_trained_judged_and_told(tmp_path):
    results = tmp_path / "blocks.json"
    four_blocks_command(FourBlocks(dim=8, depth=1, heads=1, patch_size=8), PLAN, Kept(tmp_path / "runs", results))
    assert [row["model"] for row in json.loads(results.read_text())["runs"]] == list(DIT_BLOCKS)
    assert set(DIT_BLOCKS) == set(BLOCKS)
    page = results.with_suffix(".md").read_text()
    assert all(f"| {BLOCKS[name].title} |" in page for name in DIT_BLOCKS)
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_scaling_trains_every_size_with_every_patch(tmp_path):
    results = tmp_path / "scaling.json"
    plan = replace(PLAN, steps=(1,))
    alone = Scaling(size=8, patches=(4, 8), sampling_steps=())
    scaling_command(alone, plan, Kept(tmp_path / "runs", results))
    rows = json.loads(results.read_text())["runs"]
    assert [row["model"] for row in rows] == [f"{size}/{patch}" for size in SIZES for patch in (8, 4)]
    assert len(list((tmp_path / "runs").glob("*/judged.json"))) == len(rows)
    macs = [row["macs"] for row in rows]
    assert all(fine > coarse for coarse, fine in zip(macs[::2], macs[1::2], strict=True))
    assert "Correlation of log MACs" in results.with_suffix(".md").read_text()


def test_the_correlation_is_that_of_logarithms_over_means():
    run = lambda patch, share: dict(macs=10.0**patch, frechet=share / 10.0**patch)
    falling = {f"S/{patch}": [run(patch, share) for share in (0.5, 1.5)] for patch in (1, 2, 3)}
    assert correlation(falling) == pytest.approx(-1)
    rising = {name: [run | {"frechet": run["macs"] ** 2} for run in rows] for name, rows in falling.items()}
    assert correlation(rising) == pytest.approx(1)


def test_models_that_train_are_drawn_with_the_mean_and_the_range_of_their_seeds():
    curve = [dict(step=50, frechet=40.0), dict(step=100, frechet=20.0)]
    run = dict(macs=2e6, losses=[[50, 0.4], [100, 0.2]], curve=curve)
    other = run | {"losses": [[50, 0.6], [100, 0.4]]}
    figure = plots.comparison({"one": [run, other], "two": [run]}, batch_size=10)
    loss, steps, spent = figure.axes
    assert np.allclose(loss.lines[0].get_ydata(), [0.5, 0.3]) and np.allclose(loss.lines[1].get_ydata(), [0.4, 0.2])
    assert np.allclose(spent.lines[0].get_xdata(), [50 * 10 * 3 * 2e6 / 1e12, 100 * 10 * 3 * 2e6 / 1e12])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["one", "two"]
    assert math.isclose(steps.lines[0].get_ydata()[1], 20.0)


def test_every_model_of_a_scaling_figure_has_its_name():
    run = lambda patch: dict(macs=8e6 / patch, frechet=3.0 * patch, test_mse=0.1)
    named = {f"{size}/{patch}": [run(patch)] for size in "SM" for patch in (2, 4)}
    assert [text.get_text() for text in plots.scaling(named).axes[0].texts] == list(named)


def test_a_ladder_has_a_dot_a_run_and_a_bar_at_the_mean_of_each_rung():
    run = dict(test_mse=0.1, frechet=30.0, macs=2e6)
    rungs = {"first": [run, run | {"test_mse": 0.3}], "second": [run]}
    axes = plots.ladder(rungs).axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["first", "second"]
    dots, bar, *_ = axes[0].lines
    assert dots.get_xdata().tolist() == [0.1, 0.3] and bar.get_xdata() == pytest.approx(0.2)
    assert axes[2].lines[0].get_xdata().tolist() == [2, 2]


@pytest.mark.parametrize(
    "kind",
    [FourBlocks, Ladder, Scaling],
)
def test_a_page_that_ships_has_the_tables_of_the_results_beside_it(kind):
    results = ROOT / "docs" / "results" / f"{kind.files}.json"
    table = json.loads(results.read_text())
    written = kind.markdown(table) + sections(kind.parts(table), kind.files)
    assert written in results.with_suffix(".md").read_text()


def test_compared_models_are_all_trained_in_one_precision():
    """Found out for each, it would depend on the model and on what else the machine has to do."""
    assert PLAN.options(10, 0).precision == "fp32"
