"""What looks at pictures: classifiers that learn, are kept and found again, and Inception from the user's own file."""

import hashlib
import io
import json
import pickle
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import dit_lab
from dit_lab.data import Images, open_data
from dit_lab.evaluation import Classifier, features, judge, train_classifier
from dit_lab.evaluation.features import classifier_for, keep, opened, shipped, small_network
from dit_lab.evaluation.inception import FILE, inception, without_init
from dit_lab.zoo.judge import judge_command

ZOO = Path(dit_lab.__file__).parent / "zoo"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def coloured(count):
    """Noisy 8 x 8 pictures in three classes: red, green, blue."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 100, (count, 3, 8, 8)).astype(np.uint8)
    pixels[np.arange(count), labels] += 100
    return Images(pixels, labels, ["red", "green", "blue"])


def test_a_classifier_learns_digits_it_then_recognises(digits):
    model = train_classifier(digits, epochs=6, batch_size=64)
    x, y = digits.batch(range(500))
    seen, found = judge(model, x, batch_size=200)
    assert found.shape == (500, 128)
    assert (seen == y).double().mean() > 0.95


def test_judging_in_batches_changes_nothing():
    torch.manual_seed(0)
    model = Classifier(1, (8, 8), 10).eval()
    x = torch.randn(30, 1, 8, 8)
    seen, found = judge(model, x, batch_size=7)
    torch.testing.assert_close(found, judge(model, x)[1])
    assert torch.equal(seen, model(x).argmax(-1))


def test_a_colour_classifier_learns_is_kept_in_half_and_sees_the_same_after(tmp_path):
    images = coloured(300)
    model = train_classifier(images, epochs=4, batch_size=30)
    x, y = images.batch(range(300))
    assert (judge(model, x)[0] == y).double().mean() > 0.95
    keep(tmp_path / "kept.safetensors", model, {})
    again = opened(tmp_path / "kept.safetensors", images)
    torch.testing.assert_close(judge(again, x)[1], judge(model, x)[1], rtol=0.02, atol=0.02)


def test_the_one_for_photographs_of_32_x_32_has_about_half_a_million_parameters():
    assert 4e5 < sum(parameter.numel() for parameter in Classifier(3, (32, 32), 10).parameters()) < 5.5e5


def test_a_kept_classifier_of_other_pictures_is_refused(tmp_path):
    path = tmp_path / "classifier.safetensors"
    keep(path, Classifier(1, (8, 8), 10), {"classes": [str(number) for number in range(10)]})
    for images in (coloured(3), Images(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), list("abcdefghij"))):
        with pytest.raises(ValueError, match="is no classifier of pictures of"):
            classifier_for(images, path)


def test_a_kept_classifier_of_other_pictures_with_the_same_classes_is_refused(tmp_path, digits):
    path = tmp_path / "classifier.safetensors"
    classifier_for(Images(digits.pixels[:200], digits.labels[:200], digits.names), path)
    with pytest.raises(ValueError, match="was trained on other pictures"):
        classifier_for(digits, path)


def test_one_trained_for_a_folder_holds_a_tenth_back_and_keeps_how_much_of_it_it_reads(tmp_path, digits):
    network = small_network(digits, "train", lambda: digits, tmp_path, CPU)
    assert network.about["held_back"] == round(len(digits) / 10) and 0.9 < network.about["accuracy"] <= 1
    seen, unseen = features.parted(len(digits))
    assert len({*seen, *unseen}) == len(digits) == len(seen) + len(unseen)
    model = opened(tmp_path / "classifier.safetensors", digits)
    x, y = digits.batch(unseen)
    assert (judge(model, x)[0] == y).double().mean().item() == pytest.approx(network.about["accuracy"], abs=0.02)


def test_of_few_pictures_it_takes_enough_steps_to_learn_them():
    images = coloured(40)
    x, y = images.batch(range(40))
    assert (judge(train_classifier(images), x)[0] == y).double().mean() == 1


def test_a_network_made_to_ship_is_found_again_by_the_labels_and_the_size_not_by_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "JUDGES", tmp_path)
    judge_command(data="digits", out=tmp_path / "whatever.safetensors", epochs=1)
    with safe_open(tmp_path / "whatever.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    assert about["data"] == "digits" and about["accuracy"] > 0.5
    assert f"{about['accuracy']:.2%}" in capsys.readouterr().out
    test = open_data("digits", split="test")
    assert shipped(test, "test") == tmp_path / "whatever.safetensors"
    assert shipped(test, "train") is None
    assert shipped(open_data("digits", split="test", size=12), "test") is None
    network = small_network(test, "test", pytest.fail, tmp_path / "never", CPU)
    assert network.about["name"] == "whatever" and not (tmp_path / "never").exists()
    assert network.about["held_back"] == len(test) and about["chance"] == np.bincount(test.labels).max() / len(test)


def test_grey_pictures_are_judged_in_grey_whether_one_channel_or_three_copies(tmp_path, digits):
    keep(tmp_path / "classifier.safetensors", Classifier(1, (8, 8), 10), {})
    network = small_network(digits, "train", lambda: digits, tmp_path, CPU)
    grey = digits.pixels[:20]
    one, three = (network.see([x[:9], x[9:]], 20, "digits") for x in (grey, grey.repeat(3, axis=1)))
    assert torch.equal(one.features, three.features) and one.logits.shape == (20, 10)
    model = opened(tmp_path / "classifier.safetensors", digits)
    torch.testing.assert_close(one.features, judge(model, digits.batch(range(20))[0])[1])


@pytest.mark.parametrize("path", sorted((ZOO / "judges").glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_network_that_ships_is_small_and_says_what_it_was_made_for(path):
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["dit_lab"])
    assert path.stat().st_size < 1.2e6
    assert about["accuracy"] > (0.98 if about["shape"][0] == 1 else 0.75)
    assert {"data", "shape", "classes", "splits"} <= about.keys() and {"train", "test"} == about["splits"].keys()


@pytest.fixture(scope="module")
def extractor():
    """torch-fidelity's Inception, or a skip."""
    with without_init("torch_fidelity"):
        try:
            return import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
        except ImportError:
            pytest.skip("torch-fidelity is not here: pip install --no-deps torch-fidelity")


