"""Neighbours: what a loop finds, copies first and at distance 0, and the scale that real unseen pictures give."""

import numpy as np
import pytest
import torch

from dit_lab.data import Images, open_data
from dit_lab.evaluation import judge, judge_for
from dit_lab.inside import TraceError
from dit_lab.inside.neighbours import memorised, nearest


def noise(count, seed, shape=(3, 8, 12)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def loop(samples, pictures, k, allowed=lambda b, n: True):
    """Numbers and distances of the k nearest, one pair at a time."""
    numbers, distances = [], []
    for b, x in enumerate(samples.double().numpy()):
        found = [
            (np.sqrt(np.mean((x - picture) ** 2)), n)
            for n, picture in enumerate(pictures.double().numpy())
            if allowed(b, n)
        ]
        numbers.append([n for _, n in sorted(found)[:k]])
        distances.append([distance for distance, _ in sorted(found)[:k]])
    return torch.tensor(numbers), torch.tensor(distances).float()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_the_nearest_are_those_that_a_loop_finds_whatever_the_batch(batch):
    samples, pictures = noise(9, 0), noise(100, 1)
    seen = nearest(samples, pictures, k=4, batch=batch)
    numbers, distances = loop(samples, pictures, 4)
    assert torch.equal(seen.numbers, numbers) and torch.equal(seen.pictures, pictures[numbers])
    torch.testing.assert_close(seen.distances, distances)
    assert seen.searched.tolist() == [100] * 9 and (seen.labels == -1).all()


def test_a_planted_copy_comes_first_at_distance_0():
    pictures = noise(50, 1)
    samples = noise(3, 0)
    samples[1] = pictures[37]
    seen = nearest(samples, pictures, batch=16)
    assert seen.numbers[1, 0] == 37 and seen.distances[1, 0] == 0
    assert seen.distances[[0, 2]].min() > 0.5 and (seen.distances.diff() >= 0).all()


def test_of_equal_pictures_the_first_comes_first():
    pictures = noise(10, 1)[torch.tensor([3, 5, 3, 3])]
    seen = nearest(pictures[:1], pictures, k=3, batch=2)
    assert seen.numbers.tolist() == [[0, 2, 3]] and seen.distances.tolist() == [[0, 0, 0]]


def test_pictures_come_as_a_data_set_a_tensor_batches_or_pairs_and_give_the_same():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 1, 6, 6), dtype=np.uint8)
    images = Images(pixels, np.arange(60) % 4, list("abcd"))
    x, y = images.batch(range(60))
    samples = noise(5, 0, (1, 6, 6))
    expected = nearest(samples, images, batch=13)
    assert torch.equal(expected.labels, y[expected.numbers])
    pairs = ((x[place : place + 25], y[place : place + 25]) for place in range(0, 60, 25))
    for pictures in (x, x.split(25), iter(x.split(7)), pairs):
        seen = nearest(samples, pictures, batch=10)
        for name in ("numbers", "distances", "pictures"):
            assert torch.equal(getattr(seen, name), getattr(expected, name))
    assert torch.equal(seen.labels, expected.labels)  # of the pairs


def test_with_labels_only_pictures_of_the_same_class_count():
    samples, pictures = noise(6, 0), noise(80, 1)
    mine, theirs = [0, 1, 2, 0, 1, 2], torch.arange(80) ** 2 % 3  # 0 or 1, and no 2
    with pytest.raises(TraceError, match="there are 0 pictures of class 2, fewer than the 3 asked for"):
        nearest(samples, [(pictures, theirs)], labels=mine)
    theirs = torch.arange(80) % 7 % 3
    seen = nearest(samples, [(pictures, theirs)], labels=torch.tensor(mine), batch=11)
    numbers, distances = loop(samples, pictures, 3, lambda b, n: theirs[n] == mine[b])
    assert torch.equal(seen.numbers, numbers) and (seen.labels == torch.tensor(mine)[:, None]).all()
    torch.testing.assert_close(seen.distances, distances)
    assert seen.searched.tolist() == [(theirs == label).sum() for label in mine]


def test_features_replace_the_pixels():
    samples, pictures = noise(4, 0), noise(40, 1)
    features = lambda x: torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3)) * 2], dim=1)
    seen = nearest(samples, pictures, features=features, batch=9)
    numbers, distances = loop(features(samples), features(pictures), 3)
    assert torch.equal(seen.numbers, numbers) and torch.equal(seen.pictures, pictures[numbers])
    torch.testing.assert_close(seen.distances, distances)


def test_a_share_is_that_of_the_test_pictures_which_are_nearer_to_theirs():
    samples, training, test = noise(5, 0) * 0.7, noise(60, 1), noise(30, 2)
    samples[2] = training[11]
    seen = memorised(samples, training, test, batch=8)
    _, mine = loop(samples, training, 1)
    _, theirs = loop(test, training, 1)
    torch.testing.assert_close(seen.test_distances, theirs[:, 0])
    assert seen.share.tolist() == pytest.approx([(theirs < distance).float().mean().item() for distance in mine[:, 0]])
    assert seen.share[2] == 0 and seen.neighbours.numbers[2, 0] == 11 and seen.neighbours.distances[2, 0] == 0
    assert seen.compared.tolist() == [30] * 5 and seen.neighbours.searched.tolist() == [60] * 5
    assert torch.equal(seen.neighbours.pictures, nearest(samples, training).pictures)


