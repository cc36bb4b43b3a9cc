"""Judges at hand: of the 8 x 8 digits, trained at first use, and those of the zoo; how far each is to be trusted."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dit_lab.checkpoints.reading import read_safetensors
from dit_lab.data import open_data
from dit_lab.evaluation import digits_judge, frechet_distance, judges, zoo_judge


@pytest.fixture(scope="module")
def held_back():
    images = open_data("digits", split="test")
    return images.batch(range(len(images)))


def test_the_judge_of_the_digits_reads_what_it_has_not_seen_and_says_how_much_of_it(held_back):
    judge, (x, y) = digits_judge(), held_back
    assert judge.held_back == len(y) == 299
    assert judge.accuracy == judge.agreement(x, y) >= 0.97
    assert str(judge) == f"a judge that reads {judge.accuracy:.1%} of 299 real pictures it has not seen"


def test_it_is_seeded_made_once_and_disturbs_nobodys_random_numbers(held_back):
    x, _ = held_back
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = judges.digits_judge.__wrapped__(1)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads
    assert torch.equal(first.features(x), judges.digits_judge.__wrapped__(1).features(x))
    assert not torch.equal(first.features(x), digits_judge().features(x))
    assert digits_judge() is digits_judge()


def test_agreement_is_the_share_read_as_asked_a_number_whatever_holds_the_labels(held_back):
    judge, (x, _) = digits_judge(), held_back
    assert judge.network(x).shape == (299, 10)
    asked = judge.read(x[:8])
    asked[[2, 5]] = (asked[[2, 5]] + 1) % 10
    for labels in asked, asked.tolist(), asked.numpy():
        agreed = judge.agreement(x[:8], labels)
        assert agreed == 0.75 and type(agreed) is type(judge.accuracy) is float


def test_its_features_tell_digits_from_noise(held_back):
    judge, (x, _) = digits_judge(), held_back
    features = judge.features(x)
    assert features.shape == (299, 128)
    noise = torch.rand(299, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    near = frechet_distance(features[::2], features[1::2])
    assert frechet_distance(judge.features(noise), features) > 5 * near


def test_the_zoos_judges_are_at_hand_by_name_with_the_figure_that_they_were_made_with():
    assert zoo_judge("mnist28").accuracy == pytest.approx(0.9919) and zoo_judge("mnist28").held_back == 10_000
    assert zoo_judge("cifar10").features(torch.zeros(2, 3, 32, 32)).shape == (2, 128)
    with pytest.raises(ValueError, match="there is no judge 'imagenet'; there are cifar10, mnist16, mnist28"):
        zoo_judge("imagenet")


def test_judges_that_are_there_are_told_in_order_whatever_order_a_disk_has_them_in(monkeypatch):
    there = [Path(f"{name}.safetensors") for name in ("b", "c", "a")]
    monkeypatch.setattr(judges, "JUDGES", SimpleNamespace(glob=lambda pattern: iter(there)))
    with pytest.raises(ValueError, match="there is no judge 'd'; there are a, b, c$"):
        zoo_judge("d")


def test_judges_are_done_with_learning():
    for judge in digits_judge(), zoo_judge("mnist28"), zoo_judge("cifar10"):
        assert not judge.network.training
        assert not any(parameter.requires_grad for parameter in judge.network.parameters())


def test_a_judge_of_the_zoo_has_the_numbers_of_its_file():
    for name in "mnist28", "cifar10":
        kept, network = read_safetensors(judges.JUDGES / f"{name}.safetensors")[0], zoo_judge(name).network
        assert all(torch.equal(tensor, kept[key].to(tensor)) for key, tensor in network.state_dict().items())
