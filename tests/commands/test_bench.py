"""The bench: it times what it says, on two models of the same size, in turns."""

import json
import re

import pytest
import torch
from diffusers import DDIMScheduler
from shared import random_model, random_udit

from dit_lab.commands.bench import bench_command, report, sampling
from dit_lab.commands.bench import looking as inside
from dit_lab.commands.bench import timing as timings
from dit_lab.commands.bench.contestants import SCALE, diffusers_model, diffusers_step, original_model, ours
from dit_lab.commands.bench.loading import bench_load, most_memory, parts, read
from dit_lab.commands.bench.report import Line, compete, machine, note, table
from dit_lab.commands.bench.sampling import Entry, Field, bench_forward, bench_step, inputs, relative_error
from dit_lab.commands.bench.timing import peak, race, timing
from dit_lab.inside import record
from dit_lab.models import fast, preset

ALONE = torch.device("cpu")
DRAWN = "error of a sample of 10 guided steps, bf16 against fp32"
PEAKS = {torch.float32: 1e12, torch.bfloat16: 2e12}


@pytest.mark.parametrize("slow, sides", [(False, [512, 600]), (True, [512])])
def test_the_peak_is_that_of_large_products_unless_they_would_take_long(slow, sides, monkeypatch):
    seen = []

    def product(a, b):
        seen.append(len(a))
        return torch.zeros(1)

    monkeypatch.setitem(timings.SIDES, "cpu", 600)
    monkeypatch.setattr(timings, "LONG", 0.0 if slow else 60.0)
    monkeypatch.setattr(torch, "matmul", product)
    assert peak(ALONE, torch.float32, rounds=3) > 0
    assert seen == [side for side in sides for _ in range(3)]


def test_contestants_take_turns_and_warm_up_rounds_do_not_count():
    calls = []
    times = race({name: lambda name=name: calls.append(name) for name in ("theirs", "ours")}, 3, ALONE)
    assert calls == ["theirs", "ours"] * 3
    assert all(took.low == took.median == took.high for took in times.values())  # one turn counted


