"""The command from a checkpoint to a line of figures: killed, shared, asked again, and asked for what cannot be."""

import io
import json
import os
import shutil
import signal
import socket
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from shared import processes, stirred

from dit_lab.checkpoints import save
from dit_lab.commands import evaluate as evaluate_file
from dit_lab.commands.evaluate import RESULTS, evaluate_command, spelt
from dit_lab.data import Images, open_data
from dit_lab.data.pictures import Encoded
from dit_lab.diffusion import QUALITIES, Diffusion, Unusual
from dit_lab.evaluation import Judging, Network, Sampling, adm, making, measure, samples, train_classifier
from dit_lab.evaluation.features import KEPT, Seen, keep, small_network
from dit_lab.evaluation.judging import Reference, reference_batch
from dit_lab.evaluation.metrics import frechet_of_moments, moments
from dit_lab.models import one_thread

FEW = dict(count=140, batch_size=30, steps=2, cfg_scale=1.5)
DIGITS = Judging(data="digits")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny digit model, a classifier that is trained already, and a first evaluation in `first`."""
    folder = tmp_path_factory.mktemp("evaluate")
    model = stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)
    save(folder / "model", model, codec_hint="pixels", extra={"ema_decay": 0.998, "trained_steps": 7})
    digits = open_data("digits")
    kept = {"shape": list(digits.shape), "classes": digits.names}
    keep(folder / KEPT, train_classifier(digits), kept)
    made = evaluate_file.versions()
    with pytest.MonkeyPatch.context() as patched:  # who commits while bytes are compared makes no other version
        patched.setattr(evaluate_file, "versions", lambda: made)
        evaluate(folder, "first", npz=folder / "first.npz")
        yield folder


def evaluate(home, name, judging=DIGITS, *, model="model", npz=None, compile="auto", **sampling):
    """Evaluate into a folder of that name, the classifier being there."""
    (home / name).mkdir(exist_ok=True)
    shutil.copy(home / KEPT, home / name)
    # Which precision is faster here would otherwise decide what is drawn.
    places = dict(out=home / name, npz=npz, device="cpu", precision="fp32", compile=compile)
    with one_thread():  # as the processes beside this one have: two would round otherwise
        return evaluate_command(str(home / model), Sampling(**FEW | sampling), judging, **places)


def contents(folder):
    """All files of a run, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines(folder):
    return [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]


def test_a_result_says_how_it_was_made(home):
    (result,) = lines(home / "first")
    assert set(result["figures"]) == {
        "frechet", "spatial_frechet", "kernel_distance", "kernel_distance_deviation", "kernel_distance_subset",
        "precision", "recall", "agreement", "agreement_of_real",
    }  # fmt: skip
    assert set(result["spread"]) == {
        "frechet", "spatial_frechet", "kernel_distance", "precision", "recall", "agreement"
    }  # fmt: skip
    assert all(0 <= value < 100 for value in result["spread"].values()) and result["spread"]["frechet"] > 0
    assert all(np.isfinite(value) for value in result["figures"].values()) and not result["left_out"]
    assert result["figures"]["agreement_of_real"] > 0.8 > result["figures"]["agreement"]
    assert result["samples"] == {
        "count": 140, "sampler": "ddim", "steps": 2, "cfg_scale": 1.5, "cfg_channels": None, "cfg_interval": None,
        "seed": 0, "batch_size": 30, "precision": "float32", "compiled": False, "shift": None, "karras": False,
        "guidance_rescale": None,
    }  # fmt: skip
    checkpoint = result["checkpoint"]
    assert (checkpoint["weights"], checkpoint["ema_decay"], checkpoint["codec"]) == ("ema", 0.998, "pixels")
    assert result["reference"] == {"data": "digits", "split": "test", "size": None, "pictures": 299}
    assert result["features"]["network"] == "small"
    assert {"torch", "python"} < result["versions"].keys() and {"commit", "dit_lab"} & result["versions"].keys()


