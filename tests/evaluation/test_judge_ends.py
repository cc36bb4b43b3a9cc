"""What a judge is given: samples that are drawn batch by batch into a folder, and real pictures or their statistics."""

import json

import numpy as np
import pytest
import torch
from shared import stirred

from dit_lab.data import Images, Pixels, open_data
from dit_lab.diffusion import Diffusion, Rescaled, generate, karras, objective, process_of, shifted
from dit_lab.evaluation import Judging, Samples, Sampling, adm, draw, judging
from dit_lab.evaluation.features import Network
from dit_lab.evaluation.judging import Reference, check_fits, fitting, open_judge, reference_batch

WAY = dict(steps=2, cfg_scale=1.5)
SETTINGS = dict(count=7, steps=(900, 300), sampler="ddim", weights="ema", codec=None)


@pytest.fixture(scope="module")
def model():
    shape = dict(in_channels=1, input_size=(8, 12), num_classes=3, depth=1, dim=16, heads=2)
    return stirred("DiT-nano/4", schedule="cosine", **shape)  # with which x0 of pixels is clipped


def samples(folder, classes=3, **changes):
    """Seven samples in batches of three."""
    return Samples(folder, Sampling(**dict(count=7, batch_size=3, seed=5, **WAY) | changes), classes)


class Dim:
    """A decoder of latents whose pictures are mostly between black and white, and at times beyond."""

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1) / 150


class Failing:
    """A decoder that overflows."""

    def decode(self, latents):
        return latents.expand(-1, 3, -1, -1) / 0


@pytest.mark.parametrize("name", ["count", "batch_size", "seed"])
def test_numbers_of_samples_begin_at_one_seeds_at_nothing_and_have_63_bits(name):
    least = 0 if name == "seed" else 1
    for value in least, 2**63 - 1:
        assert getattr(Sampling(**{name: value}), name) == value
    for value in least - 1, 2**63:
        with pytest.raises(ValueError, match=f"{name} must be at least {least} and of 63 bits at most, not {value}$"):
            Sampling(**{name: value})


def test_a_batch_goes_through_the_model_once_and_with_guidance_twice(tmp_path):
    assert [Sampling(batch_size=3, cfg_scale=scale).passes for scale in (1, 1.0, 1.5, 0)] == [3, 3, 6, 6]
    guided = dict(sampler="ddim", steps=2, cfg_scale=1.5, cfg_channels=None, cfg_interval=None, guide=None)
    assert samples(tmp_path).sampling.options(Diffusion.named()) == guided


@pytest.mark.parametrize(
    ("process", "asked", "way"),
    [
        ({}, dict(karras=True), lambda process: dict(steps=karras(process, 3))),
        ({}, dict(guidance_rescale=0.7), lambda process: dict(steps=3, guide=Rescaled(0.7))),
        (objective("flow"), dict(shift=3.0), lambda process: dict(steps=shifted(process, 3, 3.0))),
    ],
)
def test_samples_are_drawn_by_the_unusual_ways_that_are_asked_for(process, asked, way, tmp_path):
    shape = dict(in_channels=1, input_size=8, num_classes=3, depth=1, dim=16, heads=2)
    model = stirred("DiT-nano/4", **shape | process)
    samples(tmp_path, count=3, steps=3, **asked).draw(model, Pixels(), 0, 1)
    ((pixels, labels),) = samples(tmp_path, count=3)
    seed = np.random.SeedSequence([5, 0]).generate_state(1, np.uint64).item() // 2
    ways = [way(process_of(model.config)), dict(steps=3)]
    drawn = [generate(model, labels.tolist(), seed=seed, cfg_scale=1.5, **each) for each in ways]
    found = [np.rint((x.numpy() + 1) * np.float32(127.5)).clip(0, 255).transpose(0, 2, 3, 1) for x in drawn]
    assert np.array_equal(pixels[..., :1], found[0]) and not np.array_equal(*found)


