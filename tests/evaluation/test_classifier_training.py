"""How the small classifier is trained: for how long, at which rate, on which shifted and mirrored pictures."""

import numpy as np
import pytest
import torch

from dit_lab.checkpoints.reading import read_safetensors
from dit_lab.data import Images
from dit_lab.evaluation import Classifier, features, train_classifier
from dit_lab.evaluation.features import Network, Seen, classifier_for, keep, parted, read_by

NAMES = ["one", "two"]


def dots(channels, size, count=4):
    """Black pictures with one white pixel: its place is a third from the top and a third from the left."""
    pixels = np.zeros((count, channels, *size), np.uint8)
    pixels[:, :, size[0] // 3, size[1] // 3] = 255
    return Images(pixels, np.arange(count) % 2, NAMES)


@pytest.fixture
def watched(monkeypatch):
    """The pictures of each step, and the rates and gradients of the head's bias with which a step is taken."""
    steps, taken = [], []
    look, step = Classifier.look, torch.optim.Adam.step

    def stepped(self, *given):
        taken.append((self.param_groups[0]["lr"], self.param_groups[0]["params"][-1].grad.clone()))
        return step(self, *given)

    monkeypatch.setattr(Classifier, "look", lambda self, x: (steps.append(x), look(self, x))[1])
    monkeypatch.setattr(torch.optim.Adam, "step", stepped)
    return steps, taken


@pytest.mark.parametrize(("least", "asked", "epochs"), [(7, None, 8), (26, None, 9), (100, None, 34), (100, 2, 2)])
def test_it_trains_as_many_epochs_as_asked_or_the_recipes_and_more_for_few_pictures(
    watched, monkeypatch, least, asked, epochs
):
    monkeypatch.setattr(features, "LEAST_STEPS", least)
    train_classifier(dots(3, (4, 4), 10), epochs=asked, batch_size=4)
    assert [len(x) for x in watched[0]] == [4, 4, 2] * epochs


def test_the_rate_rises_falls_to_nothing_and_every_step_is_of_its_own_gradient(watched):
    train_classifier(dots(1, (4, 4)), epochs=40, batch_size=4)
    rates, gradients = zip(*watched[1], strict=True)
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2e-3, rel=0.01) and rates[-1] < 1e-6 and 5 < top < 20
    assert list(rates) == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    # Of pictures that are all alike in two classes as often, the best guess is even, and its gradient nothing.
    assert len(rates) == 40 and gradients[-1].abs().max() < 0.02


def test_pictures_are_shifted_by_up_to_a_fourteenth_of_their_side_each_way(watched):
    train_classifier(dots(1, (26, 44), 1), epochs=100)
    places = [divmod(x[0, 0].flatten().argmax().item(), 44) for x in watched[0]]
    assert {row - 8 for row, _ in places} == {-1, 0, 1}
    assert {column - 14 for _, column in places} == {-3, -2, -1, 0, 1, 2, 3}


def test_photographs_are_mirrored_half_the_time_each_by_itself_and_digits_never(watched):
    steps, _ = watched
    train_classifier(dots(3, (8, 8), 32), epochs=8, batch_size=32)
    mirrored = [(x[:, 0, 2, 5] > 0).double().mean() for x in steps]
    assert all(0 < share < 1 for share in mirrored) and 0.4 < sum(mirrored) / 8 < 0.6
    assert all(((x[:, 0, 2, 5] > 0) != (x[:, 0, 2, 2] > 0)).all() for x in steps)
    steps.clear()
    train_classifier(dots(1, (8, 8), 32), epochs=4, batch_size=32)
    assert all((x[:, 0, 2, 2] > 0).all() for x in steps)


def test_one_for_a_folder_never_sees_in_training_what_its_accuracy_is_told_of(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "LEAST_STEPS", 1)
    shown, batch = [], Images.batch
    monkeypatch.setattr(Images, "batch", lambda self, indices: (shown.append({*indices}), batch(self, indices))[1])
    classifier_for(dots(1, (4, 4), 30), tmp_path / "classifier.safetensors")
    *trained, told = shown
    assert len(told) == 3 and set.union(*trained) == {*range(30)} - told


def test_what_is_held_back_is_drawn_by_the_seed_alone_and_is_a_tenth_or_one():
    seen, unseen = parted(50)
    assert all(map(np.array_equal, parted(50), (seen, unseen))) and unseen.tolist() != parted(50, seed=1)[1].tolist()
    assert len(unseen) == 5 and sorted([*seen, *unseen]) == [*range(50)] and unseen.tolist() != [*range(5)]
    assert [len(parted(count)[1]) for count in (2, 14, 16)] == [1, 1, 2]


def test_its_accuracy_is_the_share_that_it_reads_of_any_number():
    images, model = dots(1, (4, 4), 1100), Classifier(1, (4, 4), 2).eval()
    right = images.labels == model(images.batch([0])[0]).argmax().item()  # the pictures are all alike
    for among in np.arange(1100), np.arange(501), np.flatnonzero(right)[:7], np.flatnonzero(~right)[:7]:
        chance = max(images.labels[among].mean(), 1 - images.labels[among].mean())
        assert read_by(model, images, among) == (right[among].mean(), len(among), chance)


def test_a_kept_one_is_in_fp16_and_counts_in_whole_numbers(tmp_path):
    keep(tmp_path / "kept.safetensors", Classifier(3, (8, 8), 2), {})
    kinds = {tensor.dtype for tensor in read_safetensors(tmp_path / "kept.safetensors")[0].values()}
    assert kinds == {torch.float16, torch.int64}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_is_shown_three_colours_of_any_picture_and_a_bar_says_how_many(channels, capsys):
    shown = []

    def look(pixels):
        shown.append(pixels)
        return Seen(pixels.flatten(1).float(), pixels.flatten(1).float())

    pixels = np.arange(5 * channels * 4, dtype=np.uint8).reshape(5, channels, 2, 2)
    seen = Network(look, 12, {}).see([pixels[:3], pixels[3:]], 5, "them")
    assert torch.equal(torch.cat(shown), torch.from_numpy(pixels).expand(5, 3, 2, 2)) and seen.spatial is None
    assert seen.features.shape == (5, 12)
    assert "looking at them" in (bar := capsys.readouterr().err) and "5.00/5.00" in bar
