"""Going on from a checkpoint: what is carried over to other classes and sizes, and what is told and refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shared import random_model, random_udit

from dit_lab.checkpoints import load, save
from dit_lab.commands.train import train_command
from dit_lab.data import Images, open_data
from dit_lab.models.layers import position_table
from dit_lab.program import run
from dit_lab.training import adapted

LETTERS = ["a", "b", "c", "d", "e"]


def pictures(names, size=(8, 12), channels=3):
    return Images(np.zeros((6, channels, *size), np.uint8), np.zeros(6, np.int64), names)


@pytest.fixture
def kept(tmp_path):
    """A DiT with random weights and five named classes, saved and loaded."""
    return load(save(tmp_path / "dit", random_model(), labels=LETTERS, codec_hint="pixels"))


def test_a_model_for_the_same_data_is_carried_over_whole(kept):
    model, changes = adapted(kept, pictures(LETTERS))
    assert model.config == kept.config and not changes
    tensors = kept.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_classes_keep_their_rows_by_name_and_the_null_label_its_own(kept):
    model, changes = adapted(kept, pictures(["e", "new", "b"]))
    before, now = (m.label_embedding.weight for m in (kept.model, model))
    assert torch.equal(now[[0, 2, 3]], before[[4, 1, 5]])
    assert not any(torch.equal(now[1], row) for row in before)
    assert changes == ["label table: 5 classes before, 3 now; 2 keep their row by name, 1 start at random"]
    blocks = kept.model.blocks.state_dict()
    assert all(torch.equal(tensor, blocks[name]) for name, tensor in model.blocks.state_dict().items())


def test_a_model_with_classes_goes_on_without_and_the_other_way_round(kept, tmp_path):
    model, _ = adapted(kept, pictures([]))
    assert torch.equal(model.label_embedding.weight, kept.model.label_embedding.weight[5:])
    without = load(save(tmp_path / "without", model, codec_hint="pixels"))
    back, changes = adapted(without, pictures(LETTERS))
    assert torch.equal(back.label_embedding.weight[5], kept.model.label_embedding.weight[5])
    assert changes == ["label table: 0 classes before, 5 now; 0 keep their row by name, 5 start at random"]


def test_another_size_gets_its_own_position_table(kept):
    model, changes = adapted(kept, pictures(LETTERS, (16, 8)))
    assert torch.equal(model.positions, position_table(kept.config.dim, 4, 2))
    assert changes == ["input size: 8 x 12 before, 16 x 8 now; position tables are computed for it"]
    x, t, y = torch.randn(1, 3, 16, 8), torch.tensor([5]), torch.tensor([1])
    assert torch.allclose(model(x, t, y), kept.model(x, t, y), atol=1e-5)


def test_every_width_of_a_udit_gets_its_label_table(tmp_path):
    kept = load(save(tmp_path / "udit", random_udit(), labels=LETTERS, codec_hint="pixels"))
    model, _ = adapted(kept, pictures(["c"], (16, 16)))
    for before, now in zip(kept.model.conditions, model.conditions, strict=True):
        assert torch.equal(now.label_embedding.weight, before.label_embedding.weight[[2, 5]])


def test_other_channels_and_other_vaes_are_refused(kept):
    with pytest.raises(ValueError, match="takes 3 channels, the data has 1"):
        adapted(kept, pictures(LETTERS, channels=1))
    latents = replace(kept, codec_hint="stabilityai/sd-vae-ft-ema")
    with pytest.raises(ValueError, match="stabilityai/sd-vae-ft-ema makes of pictures, the data is made by pixels"):
        adapted(latents, pictures(LETTERS))


def test_the_command_goes_on_from_a_checkpoint_and_says_what_changed(tmp_path, capsys):
    model = random_model(input_size=8, in_channels=1, num_classes=3)
    start = save(tmp_path / "start", model, labels=["0", "1", "x"], codec_hint="pixels")
    arguments = ["--init", str(start), "--out", str(tmp_path / "run"), "--steps", "1", "--batch-size", "4"]
    run(train_command, "dit_lab train", [*arguments, "--lr", "1e-9", "--ema-decay", "0"])
    assert "2 keep their row by name, 8 start at random" in capsys.readouterr().err
    tuned = load(tmp_path / "run")
    assert tuned.labels == open_data("digits").names
    assert torch.allclose(tuned.model.label_embedding.weight[:2], model.label_embedding.weight[:2], atol=1e-6)


def test_a_model_and_a_checkpoint_at_once_are_refused(tmp_path, capsys):
    arguments = ["--init", "mnist", "--preset", "DiT-nano/4", "--depth", "2", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        run(train_command, "dit_lab train", arguments)
    assert "--init brings its own model; leave out --preset, --depth" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