def test_ways_that_need_or_exclude_another_are_refused_before_any_work():
    for given, told in (
        (dict(shift=3, karras=True), "not both"),
        (dict(guidance_rescale=0.7), "guidance-rescale is for guidance"),
        (dict(steps=(300,)), "300 is one timestep, which is no walk"),
    ):
        with pytest.raises(ValueError, match=told):
            Sampling(**given)


@pytest.mark.parametrize(("count", "sizes"), [(7, [3, 3, 1]), (6, [3, 3]), (1, [1])])
def test_samples_have_the_classes_in_turn_in_batches_of_a_size_and_the_rest(count, sizes, tmp_path):
    for classes, labels in (3, [0, 1, 2, 0, 1, 2, 0]), (1, [0] * 7), (0, [0] * 7):
        some = samples(tmp_path, classes, count=count)
        with np.errstate(all="raise"):
            parts = [some.labels(3 * number, 3 * number + 3) for number in range(len(some))]
        assert [len(part) for part in parts] == sizes and np.concatenate(parts).tolist() == labels[:count]


@pytest.mark.parametrize(("codec", "clipped"), [(Pixels(), True), (Dim(), False)])
def test_a_batch_is_drawn_by_the_seed_and_its_number_and_kept_as_the_nearest_bytes(codec, clipped, model, tmp_path):
    samples(tmp_path).draw(model, codec, 0, 1)
    for number, (pixels, labels) in enumerate(samples(tmp_path)):
        seed = np.random.SeedSequence([5, number]).generate_state(1, np.uint64).item() // 2  # 63 of its 64 bits
        assert labels.tolist() == [0, 1, 2][: len(labels)]
        x = generate(model, labels.tolist(), seed=seed, clip_x0=clipped, **WAY)
        assert not torch.equal(x, generate(model, labels.tolist(), seed=seed, clip_x0=not clipped, **WAY))
        expected = np.rint((codec.decode(x).numpy() + 1) * np.float32(127.5)).clip(0, 255)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected.transpose(0, 2, 3, 1))
    assert number == 2 and sorted(path.name for path in tmp_path.iterdir()) == [
        "batch-000000.npz", "batch-000001.npz", "batch-000002.npz"
    ]  # fmt: skip


def test_processes_share_the_batches_that_are_not_there_and_the_first_shows_how_far_it_is(model, tmp_path, capsys):
    some = samples(tmp_path)
    assert (some.share(0, 1), some.share(0, 2), some.share(1, 2)) == ([0, 1, 2], [0, 2], [1])
    some.draw(model, Pixels(), 1, 2)
    assert (some.share(0, 2), some.share(1, 2)) == ([0, 2], []) and not capsys.readouterr().err
    some.draw(model, Pixels(), 0, 2)
    assert not some.share(0, 1) and "samples, 3 a batch" in capsys.readouterr().err


def test_pictures_that_overflow_are_told_by_their_batch_and_not_kept(model, tmp_path):
    samples(tmp_path).draw(model, Pixels(), 0, 2)
    with pytest.raises(ValueError, match="batch 1 holds NaN or Inf"):
        samples(tmp_path).draw(model, Failing(), 0, 1)
    assert samples(tmp_path).share(0, 1) == [1]


def test_a_batch_that_is_damaged_is_to_be_removed_and_one_that_does_not_open_is_not(model, tmp_path, monkeypatch):
    some = samples(tmp_path, count=3)
    some.draw(model, Pixels(), 0, 1)
    for cause in MemoryError, PermissionError:
        with monkeypatch.context() as patched:
            patched.setattr(adm, "unpacked", lambda path, cause=cause: (_ for _ in ()).throw(cause("no way")))
            with pytest.raises(ValueError, match="batch-000000.npz is no readable .*: no way$"):
                list(some)
    some.path(0).write_bytes(b"PK")
    with pytest.raises(ValueError, match="batch-000000.npz is no readable .*; remove it, and the same command draws"):
        list(some)


