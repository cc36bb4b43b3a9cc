"""What compute buys: models are compared at equal compute, each claim is judged from the numbers, and nothing twice."""

import json
from dataclasses import replace

import pytest
from shared import ROOT, tiny_vae

from dit_lab.experiments import Kept, Plan, Scaling, carry_out, plots
from dit_lab.experiments.compute import at, frontier, neighbours, sampling, sampling_pairs, training, training_pairs
from dit_lab.experiments.decoders import decoded
from dit_lab.experiments.judge import Judge
from dit_lab.experiments.page import sections

PLAN = Plan(data="digits", seeds=(0,), steps=(1, 2), batch_size=4, samples=130, sample_steps=2)
MODELS = Scaling(sizes=("XS",), patches=(2, 4), sampling_steps=(1, 3), decoders=("l1",), decoder_steps=1)


def run(macs, *losses, seed=0):
    """A run judged after 10, 20, 40 ... steps, its distance a hundred times its loss."""
    curve = [dict(step=10 * 2**place, test_mse=loss, frechet=100 * loss) for place, loss in enumerate(losses)]
    return dict(macs=macs, seed=seed, frechet=curve[-1]["frechet"], curve=curve)


def test_neighbours_differ_in_one_step_of_size_or_of_patch_the_larger_second():
    names = dict.fromkeys(["S/4", "S/2", "M/4", "M/2", "L/2"], [])
    assert neighbours(names) == [
        ("S/4", "M/4"), ("S/2", "M/2"), ("M/2", "L/2"), ("S/4", "S/2"), ("M/4", "M/2")
    ]  # fmt: skip


def test_figures_at_some_compute_lie_between_those_judged_around_it_and_nowhere_else():
    model = run(5, 0.8, 0.4)  # at 3 x 5 x 2 x 10 = 300 and at 600
    assert at(model, 300, 2) == dict(test_mse=0.8, frechet=80, step=10)
    between = at(model, 300 * 2**0.5, 2)
    assert between["test_mse"] == pytest.approx(0.6) and between["step"] == pytest.approx(10 * 2**0.5)
    assert at(model, 299, 2) is None and at(model, 601, 2) is None


def test_the_larger_one_is_compared_after_fewer_steps_for_the_same_compute():
    small = [run(1, 0.9, 0.8, 0.7, seed=0), run(1, 0.9, 0.8, 0.5, seed=1)]
    models = {"S/2": small, "M/2": [run(2, 0.9, 0.6, 0.1, seed=seed) for seed in (0, 1)]}
    [pair] = training_pairs(models, batch_size=1)
    assert (pair.small, pair.large) == ("S/2, 40 steps", "M/2, 20 steps")
    assert pair.verdict("test_mse") == "1 of 2 seeds"
    assert [large["test_mse"] for large in pair.of_large] == [0.6, 0.6]
    alone = {"S/2": small[:1], "M/2": models["M/2"]}
    assert training_pairs(alone, batch_size=1)[0].verdict("frechet") == "held"
    assert training_pairs({"S/2": small, "M/2": [run(9, 0.1, 0.1, 0.1)]}, batch_size=1) == []


def test_the_claim_of_training_is_told_beside_how_often_it_held():
    models = {"S/2": [run(1, 0.9, 0.8, 0.7)], "M/2": [run(2, 0.9, 0.6, 0.5)], "L/2": [run(4, 0.95, 0.9, 0.85)]}
    part = training(models, batch_size=1)
    assert "| S/2, 40 steps | M/2, 20 steps | 0.7000 | 0.6000 | 70.0 | 60.0 | held | held |" in part.markdown
    assert "| M/2, 40 steps | L/2, 20 steps | 0.5000 | 0.9000 | 50.0 | 90.0 | failed | failed |" in part.markdown
    assert "of 2 pairs it held in the loss in 1, in the distance in 1" in part.markdown
    assert "figure 9" in part.markdown and "3 x MACs" in part.markdown
    assert training({"S/2": [run(1, 0.9)]}, batch_size=1) is None


def test_the_frontier_names_each_model_where_it_takes_the_lead():
    models = {"S/2": [run(1, 0.9, 0.8, 0.7)], "M/2": [run(4, 0.85, 0.6, 0.5)], "L/2": [run(8, 0.9, 0.8, 0.55)]}
    assert frontier(models, 1, "test_mse") == ["S/2", "M/2"]


