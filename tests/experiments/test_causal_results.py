"""The experiment of causes end to end, tiny, and the page that ships: told from its own numbers."""

import json
from pathlib import Path

import pytest
import torch
from shared import ROOT

from dit_lab.experiments import causal
from dit_lab.experiments.causal import causal_command, page, pieces, verdict

SHIPPED = ROOT / "docs" / "results" / "causal.json"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Every question asked of one model, with one noise."""
    results = tmp_path_factory.mktemp("causal") / "results" / "causal.json"
    with pytest.MonkeyPatch.context() as patch:
        first = {question: (ask, models[:1]) for question, (ask, models) in causal.QUESTIONS.items()}
        patch.setattr(causal, "QUESTIONS", first)
        causal_command(seeds=(1,), steps=3, controls=2, results=results)
    return results


def test_every_question_is_asked_with_every_noise_and_told(done):
    rows = json.loads(done.read_text())["rows"]
    assert [(row["question"], row["seed"]) for row in rows] == [(question, 1) for question in causal.QUESTIONS]
    text = done.with_suffix(".md").read_text()
    assert text.count("\n## ") == 4 and text.count("held") + text.count("failed") == 3
    for name in ("causal.png", "causal_seven.png"):
        assert done.with_name(name).read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_not_asked_again_and_what_lacks_is(done, monkeypatch):
    asked = []
    none = lambda model, seed, steps, controls: asked.append(seed) or dict(untouched=1.0, off=[1.0, 1.0, 2.0])
    monkeypatch.setattr(causal, "QUESTIONS", {"strokes": (none, ("mnist",))})
    before = done.read_text()
    causal_command(seeds=(1,), steps=3, controls=2, results=done)
    assert asked == [] and done.read_text() == before
    table = json.loads(before)
    done.write_text(json.dumps(table | {"rows": table["rows"][:-1]}))
    causal_command(seeds=(1,), steps=3, controls=2, results=done)
    assert asked == [1]
    done.write_text(before)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "was made with another steps; give --results another name"),
        ("{", "holds no results of this; give --results another name"),
        ('{"settings": {}, "rows": [3]}', "holds no results of this"),
        ('{"settings": {}, "rows": [{"question": "strokes"}]}', "holds no results of this"),
    ],
)
def test_results_made_otherwise_or_that_are_none_are_refused_and_stay(done, tmp_path, text, told):
    results = tmp_path / "causal.json"
    results.write_text(text or done.read_text())
    before = results.read_text()
    with pytest.raises(ValueError, match=told):
        causal_command(seeds=(1,), steps=4, controls=2, results=results)
    assert results.read_text() == before and list(tmp_path.iterdir()) == [results]


def test_pieces_are_counted_with_corners_touching():
    x = -torch.ones(2, 1, 6, 6)
    x[0, 0, [0, 1, 4], [0, 1, 4]] = 1  # two that touch at a corner, and one apart
    x[1, 0, 2:4, 2:4] = 1
    assert pieces(x) == 1.5


def test_held_is_first_in_every_block_with_every_noise():
    run = lambda *ranks: dict(moved=[0.4, 0.2], controls=[0.1, 0.1], rank=list(ranks))
    assert verdict([run(1, 1), run(1, 1)]) == "4.0 2.0 | 4 of 4 | held"
    assert verdict([run(1, 1), run(2, 1)]) == "4.0 2.0 | 3 of 4 | failed"


def test_the_page_that_ships_tells_the_numbers_that_ship():
    assert page(json.loads(SHIPPED.read_text())) in SHIPPED.with_suffix(".md").read_text()
    asked = {(row["question"], row["model"], row["seed"]) for row in json.loads(SHIPPED.read_text())["rows"]}
    assert asked == {
        (name, m, seed) for name, (_, models) in causal.QUESTIONS.items() for m in models for seed in (1, 2, 3)
    }


def test_a_place_where_nothing_can_be_written_is_said_before_any_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, told = command("experiment", "causal", "--results", tmp_path / "file" / "causal.json")
    assert code == 2 and not out and told.count("\n") == 1 and str(Path(tmp_path / "file")) in told