def test_the_npz_is_adms_with_the_classes_in_turn_and_grey_repeated(home):
    with np.load(home / "first.npz", allow_pickle=False) as file:
        pixels, labels = file["arr_0"], file["arr_1"]
    assert pixels.shape == (140, 8, 8, 3) and pixels.dtype == np.uint8 and pixels.std() > 1
    assert np.array_equal(labels, np.arange(140) % 10)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_asked_again_the_samples_are_judged_but_not_drawn_again(home, monkeypatch):
    shutil.copytree(home / "first", home / "again")
    monkeypatch.setattr(samples, "generate", lambda *_, **__: pytest.fail("something was drawn"))
    evaluate(home, "again")
    first, second = lines(home / "again")
    assert first == second


def in_process(home, name, rank, of, port, die_at, versions):
    """In a new process: evaluate as one of several, killed at its `die_at`-th file."""
    torch.set_num_threads(1)
    evaluate_file.versions = lambda: versions
    if of > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(of), LOCAL_WORLD_SIZE=str(of))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    if die_at is not None:
        replace, left = os.replace, iter(range(die_at - 1, -1, -1))
        os.replace = lambda *paths: replace(*paths) if next(left) else os.kill(os.getpid(), signal.SIGKILL)
    evaluate(home, name)


def run_all(home, name, of=1, die_at=None):
    """Exit codes of the processes of one evaluation."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = (of, port, die_at, evaluate_file.versions())
    started = [processes.Process(target=in_process, args=(home, name, n, *how)) for n in range(of)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=600)
    return [process.exitcode for process in started]


def test_killed_while_it_writes_it_goes_on_to_the_same_bytes(home):
    assert run_all(home, "killed", die_at=4) == [-signal.SIGKILL]  # settings, two batches, and within the third
    assert len(list((home / "killed").glob("batch-*.npz"))) == 2 and list((home / "killed").glob(".*.partial"))
    evaluate(home, "killed")
    assert contents(home / "killed") == contents(home / "first")


def test_two_processes_make_the_same_bytes_as_one(home):
    assert run_all(home, "shared", of=2) == [0, 0]
    assert contents(home / "shared") == contents(home / "first")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (dict(steps=3), r"steps 2 \(now 3\)"),
        (dict(seed=1, count=130), r"count 140 \(now 130\), seed 0 \(now 1\)"),
        (dict(cfg_interval=(100, 500)), r"cfg_interval None \(now \[100, 500\]\)"),
        (dict(karras=True), r"karras False \(now True\)"),
        (dict(guidance_rescale=0.7), r"guidance_rescale None \(now 0.7\)"),
    ],
)
def test_other_arguments_in_the_same_folder_are_refused_with_what_differs(home, changed, told):
    before = contents(home / "first")
    with pytest.raises(ValueError, match=f"has samples of {told}; give --out another folder"):
        evaluate(home, "first", **changed)
    assert contents(home / "first") == before


def test_other_weights_at_the_same_place_are_other_samples(home):
    for name in "model", "first":
        shutil.copytree(home / name, home / "retrained" / name)
    shutil.copy(home / KEPT, home / "retrained")
    model = stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)
    model.out.bias.data += 0.1
    save(home / "retrained" / "model", model, codec_hint="pixels")
    with pytest.raises(ValueError, match="checksum"):
        evaluate(home / "retrained", "first")


def test_samples_compared_with_themselves_are_perfect(home):
    shutil.copytree(home / "first", home / "itself")
    figures = evaluate(home, "itself", Judging(data="digits", reference=home / "first.npz"))["figures"]
    assert abs(figures["frechet"]) < 1e-6 and abs(figures["spatial_frechet"]) < 1e-6
    assert figures["precision"] == figures["recall"] == 1
    assert "agreement_of_real" not in figures


def test_a_reference_of_statistics_alone_gives_the_distance_to_them_and_says_what_is_left_out(home):
    np.savez(home / "statistics.npz", mu=np.zeros(128), sigma=np.eye(128))
    shutil.copytree(home / "first", home / "statistics")
    result = evaluate(home, "statistics", Judging(data="digits", reference=home / "statistics.npz"))
    assert result["figures"].keys() == {"frechet", "agreement"}
    assert set(result["left_out"]) == {"spatial_frechet", "kernel_distance", "precision and recall"}
    assert "mu_s" in result["left_out"]["spatial_frechet"]
    assert result["reference"] == {"file": "statistics.npz", "pictures": None}


def test_too_few_pictures_for_a_covariance_leave_the_distance_out_with_the_reason(home, capsys):
    result = evaluate(home, "few", count=128)
    assert "frechet" not in result["figures"] and "kernel_distance" in result["figures"]
    assert "128 pictures are too few, it takes 129" in result["left_out"]["frechet"]
    assert "spatial_frechet" in result["figures"] and "frechet" not in result["spread"]
    assert "singular" in capsys.readouterr().out


def test_inceptions_figures_have_their_published_names_and_the_inception_score():
    """On a stand-in that only claims to be Inception, with two features: a picture's mean and its first pixel."""
    look = lambda pixels: Seen(*[torch.stack([pixels.float().mean((1, 2, 3)), pixels[:, 0, 0, 0].float()], 1)] * 2)
    network = Network(look, 2, {"network": "inception"})
    random = np.random.default_rng(0)
    real, drawn = (random.integers(0, 256, (n, 3, 4, 4)).astype(np.uint8) for n in (50, 40))
    seen = network.see([drawn], 40, "samples")
    figures, spread, left_out = measure(network, seen, (np.zeros(40), []), Reference(real, None, None, {}), 16, 0)
    assert {"fid", "kid", "kid_deviation", "precision", "recall", "inception_score"} < figures.keys()
    assert figures["inception_score_part"] == 40 and "agreement" not in figures
    assert set(spread) == {"fid", "kid", "precision", "recall", "inception_score"}
    assert left_out == {"sfid": "the network has no map to take spatial features from"}


