"""The toy experiment end to end, tiny: every rung trained and judged, kept, gone on with, and told."""

import json
from dataclasses import asdict, replace

import pytest

from dit_lab.data import open_data
from dit_lab.experiments import Kept, Ladder, Plan
from dit_lab.experiments.ladder import ladder_command
from dit_lab.experiments.page import END
from dit_lab.experiments.spectrum import spectrum_command
from dit_lab.models import count, ladder

SCALE = Ladder(size=8, dim=8, isotropic_dim=8, heads=1)
TINY = Plan(data="digits", seeds=(0,), steps=(2,), batch_size=4, samples=129, sample_steps=1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The whole ladder, and again."""
    folder = tmp_path_factory.mktemp("ladder")
    kept = Kept(folder / "runs", folder / "udit_ladder.json")
    ladder_command(SCALE, TINY, kept)
    first = json.loads(kept.results.read_text())
    page = kept.results.with_suffix(".md")
    page.write_text(page.read_text().replace(SCALE.command(), "an older command") + "\nWhat a person wrote.\n")
    ladder_command(SCALE, TINY, kept)
    return first, kept


def test_every_rung_is_trained_and_judged_and_nothing_twice(done):
    first, kept = done
    table = json.loads(kept.results.read_text())
    assert [(row["model"], row["seed"]) for row in table["runs"]] == [(name, 0) for name in ladder()]
    assert table == first
    for row in table["runs"]:
        assert row["test_mse"] > 0.5 and row["frechet"] > 0 and 0 <= row["agreement"] <= 1 and row["macs"] > 0


def test_the_page_has_the_table_between_its_marks_and_keeps_what_people_wrote(done):
    page = done[1].results.with_suffix(".md").read_text()
    assert page.count(SCALE.command()) == page.count(END) == 1 and page.endswith("What a person wrote.\n")
    rows = [line for line in page.splitlines() if line.startswith("| toy/")]
    assert [row.split(" | ")[0][2:] for row in rows] == list(ladder())
    assert "Seeds 0;" in page
    assert done[1].results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_spectra_are_those_of_the_ladders_u_shaped_and_isotropic_rung(done, tmp_path):
    spectrum_command(ladder=done[1].out, results=tmp_path / "spectrum.json")
    spectra = json.loads((tmp_path / "spectrum.json").read_text())
    assert list(spectra) == ["toy/unet", "toy/isotropic"] and len(spectra["toy/unet"]["t"]) == 11
    assert [len(seen["blocks"]) for seen in spectra.values()] == [12, 12]
    assert all(len(block["low"]) == 11 for seen in spectra.values() for block in seen["blocks"])
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_spectra_of_other_checkpoints_bear_their_names(tmp_path):
    spectrum_command(("mnist_udit",), samples=2, steps=2, results=tmp_path / "s.json")
    [(name, seen)] = json.loads((tmp_path / "s.json").read_text()).items()
    assert name == "mnist_udit" and len(seen["t"]) == 2


def test_spectra_of_a_ladder_that_was_not_trained_are_refused_with_what_to_do(command, tmp_path):
    code, _, said = command("experiment", "spectrum", "--ladder", tmp_path, "--results", tmp_path / "s.json")
    assert code == 2 and f"there is no {tmp_path / 'toy-unet-0'}" in said
    assert "train the rungs with python -m dit_lab experiment ladder" in said and not list(tmp_path.iterdir())


def test_results_of_other_settings_are_not_mixed_in(done):
    with pytest.raises(ValueError, match="was made with another steps"):
        ladder_command(SCALE, replace(TINY, steps=(3,)), done[1])


def test_at_a_smaller_scale_rungs_still_differ_in_one_field_and_share_the_input():
    images = open_data("digits", size=8)
    rungs = [asdict(config) for config in SCALE.configs(images).values()]
    assert {(rung["input_size"], rung["in_channels"], rung["num_classes"]) for rung in rungs} == {(8, 1, 10)}
    for before, after in zip(rungs[1:], rungs[2:], strict=False):
        assert sum(before[field] != after[field] for field in before) == 1


def test_the_default_scale_gives_the_isotropic_and_the_u_shaped_model_about_the_same_macs():
    images = open_data("digits", size=16)
    first, second = (count(config).macs for config in list(Ladder().configs(images).values())[:2])
    assert first == pytest.approx(second, rel=0.15)


def test_the_table_tells_the_mean_and_half_the_range():
    row = dict(model="toy/unet", macs=2e6, parameters=1000, test_mse=0.1, train_loss=0.2, frechet=5.0, agreement=0.5)
    runs = [row | {"seed": 0}, row | {"test_mse": 0.3, "seed": 1}]
    text = Ladder.markdown({"runs": runs, "settings": {"train_to_test_frechet": 1.234, "lr": 1}})
    assert "| 0.2000 ± 0.1000 |" in text and "1.23." in text and "lr 1" in text
