"""A program's refusals: short, on one line, nothing beside them, with advice that fits, and no traceback."""

import os
import signal
import subprocess
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared import ROOT

from dit_lab.commands import cli
from dit_lab.program import LESS, one_line, quoted, refusing, run, stop

PROGRAMS = {
    "app.py": ("app", "app"),
    "dit_lab.zoo.check": ("dit_lab.zoo.check", "check"),
    "dit_lab.zoo.judge": ("dit_lab.zoo.judge", "judge_command"),
    "dit_lab.zoo.vae": ("dit_lab.zoo.vae", "vae_command"),
}


def commands(prefix: str, found: dict):
    """(program, module, function) of every command, those of groups too."""
    for name, command in found.items():
        if isinstance(command, cli.Group):
            yield from commands(f"{prefix} {name}", command.commands)
        elif name != "course":  # it prints a list: nothing in it could be made smaller
            yield f"{prefix} {name}", f"dit_lab.{command.module}", command.function


EVERY = [*commands("dit_lab", cli.COMMANDS), *((name, *place) for name, place in PROGRAMS.items())]


@pytest.fixture
def ended(capsys):
    """Run a function as a program; returns its exit code and what it complained."""

    def call(function, name="dit_lab train"):
        with pytest.raises(SystemExit) as left:
            run(function, name, [])
        return left.value.code, capsys.readouterr().err

    return call


def raising(error):
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    "text",
    ["a\nb\r\n\tc", "\x1b[31mred\x1b[0m \x07", "\x00\x7f\x85\u2028\u202e\ud800", "a" * 10**6, "\n" * 10**6],
    ids=["lines", "codes", "unprintable", "long", "line ends"],
)
def test_a_sentence_is_one_short_line_of_letters(text, ended):
    code, said = ended(raising(ValueError(f"{text}; take another")))
    assert code == 2 and said.endswith("; take another\n") and said.count("\n") == 1
    line = said.removeprefix("dit_lab: ").removesuffix("\n")
    assert line.isprintable() and len(line) <= 300


def test_what_fits_is_left_as_it_is_and_what_does_not_keeps_both_ends():
    assert one_line("a" * 300) == "a" * 300 and one_line("ä 'quoted'") == "ä 'quoted'"
    cut = one_line("where" + "a" * 300 + "what to do")
    assert len(cut) == 300 and cut.startswith("wherea") and cut.endswith("awhat to do") and " ... " in cut


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, "\x1b[2J\n" * 99, 10**5000, [[[[[[1]]]]]] * 10**6, {"a": "b" * 10**6}],
    ids=["letters", "codes", "digits", "lists", "a value"],
)
def test_a_quoted_value_is_short_and_printable_whatever_it_is(value):
    assert len(quoted(value)) <= 80 and quoted(value).isprintable()


def test_a_nested_value_is_quoted_without_being_spelt():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert quoted(deep) == "[[[[...]]]]"
    wide = []
    for _ in range(60):
        wide = [wide] * 2  # 2**60 lists, were they spelt
    assert len(quoted(wide)) <= 80


def warned_then_refused() -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).resize((9, 9))
    read_only = np.zeros(3)
    read_only.setflags(write=False)
    torch.from_numpy(read_only)  # PyTorch: the given NumPy array is not writable
    warnings.warn("Image size exceeds the limit", Image.DecompressionBombWarning, stacklevel=1)
    raise ValueError("these are no pictures")


def test_no_warning_stands_beside_a_refusal(ended):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert ended(warned_then_refused) == (2, "dit_lab: these are no pictures\n")


