"""What a bench is asked for: an option that its kind has no use for is refused in one sentence, before any work."""

import inspect
import sys
from typing import get_args

import pytest

from dit_lab.commands import bench
from dit_lab.commands.bench import bench_command, options
from dit_lab.commands.bench.options import TAKES

ANY = {
    "models": ("DiT-nano/8",), "batch": 2, "rounds": 3, "clients": 1, "seconds": 1.0, "original": None, "compile": True,
}  # fmt: skip
IDLE = [(what, name) for what, taken in TAKES.items() for name in ANY if name not in taken]


@pytest.fixture
def no_work(monkeypatch):
    """A bench that would begin fails."""

    def begins(*_, **__):
        raise AssertionError("work began")

    for name in ("bench_app", "bench_gpu", "bench_growth", "bench_load", "bench_look", "bench_run"):
        monkeypatch.setattr(bench, name, begins)
    monkeypatch.setattr(bench.Field, "measured", begins)


@pytest.fixture
def checkout(tmp_path):
    """A folder for the original's modules, none of which Python knows before or after."""
    forget = lambda: [sys.modules.pop(name, None) for name in ("models", "diffusion")]
    forget()
    yield tmp_path
    forget()


def refused(command, *arguments):
    """The sentence with which a bench of this command line is refused."""
    code, out, told = command("bench", *arguments)
    assert code == 2 and not out and told.count("\n") == 1 and "Traceback" not in told
    return told.removeprefix("dit_lab: ").rstrip()


def test_every_kind_and_every_option_is_in_the_table():
    assert {*TAKES} == {*get_args(bench.WHAT)}
    named = {*inspect.signature(bench_command).parameters} - {"what", "device", "out"}
    assert set().union(*TAKES.values()) == named == {*ANY}


@pytest.mark.parametrize(("what", "name"), IDLE)
def test_an_option_that_a_kind_has_no_use_for_is_refused(what, name, no_work, tmp_path):
    given = ANY | {"original": tmp_path}
    with pytest.raises(ValueError, match=rf"bench {what} takes no --{name}; it takes --.*, --device and --out$"):
        bench_command(what, **{name: given[name]})


def test_what_a_kind_takes_is_said_once_for_all_that_it_does_not(command, no_work):
    told = refused(command, "look", "--batch", "4", "--compile", "--rounds", "3")
    assert told == "bench look takes no --batch and no --compile; it takes --models, --rounds, --device and --out"


@pytest.mark.parametrize("what", [what for what, taken in TAKES.items() if "rounds" in taken])
def test_rounds_that_only_warm_up_are_refused(what, no_work):
    with pytest.raises(ValueError, match="at least 3 rounds, of which 2 warm up, not 2"):
        bench_command(what, rounds=2)


def test_an_empty_batch_is_refused(command, no_work):
    assert refused(command, "sample", "--batch", "0") == "a bench needs a batch of at least 1, not 0"
    assert refused(command, "sample", "--batch", "few").startswith("--batch takes a whole number, not 'few'.")


def test_rows_for_a_gpu_are_of_one_model(command, no_work):
    told = refused(command, "gpu", "--device", "cpu", "--models", "DiT-XL/2", "DiT-B/2")
    assert told == "bench gpu has time for one model, not for 2"


def test_every_model_named_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(bench, "bench_load", lambda name, *_: print(f"loads {name}") or [])
    bench_command("load", models=("DiT-nano/8", "DiT-nano/4"))
    assert capsys.readouterr().out.count("loads DiT-nano/") == 2


@pytest.mark.parametrize("asked", [(), ("--device", "auto")])
def test_rows_for_a_gpu_wait_for_nobodys_cpu(asked, command, monkeypatch, no_work):
    monkeypatch.setattr(options, "pick_device", lambda name: options.torch.device({"auto": "cpu"}[name]))
    assert refused(command, "gpu", *asked).startswith(
        "bench gpu is for a GPU, and there is none here; with --device cpu"
    )


def test_where_there_is_a_gpu_its_rows_are_measured_there(monkeypatch):
    monkeypatch.setattr(options, "pick_device", lambda name: options.torch.device({"auto": "cuda", "cpu": "cpu"}[name]))
    assert options.place_for("gpu", None).type == "cuda" and options.place_for("forward", None).type == "cpu"
    assert options.place_for("gpu", "cpu").type == "cpu"


@pytest.mark.parametrize(("there", "missing"), [([], "models"), (["models.py"], "diffusion")])
def test_an_original_that_is_none_is_refused_before_any_work(there, missing, command, no_work, checkout):
    for name in there:
        (checkout / name).write_text("")
    told = refused(command, "sample", "--original", checkout)
    assert told == f"{checkout} is no checkout of facebookresearch/DiT: it has no {missing}"


def test_an_original_without_what_it_needs_is_refused_before_any_work(command, no_work, checkout):
    (checkout / "models.py").write_text("import no_such_package")
    told = refused(command, "gpu", "--device", "cpu", "--original", checkout)
    assert "pip install no_such_package" in told


@pytest.mark.parametrize("kind", ["json", "md"])
def test_a_result_that_could_not_be_written_is_refused_before_any_work(kind, command, no_work, tmp_path):
    (tmp_path / f"bench-sample.{kind}").mkdir()
    assert f"could not write {tmp_path}/bench-sample.{kind}" in refused(command, "sample", "--out", tmp_path)


def test_nothing_is_timed_where_nothing_can_be_compiled(command, monkeypatch, no_work):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert refused(command, "sample", "--compile").startswith("--compile needs a C++ compiler")
