"""The toy experiment end to end, tiny: every rung trained and judged, kept, gone on with, and told."""

import json
from dataclasses import asdict, replace

import pytest

from dit_lab.data.images import open_data
from dit_lab.experiments.experiment import END, Plan
from dit_lab.experiments.ladder import COMMAND, Scale, ladder_command, markdown
from dit_lab.models.count import count
from dit_lab.models.presets import ladder

SCALE = Scale(size=8, dim=8, isotropic_dim=8, heads=1)
TINY = Plan(data="digits", seeds=(0,), steps=(2,), batch_size=4, samples=10, sample_steps=2)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The whole ladder, and again."""
    folder = tmp_path_factory.mktemp("ladder")
    paths = dict(out=folder / "runs", results=folder / "udit_ladder.json")
    ladder_command(SCALE, TINY, **paths)
    first = json.loads(paths["results"].read_text())
    page = paths["results"].with_suffix(".md")
    page.write_text(page.read_text() + "\nWhat a person wrote.\n")
    ladder_command(SCALE, TINY, **paths)
    return first, paths


def test_every_rung_is_trained_and_judged_and_nothing_twice(done):
    first, paths = done
    table = json.loads(paths["results"].read_text())
    assert [(row["model"], row["seed"]) for row in table["runs"]] == [(name, 0) for name in ladder()]
    assert table == first
    for row in table["runs"]:
        assert row["test_mse"] > 0.5 and row["frechet"] > 0 and 0 <= row["agreement"] <= 1 and row["macs"] > 0


def test_the_page_has_the_table_between_its_marks_and_keeps_what_people_wrote(done):
    page = done[1]["results"].with_suffix(".md").read_text()
    assert page.count(COMMAND) == page.count(END) == 1 and page.endswith("What a person wrote.\n")
    rows = [line for line in page.splitlines() if line.startswith("| toy/")]
    assert [row.split(" | ")[0][2:] for row in rows] == list(ladder())
    assert "Seeds 0;" in page
    spectra = json.loads(done[1]["results"].with_name("udit_spectrum.json").read_text())
    assert [len(seen["blocks"]) for seen in spectra.values()] == [12, 12] and len(spectra["toy/unet"]["t"]) == 11
    assert all(len(block["low"]) == 11 for seen in spectra.values() for block in seen["blocks"])
    for name in ("udit_ladder.png", "udit_spectrum.png"):
        assert done[1]["results"].with_name(name).read_bytes().startswith(b"\x89PNG")


def test_results_of_other_settings_are_not_mixed_in(done):
    with pytest.raises(ValueError, match="was made with another steps"):
        ladder_command(SCALE, replace(TINY, steps=(3,)), **done[1])


def test_at_a_smaller_scale_rungs_still_differ_in_one_field_and_share_the_input():
    images = open_data("digits", size=8)
    rungs = [asdict(SCALE.of(config, images)) for config in ladder().values()]
    assert {(rung["input_size"], rung["in_channels"], rung["num_classes"]) for rung in rungs} == {(8, 1, 10)}
    for before, after in zip(rungs[1:], rungs[2:], strict=False):
        assert sum(before[field] != after[field] for field in before) == 1


def test_the_default_scale_gives_the_isotropic_and_the_u_shaped_model_about_the_same_macs():
    images = open_data("digits", size=16)
    first, second = (count(Scale().of(config, images)).macs for config in list(ladder().values())[:2])
    assert first == pytest.approx(second, rel=0.15)


def test_the_table_tells_the_mean_and_half_the_range():
    row = dict(model="toy/unet", macs=2e6, parameters=1000, test_mse=0.1, train_loss=0.2, frechet=5.0, agreement=0.5)
    runs = [row | {"seed": 0}, row | {"test_mse": 0.3, "seed": 1}]
    text = markdown({"runs": runs, "settings": {"train_to_test_frechet": 1.234, "lr": 1}})
    assert "| 0.2000 ± 0.1000 |" in text and "1.23." in text and "lr 1" in text