def test_with_labels_a_share_is_of_the_test_pictures_of_that_class():
    samples, training, test = noise(4, 0) * 0.7, noise(60, 1), noise(30, 2)
    mine, known, asked = [0, 2, 0, 2], torch.arange(60) % 4, torch.arange(30) % 3
    seen = memorised(samples, [(training, known)], [(test[:20], asked[:20]), (test[20:], asked[20:])], labels=mine)
    assert seen.compared.tolist() == [10] * 4 and set(seen.test_labels.tolist()) == {0, 2}
    assert seen.neighbours.searched.tolist() == [15] * 4 and len(seen.test_distances) == 20
    for b, label in enumerate(mine):
        of_class, unseen = training[known == label], test[asked == label]
        _, distance = loop(samples[b : b + 1], of_class, 1)
        _, theirs = loop(unseen, of_class, 1)
        assert seen.share[b] == pytest.approx((theirs < distance).float().mean().item())


def test_unseen_pictures_are_anywhere_among_the_test_pictures_and_copies_below_them_all():
    """Each share is as likely as any other for one more picture of the same kind, which is what gives it a meaning."""
    training, test, others = (noise(count, seed, (1, 4, 4)) for seed, count in ((1, 300), (2, 400), (3, 400)))
    share = memorised(others, training, test).share
    for edge in (0.25, 0.5, 0.75):
        assert (share < edge).float().mean() == pytest.approx(edge, abs=0.08)
    nearly = training[:20] + 0.02 * noise(20, 4, (1, 4, 4))
    assert memorised(nearly, training, test).share.max() == 0


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_on_mnist_planted_copies_are_found_and_the_digits_that_were_not_planted_are_like_other_unseen_ones(
    kind, real_data, tmp_path
):
    whole = open_data(real_data("mnist"), split="test")  # 10,000 pictures, the quicker to open
    order = np.random.default_rng(0).permutation(10_000)  # those that come first were written more clearly
    cut = lambda places: Images(whole.pixels[places], whole.labels[places], whole.names)
    training, test, others = map(cut, np.split(order[:2800], [2000, 2600]))
    network, name = judge_for(whole, "test", pytest.fail, tmp_path)
    features = None if kind == "pixels" else lambda x: judge(network, x)[1]
    x, y = others.batch(range(200))
    planted = training.batch([5, 77, 1999])
    x, y = torch.cat([planted[0], x]), torch.cat([planted[1], y])
    for labels in (None, y):
        seen = memorised(x, training, test, features=features, labels=labels)
        # A batch of another size may round features differently in their last digits.
        assert seen.neighbours.numbers[:3, 0].tolist() == [5, 77, 1999]
        assert seen.neighbours.distances[:3, 0].max() <= (0 if kind == "pixels" else 1e-5)
        assert seen.share[:3].tolist() == [0, 0, 0]
        assert 0.4 < seen.share[3:].median() < 0.6 and seen.test_distances.shape == (600,)
    assert name == "mnist28" and (seen.neighbours.labels == y[:, None]).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(samples=noise(0, 0)), "there are no samples"),
        (dict(samples=noise(2, 0)[0]), r"samples must be tensors b c h w .* not torch.float32 of \(3, 8, 12\)"),
        (dict(samples=noise(2, 0).byte()), "samples must be tensors b c h w with values .* torch.uint8"),
        (dict(samples=noise(2, 0) / 0), "samples hold values that are not finite"),
        (dict(samples=noise(2, 0, (1, 8, 8))), "the samples are of 1 x 8 x 8, these pictures of 3 x 8 x 12"),
        (dict(pictures=noise(2, 0)), "there are 2 pictures, fewer than the 3 asked for"),
        (dict(pictures=[]), "there are 0 pictures"),
        (dict(pictures=[{"image": 3}]), "pictures must be tensors b c h w .* not {'image': 3}"),
        (dict(k=0), "k must be a whole number of at least 1, not 0"),
        (dict(batch=2.5), "batch must be a whole number"),
        (dict(labels=[1]), "labels must be one a sample, 2, not 1"),
        (dict(labels=3), "labels must be a list of numbers"),
        (dict(labels=[1, 2]), "these pictures have none"),
        (dict(features=lambda x: x), "features must make b f of b c h w"),
        (dict(features=lambda x: x.flatten(1) / 0), "features hold values that are not finite"),
        (dict(limit=10_000), "this search takes .* MiB, more than the limit of 9.77 KiB"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, sentence):
    with pytest.raises(TraceError, match=sentence):
        nearest(**dict(samples=noise(2, 0), pictures=noise(5, 1)) | change)


def test_a_share_without_a_test_picture_and_more_test_pictures_than_the_limit_are_refused():
    samples, training = noise(2, 0), noise(5, 1)
    with pytest.raises(TraceError, match="there is no test picture to compare sample 0 with"):
        memorised(samples, training, [])
    pairs = [(noise(5, 1), torch.tensor([1, 1, 1, 2, 2]))]
    with pytest.raises(TraceError, match="there is no test picture of class 3 to compare sample 1 with"):
        memorised(samples, pairs, pairs, labels=[1, 3], k=1)
    with pytest.raises(TraceError, match="the test pictures take more than the limit of 97.7 KiB"):
        memorised(samples, training, noise(100, 2), batch=4, limit=100_000)