def samples(**distances):
    """Rows of samples judged, `{model: {steps: distance}}`, of one seed."""
    return [
        dict(model=name.replace("_", "/"), seed=0, steps=steps, frechet=distance, agreement=0.5)
        for name, found in distances.items()
        for steps, distance in found.items()
    ]


def test_the_smaller_one_may_take_its_best_steps_and_the_larger_no_more_compute_than_its_most():
    rows = samples(S_2={4: 90.0, 8: 60.0, 16: 70.0}, M_2={4: 65.0, 8: 10.0, 16: 15.0})
    models = {"S/2": [run(1, 0.5)], "M/2": [run(4, 0.5)]}
    part = sampling({"sampling": rows}, models)
    assert "| S/2, 8 steps | 60.0 | M/2, 8 steps | 10.0 | held | M/2, 4 steps | 65.0 | failed |" in part.markdown
    assert "of 1 pairs the larger one's best is ahead of the smaller one's in 1;" in part.markdown
    assert "it is ahead of the smaller one's best in 0." in part.markdown and "figure 10" in part.markdown
    assert "| S/2 | 0.00 | 90.0 | 60.0 | 70.0 |" in part.markdown
    assert sampling_pairs({"S/2": {4: rows[:1]}, "M/2": {8: rows[4:5]}}, {"S/2": 1, "M/2": 4}) == []
    assert sampling({}, models) is None


def test_figures_have_a_line_a_model_along_its_compute():
    models = {"S/2": [run(1e6, 0.9, 0.8), run(1e6, 0.7, 0.6)], "M/4": [run(2e6, 0.5, 0.4)]}
    loss, distance = plots.training(models, batch_size=5).axes
    assert [line.get_label() for line in loss.lines] == list(models)
    assert loss.lines[0].get_xdata() == pytest.approx([3 * 5 * 10 * 1e-6, 3 * 5 * 20 * 1e-6])
    assert loss.lines[0].get_ydata() == pytest.approx([0.8, 0.7])
    seen = {"S/2": {4: [dict(seed=0, frechet=9.0, agreement=0.1)], 8: [dict(seed=0, frechet=8.0, agreement=0.2)]}}
    distance, share = plots.sampling(seen, {"S/2": 2e6}).axes
    assert distance.lines[0].get_xdata() == pytest.approx([8, 16]) and share.lines[0].get_ydata().tolist() == [0.1, 0.2]


def rows_of_decoders(**distances):
    made = lambda name: dict(loss=name, steps=5) if name in ("l1", "l2") else dict(vae=name)
    shared = dict(model="L/1", seed=0, agreement=0.5, rebuilt=50.0, psnr=20.0)
    return [shared | dict(decoder=name, made=made(name), frechet=far) for name, far in distances.items()]


def test_decoders_are_told_beside_the_claim_and_the_command_that_made_them():
    models = {"M/1": [dict(frechet=91.0)], "L/1": [dict(frechet=90.0)]}
    table = {"settings": dict(vae="v", size=None), "decoders": rows_of_decoders(v=90.0, l2=88.0, l1=92.0)}
    text = decoded(table, models).markdown
    assert "| l2 | 20.00 | 50.0 | 88.0 | 50% |" in text
    assert "train-vae --init v --decoder-only --loss l1 --steps 5" in text
    assert "original 2.46, ft-MSE 2.30, ft-EMA 2.27" in text
    assert "l2 held (-2.0 of 90.0), l1 failed (+2.0 of 90.0)" in text
    assert "That L/1 stays ahead of M/1 (91.0) with any of them failed." in text
    assert decoded(table | {"decoders": table["decoders"][:1]}, models) is None


