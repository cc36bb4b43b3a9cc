"""What a run at its end is told when it is resumed, and that what it is advised to do is done."""

import pytest

PACE = ["--data", "digits", "--device", "cpu", "--batch-size", 4]
SMALL = {
    "train": ["--preset", "DiT-nano/4", "--depth", 1, "--dim", 16, "--heads", 2, "--precision", "fp32"],
    "train-vae": ["--width", 8],
}


@pytest.mark.parametrize("program", ["train", "train-vae"])
@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
def test_the_advice_to_a_run_at_its_end_is_true(program, decay, command, tmp_path):
    given = [program, *PACE, *SMALL[program], "--lr-decay", decay, "--out", tmp_path / "run"]
    assert command(*given, "--steps", 1)[0] == 0
    code, _, said = command(*given, "--steps", 1, "--resume")
    assert code == 0 and "dit_lab: this run has all its steps already" in said
    more = command(*given, "--steps", 2, "--resume")
    if decay == "constant":
        assert "already; ask for more with --steps\n" in said and more[0] == 0
    else:
        assert f"already, over which its learning rate fell ({decay}), so it takes no more; train on from its" in said
        assert more[0] == 2 and f"lr_decay {decay}-over-1-steps (now {decay}-over-2-steps)" in more[2]
        other = [program, *PACE, "--init", tmp_path / "run", "--out", tmp_path / "other", "--steps", 1]
        assert "--init, into another --out\n" in said and command(*other)[0] == 0
