"""Few steps with other guidance than they were searched with: their errors, each taken once, in a table."""

import pytest
from shared import random_model

from dit_lab.checkpoints import load, save
from dit_lab.diffusion import generate
from dit_lab.diffusion.searching import SEED
from dit_lab.experiments import elsewhere
from dit_lab.experiments.elsewhere import errors, rows

WALK = [999, 500, 20]


@pytest.fixture
def table(tmp_path, monkeypatch):
    source = save(tmp_path / "model", random_model(), codec_hint="pixels")
    monkeypatch.setattr(elsewhere, "load", lambda name, device: load(source, device=device))
    monkeypatch.setattr(elsewhere, "NOISES", 2)
    monkeypatch.setattr(elsewhere, "REFERENCE", 9)
    found = [dict(model="tiny", sampler="unipc", steps=3, timesteps=WALK, error=0.1, even=0.2)]
    return {"settings": {"precision": "fp32"}, "searched": [*found, found[0] | {"steps": 10}]}


def test_an_error_is_that_of_the_walk_against_many_steps_from_the_same_noise(table):
    found = errors("tiny", table, "cpu")
    by = {(row["way"], row["cfg_scale"]): row["error"] for row in found}
    assert set(by) == {
        (way, scale)
        for way in ("unipc 3, searched", "unipc 6", "unipc 10", "dpmpp 14", "ddim 50")
        for scale in (1.0, 2.0, 4.0)
    }
    draw = lambda steps: generate(random_model(), [0, 1], sampler="unipc", steps=steps, seed=SEED + 1, cfg_scale=4.0)
    few, many = draw(WALK), draw(9)
    assert by["unipc 3, searched", 4.0] == pytest.approx(((few - many).norm() / many.norm()).item(), rel=1e-4)


def test_what_is_there_is_not_taken_again_and_a_table_has_a_column_a_scale(table, monkeypatch):
    assert rows("tiny", table) == []
    table["errors"] = errors("tiny", table, "cpu")
    monkeypatch.setattr(elsewhere, "generate", lambda *_, **__: pytest.fail("something was drawn"))
    assert errors("tiny", table, "cpu") == []
    told = rows("tiny", table)
    assert "| way | guidance 1 | guidance 2 | guidance 4 |" in told and len(told) == 2 + 2 + 5 + 1
