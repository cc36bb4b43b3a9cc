"""The gallery: every figure is in it, its sentences follow what is measured, and the page that ships is whole."""

import re
from inspect import signature

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from shared import ROOT

from dit_lab.data import Images
from dit_lab.experiments import gallery
from dit_lab.experiments.gallery import digits, gallery_command
from dit_lab.experiments.sights import SECTIONS, Zoo
from dit_lab.experiments.sights.attention import to_neighbours
from dit_lab.experiments.sights.base import alike, settled
from dit_lab.experiments.sights.path import changes, levels, way
from dit_lab.experiments.sights.tokens import apart
from dit_lab.inside import plots

DRAWN = [draw for section in SECTIONS.values() for draw in section]
SHIPPED = ROOT / "docs" / "inside.md"
MOST = 200_000  # bytes of a picture


@pytest.fixture(scope="module")
def zoo():
    """The models that ship, in runs of four steps, beside digits that are always there."""
    return Zoo(digits("digits", "train"), digits("digits", "test"), steps=4)


@pytest.fixture(scope="module")
def sights(zoo):
    return {draw: draw(zoo) for draw in DRAWN}


def test_every_figure_that_plots_hands_out_is_in_the_gallery(sights):
    functions = [getattr(plots, name) for name in plots.__all__ if callable(getattr(plots, name))]
    figures = {function.__name__ for function in functions if signature(function).return_annotation is Figure}
    assert len(figures) > 25 and {sight.draw.func.__name__ for sight in sights.values()} == figures


def test_every_sight_is_drawn_and_has_its_words(sights):
    for sight in sights.values():
        assert isinstance(sight.draw(), Figure)
        assert re.search(r"`mnist|`cifar10", sight.model) and not re.search(r"[\[\]`$]", sight.alt)
        for sentence in sight.seen, sight.control:
            assert sentence.endswith(".") and re.search(r"\d", sentence), sentence
            assert not re.search(r"\bnan\b|\binf\b|tensor|  ", sentence), sentence
    assert len({sight.title for sight in sights.values()}) == len(sights)


def test_the_page_that_ships_has_every_sight_and_every_picture_and_no_other(sights):
    text = SHIPPED.read_text()
    assert re.findall(r"^### (.*)$", text, flags=re.MULTILINE) == [sight.title for sight in sights.values()]
    assert text.count("*Control:*") == len(sights)
    folder = SHIPPED.with_suffix("")
    for draw, sight in sights.items():
        assert f"![{sight.alt}](inside/{draw.__name__}.png)\n\n`{sight.draw.func.__name__}`: " in text
        assert 0 < (folder / f"{draw.__name__}.png").stat().st_size < MOST
    assert {path.name for path in folder.iterdir()} == {f"{draw.__name__}.png" for draw in DRAWN}
    assert "50 DDIM\nsteps at guidance 2 and the noise of seed 5" in text and gallery.COMMAND in text


def test_a_second_run_writes_the_same_page_and_keeps_what_people_wrote(command, monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "SECTIONS", {"The way": (way, levels), "Changes": (changes,)})
    pages = [tmp_path / name / "looks.md" for name in ("a", "b")]
    pages[1].parent.mkdir()
    pages[1].write_text("# Mine\n\nBefore.\n\n<!-- written by me --><!-- end -->\n\nAfter.\n")
    for page in pages:
        code, said, told = command("experiment", "gallery", "--data", "digits", "--steps", 4, "--page", page)
        assert code == 0 and f"{page}: 3 pictures in {page.with_suffix('')}" in said, told
    one, two = (page.read_text() for page in pages)
    assert two.startswith("# Mine\n\nBefore.\n") and two.endswith("\nAfter.\n")
    assert one.partition("<!-- written")[2].partition("<!-- end")[0] in two.partition("<!-- written")[2]
    assert "## The way\n\n### When is the picture known?\n\n![" in one and "](looks/way.png)" in one
    assert all(len(line) <= 120 for line in one.splitlines() if not line.startswith("!["))
    for draw in way, levels, changes:
        pictures = [(page.with_suffix("") / f"{draw.__name__}.png").read_bytes() for page in pages]
        assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")


def test_other_noise_changes_the_numbers(zoo):
    other = Zoo(zoo.train, zoo.test, steps=4, seed=zoo.seed + 1)
    assert changes(zoo).draw.args[0].whole.tolist() != changes(other).draw.args[0].whole.tolist()
    assert way(zoo).control != way(other).control


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steps", 3], "steps must be at least 4, not 3"),
        (["--page", "inside"], "the page must be named .md, not 'inside'"),
        (["--data", "./nowhere"], "there is no folder ./nowhere"),
        (["--page", "file/inside.md"], "could not write file/inside.md"),
        (["--page", "there/inside.md"], "could not write there/inside.md: it is a folder"),
    ],
)
def test_bad_input_is_told_before_any_work(options, told, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "there" / "inside.md").mkdir(parents=True)
    code, said, complaint = command("experiment", "gallery", "--data", "digits", *options)
    assert code == 2 and not said and told in complaint and complaint.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 2)])
def test_pictures_that_the_models_did_not_learn_from_are_refused(channels, classes, monkeypatch):
    pixels, names = np.zeros((20, channels, 28, 28), np.uint8), [str(label) for label in range(classes)]
    images = Images(pixels, np.arange(20) % classes, names)
    monkeypatch.setattr(gallery, "open_data", lambda data, split, size: images)
    with pytest.raises(ValueError, match="'mine' holds no grey pictures in 10 classes; give --data ylecun/mnist"):
        gallery_command(data="mine")


def test_runs_of_as_many_labels_begin_with_the_same_noise_and_are_made_once(zoo):
    seven, three = zoo.run("mnist", 7), zoo.run("mnist", 3)
    assert seven.x[0].equal(three.x[0]) and not seven.sample.equal(three.sample)
    assert zoo.run("mnist", 7) is seven


def test_what_goes_to_each_neighbour_is_the_mean_over_patches_that_have_it():
    where = torch.tensor([(row, column) for row in range(2) for column in range(3)])
    left = torch.zeros(6, 8)  # two more keys, of the condition
    left[[1, 2, 4, 5], [0, 1, 3, 4]] = torch.tensor([1.0, 0.5, 1.0, 0.5])
    left[0, 7] = left[3, 7] = 1
    shares = to_neighbours(left.expand(1, 1, 6, 8), where)
    assert shares[:, 0, 0].tolist() == [0.75, 0, 0, 0]


def test_a_picture_is_known_from_where_on_it_stays_alike():
    picture = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    frames = torch.stack([picture, -picture, 2 * picture + 1, picture])
    assert alike(frames[1], picture) == pytest.approx(-1) and settled(frames, picture) == 2
    assert settled(torch.stack([-picture] * 3), picture) == 2  # never: the last


def test_colours_apart_are_the_distance_of_means():
    pictures = torch.zeros(2, 2, 2, 3)
    pictures[0, 0] = 1  # black and white in the one block, all alike in the other
    assert apart(pictures, torch.tensor([True, True, False, False])).item() == pytest.approx(3**0.5 / 2)