def test_a_folder_tells_all_versions_that_drew_its_batches_the_first_ones_first(tmp_path):
    some, first, second = samples(tmp_path / "of" / "samples"), {"torch": "2.8"}, {"torch": "2.9"}
    some.open(SETTINGS, first)
    assert some.versions() == [first]
    for number in range(3):
        some.path(number).touch()
        some.open(SETTINGS, second if number else first)
        assert some.versions() == ([first, second] if number else [first])
    some.open(SETTINGS, {"torch": "3.0"})  # all is there: nothing is left for it to draw
    assert some.versions() == [first, second]
    assert some.kept(SETTINGS) == {**SETTINGS, "steps": [900, 300], "drawn_with": [first, second]}


def test_settings_without_a_batch_bind_nobody_and_an_older_files_batches_were_drawn_with_nobody_knows_what(tmp_path):
    some = samples(tmp_path)
    some.open(SETTINGS, {})
    assert some.kept({"count": 8}) == {}
    some.path(1).touch()
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    assert some.versions() == []
    some.open(SETTINGS, {"torch": "2.9"})
    assert some.versions() == [{"torch": "2.9"}]


def test_other_settings_are_told_plain_words_as_they_are_and_three_at_most(tmp_path):
    some = samples(tmp_path)
    some.open(SETTINGS, {})
    some.path(0).touch()
    with pytest.raises(ValueError, match=r"has samples of sampler ddim \(now ddpm\), codec None \(now 'a b'\); give"):
        some.kept(SETTINGS | dict(sampler="ddpm", codec="a b"))
    told = r"of count 7 \(now 8\), steps \[900, 300\] \(now 4\), sampler ddim \(now 5\) and 2 more; give --out another"
    with pytest.raises(ValueError, match=told):
        some.kept(dict(count=8, steps=4, sampler=5, weights=6, codec=7))


def test_older_settings_that_name_no_unusual_ways_are_of_the_usual_one_and_fit_whatever_code_draws(tmp_path):
    some, usual = samples(tmp_path), dict(karras=False, shift=None, guidance_rescale=None)
    some.open(SETTINGS, {})
    some.path(0).touch()
    for code in True, False:
        assert some.kept(SETTINGS | usual | dict(compiled=code)).keys() == {*SETTINGS, "drawn_with"}
    for name, value in dict(karras=True, shift=3.0, guidance_rescale=0.7).items():
        with pytest.raises(ValueError, match=rf"has samples of {name} {usual[name]} \(now {value}\); give --out"):
            some.kept(SETTINGS | usual | {name: value})
    some.open(SETTINGS | usual | dict(compiled=False), {})
    with pytest.raises(ValueError, match=r"has samples of compiled False \(now True\); give --out"):
        some.kept(SETTINGS | usual | dict(compiled=True))


def test_settings_that_do_not_say_which_versions_drew_are_unreadable(tmp_path):
    some = samples(tmp_path)
    some.path(0).touch()
    for made in "ab", 5, {"torch": "2"}, [5], [{"torch": 5}], [{"torch": "2"}, 5], [{"torch": "2", "python": 3}]:
        (tmp_path / "settings.json").write_text(json.dumps({"drawn_with": made}))
        with pytest.raises(ValueError, match="no readable settings.json that says how they were made; give --out"):
            some.versions()
    (tmp_path / "settings.json").write_text(json.dumps({"drawn_with": [{}, {"torch": "2", "python": "3"}]}))
    assert some.versions() == [{}, {"torch": "2", "python": "3"}]


@pytest.mark.parametrize(("kept", "name"), [("bfloat16", "bf16"), ("float32", "fp32"), ("int8", "auto"), ([3], "auto")])
def test_missing_batches_are_drawn_in_the_precision_of_those_that_are_there(kept, name, tmp_path):
    assert samples(tmp_path).drawn_in() == "auto"
    samples(tmp_path).open(SETTINGS | {"precision": kept}, {})
    assert samples(tmp_path).drawn_in() == name