def test_sfid_is_to_the_statistics_that_adms_file_holds_of_spatial_features(tmp_path):
    """On a stand-in for Inception with a map: three spatial features."""
    look = lambda pixels: Seen(*[pixels.float()[:, 0, i, :3] for i in range(3)])
    network = Network(look, 3, {"network": "inception"})
    drawn = np.random.default_rng(0).integers(0, 256, (60, 3, 4, 4)).astype(np.uint8)
    seen = network.see([drawn], 60, "samples")
    mean, covariance = np.arange(3.0), np.diag([1.0, 2.0, 3.0])
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=mean, sigma_s=covariance)
    figures, spread, _ = measure(network, seen, None, reference_batch(tmp_path / "a.npz", (3, 4, 4)), 16, 0)
    expected = frechet_of_moments(*moments(seen.spatial), torch.from_numpy(mean), torch.from_numpy(covariance))
    assert figures["sfid"] == expected != figures["fid"] and spread["sfid"] > 0
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2), sigma_s=np.eye(2))
    figures, _, left_out = measure(network, seen, None, reference_batch(tmp_path / "b.npz", (3, 4, 4)), 16, 0)
    assert "sfid" not in figures and "mu_s" in left_out["sfid"]


@pytest.mark.parametrize(
    ("value", "spread", "told"),
    [
        (12.3456, 0.43, "12.35 +- 0.43"),
        (0.99123, 0.00123, "0.9912 +- 0.0012"),
        (1234.5, 67.0, "1234 +- 67"),
        (1.0, 0.0, "1.0000 +- 0"),
        (0.5, None, "0.5000"),
        (1000, None, "1000"),
    ],
)
def test_a_figure_is_told_to_its_spreads_second_digit(value, spread, told):
    assert spelt(value, spread).strip() == told


@pytest.mark.parametrize(("names", "counted"), [("abcdefghij", True), ("bacdefghij", False), ("0123456789", True)])
def test_agreement_is_left_out_where_class_numbers_mean_something_else(names, counted, home):
    digits = open_data("digits", split="test")
    network = small_network(digits, "test", lambda: open_data("digits"), home, torch.device("cpu"))
    network = replace(network, classes=list("abcdefghij"))
    drawn = network.see([digits.pixels[:40]], 40, "samples")
    reference = Reference(digits.pixels, None, digits, {})
    figures, _, left_out = measure(network, drawn, (digits.labels[:40], list(names)), reference, 30, 0)
    assert ("agreement" in figures) == counted == ("agreement" not in left_out)