def test_nor_that_of_a_picture_too_large_for_pil(ended, tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # it warns from here on, and refuses what is twice as large

    def look() -> None:
        Image.open(tmp_path / "a.png")
        raise OSError("broken")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert ended(look) == (2, "dit_lab: broken\n")


def test_a_warning_is_shown_after_a_program_that_ends_well(capsys):
    def function() -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        print("shown", file=sys.stderr)

    with pytest.warns(DeprecationWarning, match="old"):
        run(function, "dit_lab train", [])
    assert capsys.readouterr().err == "shown\n"


def test_and_before_a_fault_of_ours():
    def function() -> None:
        warnings.warn("a trace to the fault", stacklevel=1)
        raise RuntimeError("shapes do not fit")

    with pytest.warns(UserWarning, match="a trace"), pytest.raises(RuntimeError, match="shapes"):
        run(function, "dit_lab train", [])


def test_with_pythons_own_switch_warnings_come_as_they_are_raised(ended, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with pytest.warns(Image.DecompressionBombWarning):
        assert ended(warned_then_refused)[0] == 2


def test_every_program_has_its_own_advice_when_memory_runs_out():
    assert LESS.keys() == {name for name, *_ in EVERY}


@pytest.mark.parametrize(("name", "module", "function"), EVERY, ids=[name for name, *_ in EVERY])
def test_the_advice_names_options_that_the_program_has(name, module, function, capsys, ended):
    with pytest.raises(SystemExit) as left:
        run(getattr(import_module(module), function), name, ["--help"])
    shown, advice = capsys.readouterr().out, LESS[name]
    named = [word.strip(",().;") for word in advice.split() if word.startswith(("--", "(--"))]
    assert (
        left.value.code == 0 and [word for word in named if f"{word} " not in shown and f"{word}," not in shown] == []
    )
    assert ended(raising(MemoryError()), name) == (1, f"dit_lab: out of memory; {advice}\n")


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be ...",
        "Found no NVIDIA driver on your system.",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "The MPS backend is supported on MacOS 14.0+.",
    ],
)
def test_a_device_that_fails_is_a_sentence(words, ended):
    code, said = ended(raising(RuntimeError(words)))
    first = words.partition("\n")[0]
    assert code == 1 and said == f"dit_lab: the device failed ('{first}'); another one, such as --device cpu, may do\n"


def test_a_fault_of_ours_keeps_its_traceback():
    for error in RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"), KeyError("a"):
        with pytest.raises(type(error)):
            run(raising(error), "dit_lab train", [])


def test_a_compiler_that_fails_is_a_sentence(ended):
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    error = InductorError(InvalidCxxCompiler(), None)
    code, said = ended(raising(error))
    assert code == 2 and said.count("\n") == 1 and len(said) < 310
    assert 'compiling failed ("InvalidCxxCompiler' in said and "g++" in said and "--compile no" in said


def needs_sklearn() -> None:
    import sklearn  # noqa: F401


def test_a_missing_package_is_named_as_pip_knows_it(ended, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "absent_package", None)
    code, said = ended(needs_sklearn)
    assert code == 2 and "needs the package sklearn" in said and said.endswith("pip install scikit-learn\n")
    code, said = ended(lambda: import_module("absent_package.part"))
    assert code == 2 and said.endswith("pip install absent_package\n")


def test_a_package_that_does_not_fit_is_a_sentence_and_a_module_of_ours_a_fault(ended):
    code, said = ended(raising(ImportError("cannot import name 'x' from 'diffusers'\nlong story", name="diffusers")))
    assert code == 2 and '("cannot import name' in said and "story" not in said and "requirements.txt" in said
    with pytest.raises(ModuleNotFoundError):
        run(lambda: import_module("dit_lab.nowhere"), "dit_lab train", [])


def test_a_program_within_a_program_is_refused_once(capsys):
    with pytest.raises(SystemExit) as left, refusing("dit_lab"), refusing("dit_lab train"):
        stop("no", 2)
    assert left.value.code == 2 and capsys.readouterr().err == "dit_lab: no\n"


@pytest.mark.parametrize("words", ["--help", "count DiT-nano/4"])
def test_a_pipe_that_nobody_reads_ends_the_program_without_a_word(words):
    here, there = os.pipe()
    os.close(here)
    done = subprocess.run([sys.executable, "-m", "dit_lab", *words.split()], cwd=ROOT, stdout=there, stderr=-1)
    os.close(there)
    assert (done.returncode, done.stderr) == (141, b"")


AMID_AN_IMPORT = """
import os, signal
from dit_lab.program import run
def command() -> None:
    import slow
    print("went on")
run(command, "dit_lab train", [])
"""
# A library that takes Ctrl-C for a failure of its own, as NumPy does.
SLOW = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"


def attended():
    """In a new process: as in a terminal, where Ctrl-C is not ignored, as it is in a job of a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_amid_an_import_ends_the_program_there_and_then(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
    done = subprocess.run(
        [sys.executable, "-c", AMID_AN_IMPORT], env=env, capture_output=True, text=True, preexec_fn=attended
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "dit_lab: interrupted\n")


def test_ctrl_c_at_work_is_a_word_and_its_own_exit_code(ended):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert ended(lambda: signal.raise_signal(signal.SIGINT)) == (130, "dit_lab: interrupted\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux shows what a process has loaded")
@pytest.mark.parametrize("words", [["-m", "dit_lab", "train", "--out", "never"], ["app.py"]], ids=["train", "app"])
def test_ctrl_c_while_pytorch_is_imported_ends_without_a_traceback(words):
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=attended
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch_python" not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "dit_lab: interrupted\n") and not (ROOT / "never").exists()