def test_where_the_grid_has_grown_the_decoders_are_those_of_its_largest_model_now():
    models = {"M/1": [dict(frechet=91.0)], "L/1": [dict(frechet=90.0)]}
    before = [row | {"model": "M/1"} for row in rows_of_decoders(v=80.0, l2=70.0, l1=60.0)]
    table = {"settings": dict(vae="v", size=None), "decoders": before + rows_of_decoders(v=90.0, l2=88.0, l1=92.0)}
    assert decoded(table, models).markdown == decoded(table | {"decoders": table["decoders"][3:]}, models).markdown
    assert "samples of M/1" in decoded(table | {"decoders": before}, models).markdown


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything of two models, in one go, and the VAE that it was of."""
    folder = tmp_path_factory.mktemp("compute")
    tiny_vae().save_pretrained(folder / "vae")
    plan = replace(PLAN, vae=str(folder / "vae"))
    return plan, folder, carry_out(MODELS, plan, Kept(folder / "runs", folder / "s.json"))


def test_everything_is_judged_drawn_and_told(whole):
    _, folder, table = whole
    asked = [(row["model"], row["steps"]) for row in table["sampling"]]
    assert asked == [(name, steps) for name in ("XS/4", "XS/2") for steps in (1, 3)]
    assert [(row["decoder"], row["model"]) for row in table["decoders"]] == [("vae", "XS/2"), ("l1", "XS/2")]
    page = (folder / "s.md").read_text()
    for name in ("training", "sampling", "decoders"):
        assert f"](s_{name}.png)" in page
        assert (folder / f"s_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_vaes_own_decoder_has_the_figures_of_the_run_and_another_has_others_of_the_same_samples(whole):
    own, other = whole[2]["decoders"]
    assert own["frechet"] == pytest.approx(whole[2]["runs"][-1]["frechet"])
    assert own["rebuilt"] == pytest.approx(whole[2]["settings"]["rebuilt_to_test_frechet"])
    assert other["frechet"] != own["frechet"] and other["psnr"] != own["psnr"]


def alike(rows):
    """The rows, their figures to four digits: where numbers lie in memory may change the last of their bits."""
    close = lambda value: pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
    return [{name: close(value) for name, value in row.items()} for row in rows]


def test_stopped_among_its_samples_it_goes_on_and_ends_as_in_one_go(whole, tmp_path, monkeypatch):
    plan, folder, table = whole
    kept = Kept(folder / "runs", tmp_path / "s.json")
    judge, asked = Judge.of_samples, []

    def stopping(self, model, steps):
        asked.append(steps)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return judge(self, model, steps)

    monkeypatch.setattr(Judge, "of_samples", stopping)
    with pytest.raises(KeyboardInterrupt):
        carry_out(MODELS, plan, kept)
    assert json.loads(kept.results.read_text())["sampling"] == alike(table["sampling"][:2])
    again = carry_out(MODELS, plan, kept)
    assert asked == [1, 3, 1, 1, 3] and again["sampling"] == alike(table["sampling"])
    assert again["decoders"] == alike(table["decoders"])


def test_results_are_gone_on_with_for_more_numbers_of_steps_alone(whole, tmp_path):
    plan, folder, table = whole
    results = tmp_path / "s.json"
    results.write_text(json.dumps(table))
    more = carry_out(replace(MODELS, sampling_steps=(1, 2, 3)), plan, Kept(folder / "runs", results))
    assert more["sampling"][:4] == table["sampling"] and [row["steps"] for row in more["sampling"][4:]] == [2, 2]


def test_what_cannot_be_gone_on_with_is_refused(whole, tmp_path):
    plan, folder, table = whole
    results = tmp_path / "s.json"
    results.write_text(json.dumps(table))
    with pytest.raises(ValueError, match="was made with another decoder l1; give --results another name"):
        carry_out(replace(MODELS, decoder_steps=2), plan, Kept(folder / "runs", results))
    results.write_text(json.dumps({name: table[name] for name in ("settings", "runs")}))
    with pytest.raises(ValueError, match="tells of XS/4, seed 0, but its run is not in .*elsewhere"):
        carry_out(MODELS, plan, Kept(tmp_path / "elsewhere", results))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (dict(sizes=("XXL",)), "sizes must be of XS, S, M, L, not XXL"),
        (dict(sampling_steps=(4, 0)), "sampling_steps must be from 1 to 1000, not 0"),
        (dict(decoders=("l2", "l2")), "there are two decoders named l2"),
        (dict(decoder_steps=0), "decoder_steps must be at least 1"),
        (dict(decoders=("cifar10_vae",)), "cifar10_vae has another encoder than .*, so it decodes other latents"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_any_work(changes, told, whole, tmp_path):
    with pytest.raises(ValueError, match=told):
        carry_out(replace(MODELS, **changes), whole[0], Kept(tmp_path / "runs", tmp_path / "s.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scaling", "scaling_compute"])
def test_a_page_that_ships_is_what_its_results_make(name):
    results = ROOT / "docs" / "results" / f"{name}.json"
    table = json.loads(results.read_text(encoding="utf-8"))
    written = Scaling.markdown(table) + sections(Scaling.parts(table), name)
    page = results.with_suffix(".md").read_text(encoding="utf-8")
    assert f"<!-- written by {Scaling.command()} -->\n{written}\n<!-- end -->" in page