def test_a_network_that_does_not_read_real_pictures_gives_no_figures_and_says_so(home):
    digits = open_data("digits", split="test")
    network = small_network(digits, "test", lambda: open_data("digits"), home, torch.device("cpu"))
    drawn = network.see([digits.pixels[:40]], 40, "samples")
    reference = Reference(digits.pixels, None, digits, {})
    for accuracy, told in (0.54, "54%"), (0.1, "10%"):
        blind = replace(network, about=network.about | {"accuracy": accuracy})
        figures, spread, left_out = measure(blind, drawn, (digits.labels[:40], digits.names), reference, 30, 0)
        assert set(figures) == {"agreement_of_real"} and not spread
        assert set(left_out) == {"frechet", "spatial_frechet", "kernel_distance", "precision and recall", "agreement"}
        assert all(
            f"reads only {told} of real pictures" in reason and "below 55%" in reason for reason in left_out.values()
        )
    able = replace(network, about=network.about | {"accuracy": 0.56})
    assert "agreement" in measure(able, drawn, (digits.labels[:40], digits.names), reference, 30, 0)[0]


def test_a_line_names_the_versions_that_drew_the_samples_also_when_others_judge_them(home, monkeypatch):
    shutil.copytree(home / "first", home / "later")
    monkeypatch.setattr("dit_lab.commands.evaluate.versions", lambda: {"commit": "later"})
    evaluate(home, "later")
    first, second = lines(home / "later")
    assert second["drawn_with"] == [first["versions"]] and second["versions"] == {"commit": "later"}
    (home / "later" / "batch-000001.npz").unlink()
    evaluate(home, "later")
    assert lines(home / "later")[2]["drawn_with"] == [first["versions"], {"commit": "later"}]


@pytest.fixture
def coding(home, monkeypatch):
    """`coding(name, faster)` makes a folder and gives a list of how `fast` is asked; nothing is compiled in truth.

    Where it is left open, compiled code is `faster` or not.
    """

    def pretend(name, faster):
        (home / name).mkdir()
        asked, fast = [], making.fast

        def pretended(model, **how):
            asked.append(how)
            quick = fast(model, **how | {"compile": False})
            quick.speed = replace(quick.speed, compiled=faster if how["compile"] == "auto" else how["compile"])
            return quick

        monkeypatch.setattr(making, "fast", pretended)
        return asked

    return pretend


def ways(asked):
    """How `fast` was asked to compile, since it was last looked at."""
    found = [how["compile"] for how in asked]
    asked.clear()
    return found


@pytest.mark.parametrize("faster", [True, False])
def test_what_is_missing_is_compiled_where_what_is_there_was_without_a_trial(faster, home, coding):
    name = f"coded-{faster}"
    asked = coding(name, faster)
    assert evaluate(home, name)["samples"]["compiled"] is faster and ways(asked) == [False, "auto"]
    assert json.loads((home / name / "settings.json").read_text())["compiled"] is faster
    before = contents(home / name)
    (home / name / "batch-000001.npz").unlink()
    assert evaluate(home, name)["samples"]["compiled"] is faster and ways(asked) == [faster]
    (home / name / "batch-000001.npz").unlink()
    assert evaluate(home, name, compile="yes" if faster else "no")["samples"]["compiled"] is faster
    assert ways(asked) == [faster] and contents(home / name).keys() == before.keys()
    assert lines(home / name)[0] == lines(home / name)[2]
    (home / name / "batch-000001.npz").unlink()
    told = rf"has samples of compiled {faster} \(now {not faster}\); give --out another folder"
    with pytest.raises(ValueError, match=told):
        evaluate(home, name, compile="no" if faster else "yes")


def test_of_samples_that_are_all_there_nothing_is_compiled_and_it_is_said_that_they_were(home, coding, monkeypatch):
    asked = coding("all", True)
    evaluate(home, "all")
    monkeypatch.setenv("CXX", "no-such-compiler")
    ways(asked)
    assert evaluate(home, "all")["samples"]["compiled"] is True and ways(asked) == [False]
    (home / "all" / "batch-000001.npz").unlink()
    told = "all has samples that compiled code drew, for which there is no C.. compiler here: install one"
    with pytest.raises(ValueError, match=told):
        evaluate(home, "all")
    assert not asked