def test_samples_in_memory_have_a_seed_a_batch_from_the_first_on_and_are_decoded_and_clipped(model, capsys):
    x, labels = draw(model, 7, 2, 1.5, lambda latents: 2 * latents, batch_size=3, seed=4, sampler="ddpm")
    parts = [[0, 1, 2], [0, 1, 2], [0]]
    expected = [generate(model, y, seed=4 + k, sampler="ddpm", **WAY) for k, y in enumerate(parts)]
    assert torch.equal(x, (2 * torch.cat(expected)).clamp(-1, 1)) and labels.tolist() == sum(parts, [])
    assert "7 samples" in capsys.readouterr().err
    x, labels = draw(model, 101, 1, 1.0)
    assert torch.equal(x[100:], generate(model, [100 % 3], steps=1, seed=1).clamp(-1, 1)) and len(labels) == 101


@pytest.fixture
def made(monkeypatch):
    """What each network was made from; both are stand-ins, of 4 features and of 2."""
    calls = []

    def small(images, split, open_train, *rest):
        calls.append((images, split, open_train(), *rest))
        return Network(None, 4, {"network": "small"})

    monkeypatch.setattr(judging, "small_network", small)
    told = {"network": "inception"}
    monkeypatch.setattr(judging, "inception", lambda *given: calls.append(given) or Network(None, 2, told))
    return calls


def same(one, other):
    return one.fingerprint == other.fingerprint and one.shape == other.shape


@pytest.mark.parametrize(("asked", "split"), [({}, "test"), (dict(split="train"), "train"), (dict(size=12),
    "test"), (dict(size=12, crop="adm"), "test")])  # fmt: skip
def test_a_small_network_learns_from_train_and_compares_with_what_is_asked_for(asked, split, made, tmp_path):
    how = {name: value for name, value in asked.items() if name != "split"}
    side = how.get("size", 8)
    network, reference = open_judge(Judging(data="digits", **asked), (1, side, side), 10, tmp_path, "cpu")
    [(images, of, learnt, *rest)] = made
    assert (network.width, of, rest) == (4, split, [tmp_path, "cpu"])
    assert same(images, open_data("digits", split=split, **how)) and same(learnt, open_data("digits", **how))
    assert reference.images is images and reference.pixels is images.pixels and reference.moments is None
    about = {"data": "digits", "split": split, "size": how.get("size"), "pictures": len(images)}
    assert reference.about == about | ({"crop": "adm"} if "crop" in how else {})


@pytest.mark.parametrize(("asked", "split"), [(None, "train"), ("test", "test")])
def test_inception_compares_with_train_unless_asked_otherwise_and_learns_nothing(asked, split, made, tmp_path):
    weights = tmp_path / "weights.pth"
    asked = Judging(data="digits", split=asked, features="inception", inception=weights)
    network, reference = open_judge(asked, (3, 8, 8), 0, tmp_path, "cpu")
    assert made == [(weights, "cpu")] and network.width == 2
    assert same(reference.images, open_data("digits", split=split)) and reference.about["split"] == split


@pytest.mark.parametrize(("features", "width"), [("inception", 2), ("small", 4)])
def test_a_reference_batch_takes_the_datas_place_and_inception_then_needs_no_data(features, width, made, tmp_path):
    np.savez(path := tmp_path / "some.npz", mu=np.zeros(width), sigma=np.eye(width))
    data = None if features == "inception" else "digits"
    asked = Judging(data=data, features=features, reference=path)
    network, reference = open_judge(asked, (1, 8, 8), 10, tmp_path, "cpu")
    assert network.about["network"] == features and len(made) == 1
    assert reference.about == {"file": "some.npz", "pictures": None} and len(reference.moments[0]) == width
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=f"statistics of 3 features and no pictures; {features} has {width}"):
        open_judge(asked, (1, 8, 8), 10, tmp_path, "cpu")


