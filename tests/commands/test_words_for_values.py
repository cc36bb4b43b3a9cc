"""What a mistyped value is told to be, where None is one too."""

import pytest


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--clip", "none"], "--clip takes a number or None, not 'none'."),
        (["--min-snr", "none"], "--min-snr takes a number, not 'none'."),  # None is what it is anyway
        (["--lr", "none"], "--lr takes a number, not 'none'."),
    ],
)
def test_none_is_named_where_it_is_a_value_and_not_the_usual_one(given, told, command, tmp_path):
    code, _, said = command("train", "--out", tmp_path / "run", *given)
    assert code == 2 and f"dit_lab: {told} " in said
    if "or None" in told:
        code, _, said = command("train", "--out", tmp_path / "run", "--clip", "None", "--data", tmp_path / "nowhere")
        assert code == 2 and "--clip" not in said