@pytest.mark.parametrize("drawn", [True, False, None])
def test_another_process_compiles_what_the_first_one_wrote_down(drawn, home, coding, monkeypatch):
    asked, folder = coding(f"second-{drawn}", True), home / f"second-{drawn}"
    settings = json.loads((home / "first" / "settings.json").read_text())
    written = lambda: (folder / "settings.json").write_text(json.dumps(settings | {"compiled": drawn}))
    other = dict(process_index=1, num_processes=2, is_main_process=False, wait_for_everyone=written)
    monkeypatch.setattr(evaluate_file, "processes", lambda: SimpleNamespace(**other))
    monkeypatch.setattr(evaluate_file, "device_of", lambda crew, name: torch.device(name))
    assert evaluate(home, folder.name) is None and ways(asked) == ["auto" if drawn is None else drawn]
    assert sorted(path.name for path in folder.glob("batch-*")) == ["batch-000001.npz", "batch-000003.npz"]


def test_settings_of_a_run_that_ended_before_its_first_batch_decide_nothing(home, coding):
    asked, folder = coding("unbegun", False), home / "unbegun"
    settings = json.loads((home / "first" / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"precision": "bfloat16", "compiled": True}))
    shutil.copy(home / KEPT, folder)
    evaluate_command(str(home / "model"), Sampling(**FEW), DIGITS, out=folder, device="cpu")
    assert asked[0]["precision"] == "auto" and ways(asked) == [False, "auto"]


def test_a_folder_that_does_not_say_whether_code_was_compiled_goes_on_either_way_and_never_says_so(home, coding):
    shutil.copytree(home / "first", home / "older" / "first")
    shutil.copy(home / KEPT, home / "older")
    shutil.copytree(home / "model", home / "older" / "model")
    settings = home / "older" / "first" / "settings.json"
    settings.write_text(json.dumps({n: v for n, v in json.loads(settings.read_text()).items() if n != "compiled"}))
    asked = coding("older/new", True)
    for how, expected in {"auto": [False, "auto"], "yes": [True], "no": [False]}.items():
        (home / "older" / "first" / "batch-000001.npz").unlink()
        result = evaluate(home / "older", "first", compile=how)
        assert ways(asked) == expected and result["samples"]["compiled"] is None
        assert json.loads(settings.read_text())["compiled"] is None


def test_a_folder_that_knows_of_no_unusual_ways_was_walked_the_usual_one_and_goes_on_so(home):
    shutil.copytree(home / "first", home / "usual")
    settings = home / "usual" / "settings.json"
    older = {name: value for name, value in json.loads(settings.read_text()).items() if name not in asdict(Unusual())}
    settings.write_text(json.dumps(older))
    (home / "usual" / "batch-000001.npz").unlink()
    evaluate(home, "usual")
    assert contents(home / "usual")["batch-000001.npz"] == contents(home / "first")["batch-000001.npz"]
    settings.write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"has samples of karras False \(now True\)"):
        evaluate(home, "usual", karras=True)


def test_what_is_compiled_is_weighed_by_the_forwards_that_are_left(home, coding):
    asked = coding("weighed", False)
    for missing in (0, 1, 2):
        shutil.rmtree(home / "weighed")
        shutil.copytree(home / "first", home / "weighed")
        settings = home / "weighed" / "settings.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"compiled": None}))
        for name in ["batch-000001.npz", "batch-000004.npz"][:missing]:
            (home / "weighed" / name).unlink()
        evaluate(home, "weighed")
    expected = [(left, way) for left in (0, 2, 4) for way in (False, "auto" if left else False)]
    assert [(how["forwards"], how["compile"]) for how in asked] == expected


