"""What is kept of the reader's way: checks passed, guesses before answers, in a file that never stops anything."""

import json
import os

import pytest
import torch

from dit_lab.course import EXERCISES, NOTEBOOKS, check, passed, predict, progress, reveal

RIGHT = EXERCISES["velocity"].solution


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """The file of the record, a new one for each test."""
    monkeypatch.setenv("DIT_LAB_COURSE", str(tmp_path / "mine" / "course.json"))
    monkeypatch.setattr(progress, "REMEMBERED", {})
    return tmp_path / "mine" / "course.json"


def forget(monkeypatch):
    """Go on as another process would."""
    monkeypatch.setattr(progress, "REMEMBERED", {})


def test_what_has_passed_is_kept_and_shown_by_notebook(record, monkeypatch, capsys):
    check.velocity(RIGHT)
    check.guided(EXERCISES["guided"].solution)
    forget(monkeypatch)
    assert passed() == {"velocity", "guided"} and json.loads(record.read_text())["passed"] == ["velocity", "guided"]
    capsys.readouterr()
    check.progress()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["in", "all", "2", "of", "35"]
    (sampling,) = [line for line in lines if line.startswith(" 6 sampling")]
    assert "1 of 4" in sampling and sampling.endswith("left: predicted_x0, ddim_step, posterior_mean")
    assert len(lines) == len({exercise.notebook for exercise in EXERCISES.values()}) + 1 <= len(NOTEBOOKS)


def test_a_wrong_answer_leaves_no_trace(record):
    with pytest.raises(check.Wrong):
        check.velocity(lambda x0, eps: x0)
    assert passed() == set() and not record.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"passed": 3}', b'{"passed": [1], "guesses": {}, "shown": []}', b"\xff\xfe", b"9" * 5000],
)
def test_a_broken_file_is_as_good_as_none(record, content, capsys):
    record.parent.mkdir()
    record.write_bytes(content)
    check.progress()
    assert "0 of 35" in capsys.readouterr().out
    check.velocity(RIGHT)
    assert json.loads(record.read_text())["passed"] == ["velocity"]


def test_what_cannot_be_written_is_remembered_in_this_session(record, capsys):
    record.mkdir(parents=True)  # a folder where the file should be
    check.velocity(RIGHT)
    predict("tokens", 16)
    assert passed() == {"velocity"}
    reveal("tokens", 16)
    assert "You said 16; it is 16." in capsys.readouterr().out and record.is_dir()


def test_a_file_in_the_way_of_the_folder_stops_nothing(record):
    record.parent.write_text("a file")
    check.velocity(RIGHT)
    assert passed() == {"velocity"} and record.parent.read_text() == "a file"


def test_a_read_only_file_stays_what_it_is(record, monkeypatch):
    check.velocity(RIGHT)
    record.chmod(0o444)
    forget(monkeypatch)
    check.guided(EXERCISES["guided"].solution)
    assert passed() == {"velocity", "guided"} and json.loads(record.read_text())["passed"] == ["velocity"]


def test_two_notebooks_do_not_forget_for_each_other(record, monkeypatch):
    check.velocity(RIGHT)
    forget(monkeypatch)
    check.guided(EXERCISES["guided"].solution)
    assert json.loads(record.read_text())["passed"] == ["velocity", "guided"]