def test_the_spread_is_that_of_the_quartiles():
    assert timing([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)


def test_diffusers_network_with_our_weights_is_ours():
    model = ours(preset("DiT-nano/4"), ALONE)
    assert not any((parameter == 0).all() for parameter in model.parameters())
    x, t, y = inputs(model.config, 2, ALONE)
    with torch.no_grad():
        theirs = diffusers_model(model)(x, timestep=t, class_labels=y).sample
        assert relative_error(theirs, model(x, t, y)) < 1e-5


def test_a_guided_step_of_diffusers_is_ddims():
    """x_t to x_{t-1} by equation 12 of DDIM, from its network's two halves mixed."""
    model = ours(preset("DiT-nano/4"), ALONE)
    x, _, y = inputs(model.config, 2, ALONE)
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(50)
    time = scheduler.timesteps[20]
    t, null = torch.full((2,), int(time)), torch.full((2,), model.config.num_classes)
    with torch.no_grad():
        cond, uncond = (model(x, t, labels)[:, :4] for labels in (y, null))
        stepped = diffusers_step(diffusers_model(model), x, y)()
    a, b = scheduler.alphas_cumprod[time], scheduler.alphas_cumprod[time - 20]
    eps = uncond + SCALE * (cond - uncond)
    expected = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    assert relative_error(stepped, expected) < 1e-4


@pytest.mark.parametrize("what", ["forward", "sample"])
def test_a_bench_has_a_line_a_contestant_with_ratio_share_and_error(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "peak", lambda device, dtype: PEAKS[dtype])
    bench_command(what, models=("DiT-nano/8",), batch=1, rounds=3, out=tmp_path)
    told, kept = capsys.readouterr().out, json.loads((tmp_path / f"bench-{what}.json").read_text())
    lines = [line for line in kept["lines"] if line["work"].startswith("DiT-nano/8")]
    assert {line["who"] for line in lines} >= {"diffusers, fp32", "dit_lab, fp32", "dit_lab, fast, bf16"}
    known = {"machine", "rounds", "peak of float32 matrix products", "peak of bfloat16 matrix products"}
    assert {*kept["about"]} == known | ({DRAWN} if what == "sample" else set())
    assert all(f"{name}: {value}" in told for name, value in kept["about"].items())
    for line in lines:
        assert line["ratio"] == pytest.approx(lines[0]["median"] / line["median"])
        assert line["share"] > 0 and line["low"] <= line["median"] <= line["high"]
        assert line["error"] < (1e-5 if "fp32" in line["who"] else 0.02)
    page = (tmp_path / f"bench-{what}.md").read_text()
    assert page == table(what, kept["about"], [Line(**line) for line in kept["lines"]])
    assert page.count("\n| ") == len(kept["lines"]) + 2 * len({line["work"] for line in kept["lines"]})


@pytest.mark.parametrize("what", ["forward", "sample", "train"])
def test_where_bf16_is_the_slower_one_nobody_runs_in_it_and_the_page_says_so(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "peak", lambda device, dtype: PEAKS[torch.bfloat16] - PEAKS[dtype] + 1e12)
    monkeypatch.setattr(sampling, "relative_error", lambda x, exact: 0.0)
    monkeypatch.setattr(sampling, "preset", lambda name: preset("DiT-nano/8"))  # for U-DiT-S, which is large
    bench_command(what, models=("DiT-nano/8",), batch=1, rounds=3, out=tmp_path)
    kept = json.loads((tmp_path / f"bench-{what}.json").read_text())
    told = kept["about"].pop("contestants in bf16")
    assert told == "left out: this machine multiplies no faster in it than in fp32" and told in capsys.readouterr().out
    assert {line["who"] for line in kept["lines"]} >= {"diffusers, fp32", "dit_lab, fp32"}
    assert not [line for line in kept["lines"] if "bf16" in line["who"] + line["work"]]
    assert DRAWN not in kept["about"]


def test_a_forward_of_a_small_trained_model_is_timed_as_a_runs_steps_ask_for_it_with_its_error(tmp_path, monkeypatch):
    asked, faster = [], {torch.float32: 1e12, torch.bfloat16: 2e12}
    made = lambda model, *, compile=False, **how: asked.append(compile) or fast(model, **how)
    monkeypatch.setattr(sampling, "fast", made)
    monkeypatch.setattr(sampling, "peak", lambda device, dtype: faster[dtype])
    bench_command("forward", models=("mnist_adaln", "mnist_udit"), rounds=3, compile=True, out=tmp_path)
    lines = [Line(**line) for line in json.loads((tmp_path / "bench-forward.json").read_text())["lines"]]
    ours = ["dit_lab, fp32", *(f"dit_lab, fast, {how}" for how in ("fp32, compiled", "bf16, compiled", "bf16"))]
    found = {
        work: [line for line in lines if line.work == f"{work} forward, 2"] for work in ("mnist_adaln", "mnist_udit")
    }
    assert [line.who for line in found["mnist_adaln"]] == ours
    assert [line.who for line in found["mnist_udit"]] == [ours[0], "dit_lab, fast, fp32", *ours[1:]]
    assert len(lines) == 9 and asked == [True, True, False, False, True, True, False]
    assert all(line.share > 0 and line.error < (1e-5 if "fp32" in line.who else 0.01) for line in lines)
    assert all(line.error for line in lines if "bf16" in line.who)
    with pytest.raises(ValueError, match="there is no preset 'mnist'"):
        bench_command("sample", models=("mnist",))


def test_a_contestant_that_fails_says_why_and_the_others_go_on(capsys):
    def fails():
        raise RuntimeError("no such kernel")

    failed, works = compete("work", {"theirs": fails, "ours": lambda: None}, 3, ALONE)
    assert failed.why == "RuntimeError: no such kernel" and failed.median is None
    assert works.median is not None and works.ratio is None
    assert "no such kernel" in capsys.readouterr().out


def failing(*inputs, **options):
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize("bench", [bench_forward, bench_step])
@pytest.mark.parametrize("entry", [Entry(failing, lambda x, y: lambda: x), Entry(lambda x, t, y: x, failing)])
def test_one_that_fails_where_its_error_or_its_step_is_asked_for_is_left_out_alone(bench, entry, monkeypatch, capsys):
    fails = entry.ask is failing or bench is bench_step
    parties = {"theirs": lambda *_: {"theirs, fp32": entry}, "gone": failing, "dit_lab": sampling.our_party}
    monkeypatch.setattr(sampling, "PARTIES", parties)
    monkeypatch.setattr(sampling, "relative_error", lambda x, exact: 0.0)
    gone, theirs, *ours = bench("DiT-nano/8", 1, Field(ALONE, 3, None, False, PEAKS))
    assert (gone.who, gone.why, gone.median) == ("gone", "left out: no such kernel", None)
    assert theirs.who == "theirs, fp32" and theirs.why == ("RuntimeError: no such kernel" if fails else "")
    assert [line.who for line in ours] == ["dit_lab, fp32", "dit_lab, fast, bf16"] and all(line.median for line in ours)
    assert capsys.readouterr().out.count("no such kernel") == 1 + fails


def test_where_nobody_can_take_part_that_is_all_there_is(monkeypatch):
    monkeypatch.setattr(sampling, "PARTIES", {"gone": failing})
    (line,) = bench_forward("DiT-nano/8", 1, Field(ALONE, 3, None, False, PEAKS))
    assert line.why == "left out: no such kernel"


def test_a_sample_that_fails_is_noted_and_the_steps_that_were_timed_stay(monkeypatch):
    monkeypatch.setattr(sampling, "PARTIES", {"dit_lab": lambda model, *_: {"dit_lab, fp32": Entry(model, step_of)}})
    monkeypatch.setattr(sampling, "generate", failing)
    field = Field(ALONE, 3, None, False, PEAKS)
    (line,) = bench_step("DiT-nano/8", 2, field)
    assert line.median and field.about == {DRAWN: "none, RuntimeError: no such kernel (DiT-nano/8, 2)"}


def step_of(x, y):
    return lambda: x


def test_findings_of_one_kind_stand_side_by_side():
    about = {}
    for name in "ab":
        note(about, "error", f"0.1 ({name})")
    assert about == {"error": "0.1 (a), 0.1 (b)"}


@pytest.mark.parametrize(
    ("told", "otherwise", "named"),
    [
        ("processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\n\nmodel name\t: Other\n", "", "Some CPU @ 2 GHz (x86_64)"),
        ("Hardware\t: board\n", "arm", "arm (x86_64)"),
        (None, "", "x86_64 CPU"),
        (None, "x86_64", "x86_64 CPU"),
    ],
)
def test_a_machine_is_told_by_its_processor(told, otherwise, named, monkeypatch, tmp_path):
    if told:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(report, "CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr(report.platform, "processor", lambda: otherwise)
    monkeypatch.setattr(report.platform, "machine", lambda: "x86_64")
    assert machine(ALONE).startswith(f"{named}, {torch.get_num_threads()} thread")


def test_an_original_that_is_none_is_told(tmp_path):
    with pytest.raises(ValueError, match="is no checkout of facebookresearch/DiT: it has no models"):
        original_model(ours(preset("DiT-nano/8"), ALONE), tmp_path)


def test_what_is_timed_of_loading_reads_every_byte(tmp_path):
    (tmp_path / "a").write_bytes(bytes(3))
    assert parts(tmp_path) == [tmp_path / "a"] and parts(tmp_path / "a") == [tmp_path / "a"]
    read(tmp_path)


def test_the_most_memory_of_a_fresh_process_is_its_own():
    held = torch.ones(50_000_000)  # of this one
    idle, busy = (most_memory(code) for code in ("pass", "held = b'1' * 100_000_000"))
    assert idle < 90e6 < busy - idle < 130e6 < held.nbytes


def test_loading_is_held_against_its_bytes(capsys):
    about = {}
    lines = bench_load("DiT-nano/8", 3, ALONE, about)
    assert [line.who for line in lines] == ["its bytes alone", "load"] * 3
    assert capsys.readouterr().out.count("most memory") == 3
    (most,) = about.values()
    assert re.fullmatch(r"(-?[\d.]+ times the model's [\d.]+ GB \((fp32|fp16|the original's .pt)\)(, )?){3}", most)


def test_the_relative_error_is_of_norms():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


def told_of(row, line):
    """Milliseconds of the base and of the look, their ratio, whether it is said to be over the bound, and the error."""
    numbers = rf" +{row.against} +([\d.]+) ms +([\d.]+) ms +\d+% +([\d.]+)x +{row.bound}x"
    *times, error, over = re.fullmatch(row.name + numbers + r" *(\d\.\de[+-]\d\d)?( +over its bound)?", line).groups()
    assert bool(error) == bool(row.error) and float(error or 0) < 1e-5
    return *map(float, times), bool(over)


def test_inside_has_a_row_for_each_look_with_its_time_over_what_it_is_measured_against(tmp_path, capsys):
    bench_command("look", models=("DiT-nano/4",), rounds=3, out=tmp_path)
    about, head, *lines, _ = capsys.readouterr().out.splitlines()
    kept = json.loads((tmp_path / "bench-look.json").read_text())
    assert "rounds: 3, looks into: one sample" in about and head.split()[0] == "DiT-nano/4"
    assert kept["about"]["rounds"] == 3 and "a scrub" in kept["about"]["without a row"]
    for row, line, cost in zip(inside.ROWS, lines, kept["lines"], strict=True):
        base, look, ratio, over = told_of(row, line)
        assert look / base == pytest.approx(ratio, rel=0.2, abs=0.1)
        assert over == (ratio > row.bound) or ratio == pytest.approx(row.bound, abs=0.01)
        assert (cost["model"], cost["look"], cost["against"]) == ("DiT-nano/4", row.name, row.against)
        assert cost["median"] / cost["base"] == cost["ratio"] and cost["low"] <= cost["median"] <= cost["high"]
    page = (tmp_path / "bench-look.md").read_text()
    assert page == inside.page("look", kept["about"], [inside.Cost(**line) for line in kept["lines"]])
    assert "## DiT-nano/4" in page and page.count("\n| ") == 2 + len(inside.ROWS)


@pytest.mark.parametrize("model", [random_udit(), random_model("in_context")], ids=["u", "joined"])
def test_every_look_is_there_for_other_models_too(model):
    run = record(model, [0], steps=4, cfg_scale=2.0)
    for row in inside.ROWS:
        told_of(row, str(inside.timed("other", row, run, model, 3, ALONE)))


def test_a_look_that_a_model_does_not_have_says_why_in_its_row():
    model = random_model(num_classes=0)
    row = next(row for row in inside.ROWS if row.name == "guidance field")
    cost = inside.timed("unguided", row, record(model, [0], steps=4), model, 3, ALONE)
    why = "a model without classes has no unconditional half"
    assert str(cost).split(maxsplit=2) == ["guidance", "field", why] and f"| guidance field | {why} |" in inside.told(
        cost
    )


def test_a_look_that_takes_longer_than_promised_is_told_on_its_page():
    cost = inside.Cost("model", "lens", "replay", 1.1, 0.1, 0.2, 0.15, 0.25, 2.0)
    assert inside.told(cost) == "| lens | replay | 100 ms | 200 ms | 50% | 2.00x, over its bound | 1.1x |  |"


@pytest.mark.parametrize("arguments", [["outside"], ["look", "--models", "nothing-of-the-kind"]])
def test_what_the_bench_does_not_know_is_one_sentence(arguments, command):
    code, out, told = command("bench", *arguments)
    assert code == 2 and not out and "Traceback" not in told and repr(arguments[-1]) in told.replace('"', "'")