@pytest.mark.parametrize(
    ("judging", "sampling", "told"),
    [(DIGITS, dict(seed=9), "has samples of seed 0"), (Judging(data="digits", size=12), {}, "the data's are 12 x 12")],
)
def test_whether_compiled_code_is_faster_is_tried_after_all_that_may_be_refused(home, judging, sampling, told, coding):
    asked, folder = coding(f"refused-{len(sampling)}", True), home / f"refused-{len(sampling)}"
    if sampling:
        shutil.copy(home / "first" / "batch-000001.npz", folder)
        kept = json.loads((home / "first" / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(kept | {"compiled": None}))
    with pytest.raises(ValueError, match=told):
        evaluate(home, folder.name, judging, **sampling)
    assert ways(asked) == [False]


def test_a_real_picture_in_the_place_of_a_broken_one_counts_with_its_own_label(home):
    digits = open_data("digits", split="test")
    stored = [{"bytes": png(picture), "path": None} for (picture,) in digits.pixels]
    stored[20]["bytes"] = b"no picture"
    assert digits.labels[20] != digits.labels[21]
    table = datasets.Dataset.from_dict({"image": stored}, features=datasets.Features({"image": datasets.Image()}))
    images = Images(Encoded(table.with_format("arrow")), digits.labels, digits.names)
    network = small_network(digits, "test", lambda: open_data("digits"), home, torch.device("cpu"))
    look = lambda pixels: network.look(torch.from_numpy(pixels).repeat(1, 3, 1, 1)).logits.argmax(1)
    shown = digits.labels.copy()
    shown[20] = shown[21]
    expected = (look(images.pixels[range(len(images))]) == torch.from_numpy(shown)).double().mean().item()
    drawn = network.see([np.repeat(digits.pixels[:9], 3, axis=1)], 9, "samples")
    figures, *_ = measure(network, drawn, None, Reference(images.pixels, None, images, {}), 50, 0)
    assert figures["agreement_of_real"] == expected


def png(picture):
    Image.fromarray(picture).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("judging", "told"),
    [
        (Judging(), "say with --data"),
        (Judging(data="digits", size=12), "makes pictures of 8 x 8, the data's are 12 x 12; say with --size"),
        (Judging(data="digits", split="nosuch"), "no split 'nosuch'"),
        (Judging(data="digits", features="inception", inception=Path("nosuch.pth")), "nosuch.pth: fetch https"),
        (Judging(data="digits", reference=Path("nosuch.npz")), "there is no file nosuch.npz"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_drawn(home, monkeypatch, tmp_path, judging, told):
    monkeypatch.setattr(samples, "generate", lambda *_, **__: pytest.fail("something was drawn"))
    with pytest.raises(ValueError, match=told):
        evaluate_command(str(home / "model"), Sampling(**FEW), judging, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_samples_that_are_damaged_or_of_unknown_making_are_told_with_what_to_do(home):
    shutil.copytree(home / "first", home / "damaged")
    batch, settings = (home / "damaged" / name for name in ("batch-000001.npz", "settings.json"))
    batch.write_bytes(batch.read_bytes()[:500])
    with pytest.raises(ValueError, match="batch-000001.npz is no readable .*; remove it, and the same command"):
        evaluate(home, "damaged")
    batch.unlink()
    evaluate(home, "damaged")
    assert batch.read_bytes() == (home / "first" / batch.name).read_bytes()
    whole = json.loads(settings.read_text())
    drawn_with = [json.dumps(whole | {"drawn_with": made}) for made in ("ab", 5, [5], [{"torch": 5}], {"torch": "2"})]
    for text in "[]", "{", "[" * 10**5, '{"count": ' + "9" * 5000 + "}", *drawn_with, None:
        settings.unlink() if text is None else settings.write_text(text)
        with pytest.raises(ValueError, match="no readable settings.json that says how they were made; give --out"):
            evaluate(home, "damaged")
    os.mkfifo(settings)
    with pytest.raises(OSError, match="settings.json: it is a pipe; give a file's name"):
        evaluate(home, "damaged")


def test_settings_that_hold_anything_are_quoted_shortly(home):
    shutil.copytree(home / "first", home / "strange")
    settings = home / "strange" / "settings.json"
    strange = dict(steps="\x1b[31m" + "x" * 10**5, seed=10**400, count=[[[]]] * 1000, sampler={"a": {}}, cfg_scale="\n")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | strange))
    with pytest.raises(ValueError, match=r"has samples of count .* and 2 more; give --out another folder") as caught:
        evaluate(home, "strange")
    assert len(str(caught.value)) - len(str(home)) <= 300 and str(caught.value).isprintable()


def test_only_what_an_evaluation_itself_half_wrote_is_cleared(home):
    shutil.copytree(home / "first", home / "cleared")
    ours, theirs = [(home / "cleared" / f".{name}.0123456789ab.partial") for name in ("batch-000009.npz", "mine.npz")]
    ours.mkdir(), theirs.mkdir(), (home / "cleared" / ".notes.partial").write_text("mine")
    evaluate(home, "cleared")
    assert not ours.exists() and theirs.is_dir() and (home / "cleared" / ".notes.partial").read_text() == "mine"


@pytest.mark.parametrize(
    ("npz", "told"),
    [
        ("first/results.jsonl", "are the same file; give each a name of its own"),
        ("first/../first/settings.json", "are the same file"),
        ("first/classifier.safetensors", "are the same file"),
        ("reference.npz", "are the same file"),
        ("first/batch-000001.npz", "is a file of the evaluation's own; give --npz another name"),
        ("pipe", "it is a pipe; give a file's name"),
    ],
)
def test_an_npz_that_would_replace_another_file_is_refused_before_any_work(npz, told, home, monkeypatch):
    monkeypatch.setattr("dit_lab.commands.evaluate.load", lambda *_, **__: pytest.fail("something was loaded"))
    shutil.copy(home / "first.npz", home / "reference.npz")
    if not (home / "pipe").exists():
        os.mkfifo(home / "pipe")
    before = contents(home / "first")
    with pytest.raises((ValueError, OSError), match=told):
        evaluate(home, "first", Judging(data="digits", reference=home / "reference.npz"), npz=home / npz)
    assert contents(home / "first") == before


@pytest.mark.parametrize(
    ("changes", "codec", "sampling", "told"),
    [
        (dict(num_classes=3), "pixels", {}, "the model has 3 classes, the data 10"),
        (dict(num_classes=0), "pixels", {}, "has no classes, so it cannot be guided"),
        ({}, None, {}, "not a preview of latents. No VAE"),
        ({}, "pixels", dict(cfg_channels=5), "cfg_channels must be"),
        ({}, "pixels", dict(steps=5000), "steps"),
        ({}, "pixels", dict(shift=3.0), "a shift is for flow matching"),
        ({}, "pixels", dict(steps=(900, 300), karras=True), "these steps are timesteps of their own"),
        ({}, "pixels", dict(guidance_rescale=7.0), "the share of guidance to rescale must be a number from 0 to 1"),
    ],
)
def test_models_and_samplings_that_do_not_fit_are_refused(tmp_path, changes, codec, sampling, told):
    shape = dict(in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2) | changes
    save(tmp_path / "model", stirred("DiT-nano/4", **shape), codec_hint=codec)
    with pytest.raises(ValueError, match=told):
        evaluate_command(str(tmp_path / "model"), Sampling(**FEW | sampling), DIGITS, out=tmp_path / "out")


def test_a_quality_is_written_down_as_its_sampler_and_steps_and_refused_beside_others(home):
    few = Sampling(**{name: value for name, value in FEW.items() if name != "steps"})
    result = evaluate_command(str(home / "model"), few, DIGITS, out=home / "draft", quality="draft", device="cpu")
    assert result["samples"].items() >= QUALITIES["draft"].items()
    for given in dict(steps=2), dict(sampler="ddim"), dict(steps=50), dict(sampler="ddim", steps=50):
        with pytest.raises(ValueError, match="leave out either it or them"):
            both = replace(few, **given)
            evaluate_command(str(home / "model"), both, DIGITS, out=home / "both", quality="draft", device="cpu")
    assert not list(home.glob("both/*"))


def test_a_quality_beside_the_sampler_and_steps_that_would_be_taken_anyway_is_refused_too(home, command):
    same = ["--quality", "draft", "--sampler", "ddim", "--steps", 50, "--device", "cpu", "--out", home / "anyway"]
    code, _, complaint = command("evaluate", home / "model", "--data", "digits", *same)
    assert code == 2 and "leave out either it or them" in complaint


def test_without_a_quality_fifty_steps_of_ddim_are_taken_and_written_down(home):
    result = evaluate(home, "fifty", count=1, batch_size=1, cfg_scale=1.0, steps=None)
    for kept in result["samples"], json.loads((home / "fifty" / "settings.json").read_text()):
        assert kept.items() >= dict(sampler="ddim", steps=50).items()
    plain, given = Sampling(), Sampling(sampler="heun", steps=(900, 300))
    assert plain.settled() == Sampling(sampler="ddim", steps=50) and given.settled() == given
    options = plain.options(Diffusion.named())
    assert options.items() >= dict(sampler="ddim", steps=50).items() and "count" not in options


def test_timesteps_of_ones_own_draw_samples_that_are_written_down_and_gone_on_with(home):
    result = evaluate(home, "timesteps", steps=(900, 300))
    assert result["samples"]["steps"] in ((900, 300), [900, 300]) and lines(home / "timesteps")[0]["samples"][
        "steps"
    ] == [900, 300]
    before = contents(home / "timesteps")
    evaluate(home, "timesteps", steps=[900, 300])
    assert all(contents(home / "timesteps")[name] == file for name, file in before.items() if name.startswith("batch"))
    with pytest.raises(ValueError, match="has samples of"):
        evaluate(home, "timesteps", steps=(900, 301))


def test_a_model_without_classes_is_evaluated_without_guidance_and_agreement(home):
    model = stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=0, depth=1, dim=16, heads=2)
    save(home / "classless", model, codec_hint="pixels")
    result = evaluate(home, "unlabelled", model="classless", cfg_scale=1.0)
    assert "frechet" in result["figures"] and "agreement" not in result["figures"]


def test_a_model_that_makes_nan_is_told_and_no_batch_is_kept(home, monkeypatch):
    monkeypatch.setattr(samples, "generate", lambda *_, **__: torch.full((30, 1, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="batch 0 holds NaN or Inf"):
        evaluate(home, "nan")
    assert not list((home / "nan").glob("batch-*"))


class Trap:
    """Unpickled, it leaves a trace."""

    def __reduce__(self):
        return open, ("trace", "w")


def test_npz_files_that_are_none_are_refused_in_one_sentence_and_nothing_in_them_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez("pickled.npz", arr_0=np.array([Trap()], dtype=object))
    np.save("single.npy", pictures)
    np.savez("floats.npz", arr_0=pictures / 255)
    np.savez("grey.npz", arr_0=pictures[..., 0])
    np.savez("names.npz", pictures=pictures)
    np.savez("mu.npz", mu=np.zeros(3), sigma=np.eye(2))
    np.savez("nan.npz", mu=np.zeros(2), sigma=np.eye(2) * np.nan)
    np.savez("whole.npz", arr_0=pictures)
    whole = Path("whole.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    Path("text.npz").write_text("no zip")
    told = {
        "pickled.npz": "no readable", "single.npy": "single array", "floats.npz": "uint8 of n x h x w x 3, not float64",
        "grey.npz": "uint8 of 2 x 4 x 4", "names.npz": "neither pictures", "mu.npz": "a covariance of d x d",
        "nan.npz": "NaN or Inf", "cut.npz": "no readable", "text.npz": "no readable", "nosuch.npz": "no file",
    }  # fmt: skip
    for name, sentence in told.items():
        with pytest.raises(ValueError, match=sentence) as error:
            adm.read(name)
        assert "\n" not in str(error.value) and name in str(error.value)
    assert not os.path.exists("trace")
    assert np.array_equal(adm.read("whole.npz")["arr_0"], pictures)


def test_the_command_prints_the_figures_and_refuses_in_one_sentence(home, command):
    shutil.copytree(home / "first", home / "printed")
    same = ["--count", 140, "--batch-size", 30, "--steps", 2, "--cfg-scale", 1.5, "--device", "cpu"]
    code, said, _ = command("evaluate", home / "model", "--data", "digits", *same, "--out", home / "printed")
    assert code == 0 and "frechet" in said and "count 140" in said and str(home / "printed") in said
    code, _, complaint = command("evaluate", home / "model", *same, "--out", home / "printed")
    assert code == 2 and complaint.count("\n") == 1 and "--data" in complaint
    code, _, complaint = command("evaluate", home / "model", "--data", "digits", "--features", "clip")
    assert code == 2 and "clip" in complaint


def test_steps_of_ones_own_are_not_spaced_anew_and_a_walk_of_them_that_begins_late_is_said_aloud(home, command):
    (home / "late").mkdir()
    shutil.copy(home / KEPT, home / "late")
    asked = ["evaluate", home / "model", "--data", "digits", "--steps", 300, 100, "--count", 20, "--device", "cpu"]
    asked += ["--precision", "fp32", "--out", home / "late"]
    code, _, complaint = command(*asked, "--karras")
    assert code == 2 and "these steps are timesteps of their own" in complaint and complaint.count("\n") == 1
    code, _, told = command(*asked)
    assert code == 0 and "dit_lab: the walk begins at t = 300 with noise alone" in told