def test_who_names_no_data_is_asked_for_it_before_anything_is_opened(made, tmp_path):
    for asked in Judging(), Judging(features="inception"), Judging(reference=tmp_path / "nosuch.npz"):
        with pytest.raises(ValueError, match="say with --data which real pictures"):
            open_judge(asked, (1, 8, 8), 10, tmp_path, "cpu")
    assert not made


def test_data_fits_by_its_sides_and_the_number_of_its_classes_and_whatever_its_colours(made, tmp_path):
    images = Images(np.zeros((2, 1, 8, 12), np.uint8), np.zeros(2, np.int64), ["a", "b"])
    for channels, classes in (1, 2), (3, 2), (1, 0):
        check_fits(images, (channels, 8, 12), classes)
    for sides in (8, 8), (12, 12), (12, 8):
        with pytest.raises(ValueError, match=f"of {sides[0]} x {sides[1]}, the data's are 8 x 12; say with --size"):
            check_fits(images, (1, *sides), 2)
    for classes in 1, 3:
        with pytest.raises(ValueError, match=f"the model has {classes} classes, the data 2; give the data it learnt"):
            check_fits(images, (1, 8, 12), classes)
    with pytest.raises(ValueError, match="the model has 7 classes, the data 10"):
        open_judge(Judging(data="digits"), (1, 8, 8), 7, tmp_path, "cpu")
    assert not made


def test_a_reference_batch_has_its_pictures_and_both_kinds_of_statistics_in_float64(tmp_path):
    random = np.random.default_rng(0)
    arrays = dict(arr_0=random.integers(0, 256, (5, 8, 12, 3)).astype(np.uint8), mu=np.float32([0.1, 2]))
    arrays |= dict(sigma=np.eye(2, dtype=np.float32), mu_s=np.arange(3.0), sigma_s=np.eye(3) * 3)
    np.savez(path := tmp_path / "all.npz", **arrays)
    found = reference_batch(path, (1, 8, 12))
    assert np.array_equal(found.pixels, arrays["arr_0"].transpose(0, 3, 1, 2)) and found.images is None
    assert found.about == {"file": "all.npz", "pictures": 5}
    for got, names in (found.moments, ("mu", "sigma")), (found.spatial, ("mu_s", "sigma_s")):
        assert all(map(np.array_equal, got, map(arrays.get, names))) and {each.dtype for each in got} == {torch.float64}
    for sides in (8, 8), (12, 12), (12, 8):
        with pytest.raises(ValueError, match=f"pictures of {sides[0]} x {sides[1]}, those in .*all.npz are 8 x 12"):
            reference_batch(path, (1, *sides))
    np.savez(path, arr_0=arrays["arr_0"])
    assert reference_batch(path, (3, 8, 12))[1:] == (None, None, {"file": "all.npz", "pictures": 5}, None)


def test_statistics_of_another_networks_features_are_dropped_where_there_are_pictures(tmp_path):
    of = lambda width: (torch.zeros(width), torch.eye(width))
    network, pixels = Network(None, 4, {"network": "small"}), np.zeros((2, 3, 8, 8), np.uint8)
    for whole in Reference(pixels, of(4), None, {}, of(5)), Reference(pixels, None, None, {}, of(5)):
        assert fitting(whole, network, tmp_path) is whole
    assert fitting(Reference(None, of(4), None, {}), network, tmp_path).moments[1].shape == (4, 4)
    assert fitting(Reference(pixels, of(3), None, {}, of(5)), network, tmp_path) == Reference(pixels, None, None, {})
    with pytest.raises(ValueError, match="holds statistics of 3 features and no pictures; small has 4"):
        fitting(Reference(None, of(3), None, {}), network, tmp_path)