def test_the_record_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("DIT_LAB_COURSE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    places = {}
    for system in ("linux", "darwin", "win32"):
        monkeypatch.setattr("sys.platform", system)
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        places[system] = progress.place().relative_to(tmp_path).as_posix()
    assert places == {
        "linux": ".cache/dit_lab/course.json",
        "darwin": "Library/Caches/dit_lab/course.json",
        "win32": "local/dit_lab/course.json",
    }
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert progress.place() == tmp_path / "xdg" / "dit_lab" / "course.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert progress.place() == tmp_path / ".cache" / "dit_lab" / "course.json"
    monkeypatch.setenv("DIT_LAB_COURSE", "~/mine.json")
    assert progress.place() == tmp_path / "mine.json"


def test_hints_come_one_at_a_time_and_the_last_says_so(monkeypatch, capsys):
    monkeypatch.setattr(check, "hinted", type(check.hinted)(int))
    hints = EXERCISES["patchify"].hints
    for number in range(len(hints) + 1):
        check.hint("patchify")
        shown = capsys.readouterr().out
        at = min(number, len(hints) - 1)
        assert shown.startswith(f"Hint {at + 1} of {len(hints)}: {hints[at]}")
        assert ("That was the last" in shown) == (number >= len(hints) - 1)


def test_an_unknown_name_is_met_with_the_nearest():
    for ask in (lambda: check.patchfy, lambda: check.hint("patchfy"), lambda: check.solution("patchfy")):
        with pytest.raises(
            (AttributeError, ValueError), match="there is no exercise 'patchfy'; did you mean patchify?"
        ):
            ask()
    assert {*EXERCISES, "hint", "solution", "progress", "Wrong"} <= {*dir(check)}
    assert "(q: b head i e" in check.attend.__doc__ and not hasattr(check, "_repr_html_")


@pytest.mark.parametrize(
    ("guess", "truth", "line"),
    [
        (3, 5, "You said 3; it is 5."),
        (0.5, torch.tensor(0.123456), "You said 0.5; it is 0.123."),
        ("the left one", "the right one", "You said the left one; it is the right one."),
        ("don't know", 5, "You passed; it is 5."),
        (True, False, "You said yes; it is no."),
        (1e9, 2, "You said 1e+09; it is 2."),
        ("short", "a long answer " * 9, f"You said short. It is:\n{('a long answer ' * 9).strip()}"),
    ],
)
def test_an_answer_is_shown_beside_the_guess(guess, truth, line, capsys):
    predict("question", guess)
    assert str(truth) not in (noted := capsys.readouterr().out) and noted.startswith("Noted: ")
    reveal("question", truth)
    assert capsys.readouterr().out.strip() == line


def test_without_a_guess_nothing_is_revealed_nor_even_computed(capsys):
    reveal("question", 1234)
    reveal("question", lambda: pytest.fail("drawn"))
    shown = capsys.readouterr().out
    assert "1234" not in shown and 'predict("question", "don\'t know")' in shown
    for none in (..., None, "", "  "):
        predict("question", none)
    assert capsys.readouterr().out.count("No guess yet") == 4
    reveal("question", 1234)
    assert "1234" not in capsys.readouterr().out


def test_a_function_is_called_at_the_reveal(capsys):
    predict("question", "a curve")
    reveal("question", lambda: print("drawn"))
    assert capsys.readouterr().out.splitlines() == ["Noted: a curve.", "drawn", "You said a curve."]


def test_a_guess_may_be_changed_before_the_answer_and_not_after(monkeypatch, capsys):
    predict("question", 1)
    predict("question", 2)
    reveal("question", 3)
    forget(monkeypatch)
    predict("question", 3)
    predict("question", 2)
    reveal("question", 3)
    assert capsys.readouterr().out.splitlines() == [
        "Noted: 1.",
        "Noted: 2.",
        "You said 2; it is 3.",
        "Before the answer was shown you said 2: that stays.",
        "Noted: 2.",
        "You said 2; it is 3.",
    ]


def test_a_notebook_shows_the_message_alone(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from dit_lab.course import check")
    shell.run_cell("check.velocity(lambda x0, eps: x0 - eps)")
    shown = capsys.readouterr()
    shown = shown.out + shown.err
    mistake = EXERCISES["velocity"].mistakes[0].told
    assert " ".join(shown.split()) == f"Wrong: {mistake}" and max(map(len, shown.splitlines())) <= 100
    InteractiveShell.clear_instance()


def test_a_stubs_dots_are_found_in_a_notebooks_cell(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from dit_lab.course import check\nfrom einops import rearrange")
    shell.run_cell("def patchify(x, patch):\n    return rearrange(x, ...)  # your line\ncheck.patchify(patchify)")
    assert "This is still the stub" in capsys.readouterr().out
    InteractiveShell.clear_instance()


def test_checks_leave_the_callers_random_numbers_alone():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    check.velocity(RIGHT)
    assert torch.equal(torch.rand(3), wanted)


def test_nothing_is_left_half_written(record):
    check.velocity(RIGHT)
    assert os.listdir(record.parent) == ["course.json"]