@pytest.fixture(scope="module")
def released(extractor, tmp_path_factory):
    """A folder with a file in the released weights' format, a flat state dict, of random numbers; and its network."""

    class Fresh(extractor):
        def load_state_dict(self, tensors):
            pass

    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Fresh("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / FILE)
    return folder, network


def test_inception_is_torch_fidelitys_network_with_the_weights_in_torchs_cache(released, monkeypatch):
    folder, theirs = released
    monkeypatch.setenv("TORCH_HOME", str(folder.parents[1]))
    network = inception(None, CPU)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = network.see([pixels.numpy()], 2, "noise")
    expected = theirs(pixels)
    assert torch.equal(seen.features, expected[0]) and torch.equal(seen.logits, expected[1])
    assert seen.spatial.shape == (2, 2023)
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()[:8]  # of the released file it is in its name
    assert network.about == {"network": "inception", "weights": FILE, "sha256": digest}
    assert seen.features.shape == (2, network.width)
    assert "torchvision" not in sys.modules and "torch_fidelity" not in sys.modules


def test_spatial_features_are_adms_first_seven_channels_of_mixed_6s_first_convolution(released, monkeypatch):
    """`mixed_6/conv` is the 1 x 1 branch of torch-fidelity's Mixed_6d; here layer by layer, flattened as h w c."""
    folder, theirs = released
    monkeypatch.setenv("TORCH_HOME", str(folder.parents[1]))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = import_resize(theirs)(pixels.float(), size=(299, 299), align_corners=False)
    x = (x - 128) / 128
    for name, layer in theirs.named_children():
        if name == "Mixed_6d":
            break
        x = layer(x)
    batch_norm = theirs.Mixed_6d.branch1x1.bn(theirs.Mixed_6d.branch1x1.conv(x))
    expected = torch.relu(batch_norm).permute(0, 2, 3, 1)[..., :7].reshape(2, 17 * 17 * 7)
    network = inception(None, CPU)
    for _ in range(2):
        assert torch.allclose(network.see([pixels.numpy()], 2, "noise").spatial, expected, rtol=1e-5, atol=1e-7)


def import_resize(network):
    """The resizing that Inception's own module uses."""
    return sys.modules[type(network).__mro__[1].__module__].interpolate_bilinear_2d_like_tensorflow1x


def test_a_small_networks_spatial_features_are_seven_channels_of_its_last_map():
    model = Classifier(1, (8, 8), 10).eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    map_of = model.features[:6](x)  # two times convolution, ReLU, pooling
    assert map_of.shape == (3, 64, 2, 2)
    expected = torch.stack([map_of[:, c, i, j] for i in range(2) for j in range(2) for c in range(7)], 1)
    seen = model.look(x)
    assert torch.equal(seen.spatial, expected) and torch.equal(seen.features, model.features(x))


def test_missing_weights_are_told_with_where_to_get_them_and_where_to_put_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="releases/download") as told:
        inception(None, CPU)
    assert str(tmp_path / "hub" / "checkpoints" / FILE) in str(told.value) and "--inception" in str(told.value)
    with pytest.raises(ValueError, match="mine.pth"):
        inception(tmp_path / "mine.pth", CPU)


def test_a_missing_torch_fidelity_is_told_with_how_to_install_it(monkeypatch, tmp_path):
    (tmp_path / "weights.pth").touch()
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install --no-deps"):
        inception(tmp_path / "weights.pth", CPU)


class Trap:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_weights_that_hold_code_or_other_tensors_are_refused_and_nothing_runs(extractor, tmp_path):
    torch.save({"fc.weight": Trap(tmp_path / "trace")}, tmp_path / "trap.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("trap.pth", "pickle.pth", "other.pth"):
        with pytest.raises(ValueError, match=f"{name} does not hold Inception's weights"):
            inception(tmp_path / name, CPU)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("size", "left"), [((8, 12), 2 * 3), ((28, 8), 7 * 2)])
def test_a_classifier_takes_oblong_pictures_and_lays_its_maps_out_channel_by_channel_and_row_by_row(size, left):
    model, x = Classifier(1, size, 5).eval(), torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    assert model(x).shape == (2, 5) and model.features[-2].in_features == 64 * left
    maps = model.features[:-3](x)
    assert torch.equal(model.features[-3](maps), maps.flatten(1))
