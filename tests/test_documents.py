"""What README and docs say in numbers: each is computed here anew from the file that it comes from, and looked for.

Pages that a command wrote are written again from their JSON; what people wrote around them is `FACTS`, sentence by
sentence. Who changes a result changes the sentence, and who changes a sentence finds its result here.
"""

import json
import re
from copy import deepcopy
from functools import cache
from itertools import pairwise
from statistics import correlation, mean

import numpy as np
import pytest
from shared import ROOT

from dit_lab.commands.bench import serving
from dit_lab.commands.bench.report import Line, table
from dit_lab.diffusion import QUALITIES
from dit_lab.experiments import fewer_steps_page, how_many_page
from dit_lab.experiments.papers import DIT_BLOCKS, UDIT_LADDER

SCALING, BLOCKS, LADDER, LOG = (f"docs/results/{name}.md" for name in ("scaling", "blocks", "udit_ladder", "bench-log"))
CAUSAL, MANY, COMPUTE = (f"docs/results/{name}.md" for name in ("causal", "how_many", "scaling_compute"))
FACTS = []  # of a page, and a function that makes sentences as they must stand there


@cache
def result(name):
    return json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8"))


def runs(name, field):
    """A field of an experiment's runs: `{model: [by seed]}`."""
    found = {}
    for row in sorted(result(f"docs/results/{name}")["runs"], key=lambda row: row["seed"]):
        found.setdefault(row["model"], []).append(row[field])
    return found


def words(page):
    """What a page says, with single spaces."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def says(page):
    return lambda make: FACTS.append((page, make)) or make


def span(values, form):
    return f"{min(values):{form}} to {max(values):{form}}"


@says(SCALING)
def scaling():
    fields = "frechet", "test_mse", "macs", "parameters"
    one = {name: {model: values[0] for model, values in runs("scaling", name).items()} for name in fields}
    settings = result("docs/results/scaling")["settings"]
    frechet, loss, macs = one["frechet"], one["test_mse"], one["macs"]
    log = lambda name, end="": [np.log(value) for model, value in one[name].items() if model.endswith(end)]
    with_loss = lambda name: correlation(log(name), list(loss.values()))
    both = lambda name: correlation(log(name), log("frechet"))
    yield f"are {min(frechet.values()) / settings['rebuilt_to_test_frechet']:.1f} times that between test pictures"
    yield f"is {both('macs'):.2f}, with that of the loss on unseen latents {with_loss('macs'):.2f}"
    yield f"With the number of parameters it is {both('parameters'):.2f} and {with_loss('parameters'):.2f}"
    yield f"XS/1 with {one['parameters']['XS/1']:,} parameters draws as well as M/2 with"
    yield f"{one['parameters']['M/2']:,} at {macs['M/2'] / macs['XS/1']:.1f} times its MACs"
    ends = [correlation(log("macs", end), log("frechet", end)) for end in ("/2", "/1")]
    yield f"at 16 and 64 tokens (correlations {ends[0]:.2f} and {ends[1]:.2f})"
    yield f"{frechet['XS/4']:.1f} to {frechet['L/4']:.1f}, while the loss still falls"
    yield f"XS/1 reaches {frechet['XS/1']:.0f}, S/2 {frechet['S/2']:.0f} and M/4 {frechet['M/4']:.0f}"
    yield f"S/1 {frechet['S/1']:.0f}, M/2 {frechet['M/2']:.0f} and L/4 {frechet['L/4']:.0f}"
    pairs = [f"{loss[a]:.3f} and {loss[b]:.3f}" for a, b in (("XS/1", "S/2"), ("S/1", "M/2"))]
    yield f"alike as the paper would have it ({', '.join(pairs)})"


@says(COMPUTE)
def compute():
    table = result("docs/results/scaling_compute")
    ended, passed, drawn = {}, {}, {}
    for row in table["runs"]:
        for kept in row["curve"]:
            passed.setdefault((row["model"], kept["step"]), []).append(kept["frechet"])
            if kept["step"] == 2000:
                ended.setdefault(row["model"], []).append(kept["frechet"])
    for row in table["sampling"]:
        drawn.setdefault((row["model"], row["steps"]), []).append(row)
    apart = {model: np.ptp(values) for model, values in ended.items()}
    middles = {model: mean(values) for model, values in ended.items()}
    yield f"At the end the distances of a model's seeds are {max(apart.values()):.1f} apart at most and"
    yield f"{np.median(list(apart.values())):.1f} in the middle, of {span(middles.values(), '.0f')}"
    (model, step), widest = max(((key, np.ptp(values)) for key, values in passed.items()), key=lambda item: item[1])
    yield f"on the way {widest:.1f} at most ({model} after {step:,} steps)"
    first = {row["model"]: row["frechet"] for row in table["runs"] if row["seed"] == 0}
    assert {name: values[0] for name, values in runs("scaling", "frechet").items()} == pytest.approx(first, abs=0.1)
    assert "whose seed 0 is these runs again" in words(SCALING)
    alike = ", ".join(f"{middles[name]:.1f}" for name in ("XS/4", "XS/2", "S/4"))
    yield f"XS/4, XS/2 and S/4 ({alike}) are not told apart"
    asked = lambda model, steps: 100 * mean(row["agreement"] for row in drawn[model, steps])
    assert all(asked(name, 8) > asked(name, 16) > asked(name, 32) for name in middles)
    late = max(abs(asked(name, 64) - asked(name, 32)) for name in middles)
    yield f"from 8 to 32 steps in all twelve models, and stays within {late:.1f} points from there to 64"
    rises = [name for name in middles if asked(name, 8) > asked(name, 4) + 0.1]
    yield f"from 4 to 8 it rises in {rises[0]}, {rises[1]} and {rises[2]}"
    few = [mean(row["frechet"] for row in drawn[name, 4]) for name in middles]
    yield f"with 4 steps all twelve are alike ({span(few, '.0f')})"
    parts = {row["model"]: (row["parameters"], row["macs"]) for row in table["runs"]}
    more = [large / small for small, large in zip(parts["XS/4"], parts["L/4"], strict=True)]
    yield f"parameters grow {more[0]:.0f} times and multiply-accumulates {more[1]:.0f} times"
    yield f"the distance falls by {middles['XS/4'] - middles['L/4']:.0f} of {middles['XS/4']:.0f}"
    yield f"a third of L/4, is ahead of that by {middles['L/4'] - middles['XS/1']:.0f}"
    assert 2.5 < parts["L/4"][1] / parts["XS/1"][1] < 3.5
    by = {}
    for row in table["decoders"]:
        by.setdefault((row["model"], row["decoder"]), []).append(row["frechet"])
    shipped, *trained = dict.fromkeys(row["decoder"] for row in table["decoders"])
    gains = {name: np.subtract(by["L/1", shipped], by["L/1", name]) for name in trained}
    assert all((gain > 0).all() for gain in gains.values())
    told = sorted((gain.mean() for gain in gains.values()), reverse=True)
    yield f"by {told[0]:.1f} and {told[1]:.1f} of {mean(by['L/1', shipped]):.0f}, in every seed"
    assert all(mean(by["L/1", name]) < mean(by["M/1", name]) for name in (shipped, *trained))


@says("docs/practice.md")
def practice():
    found = result("docs/results/practice")
    vae, judge, figures, spread = (found[name] for name in ("vae", "judge", "figures", "spread"))
    yield f"{vae['psnr']:.1f} dB (PSNR) for the {vae['pictures_held_back']} pictures held back"
    yield f"{vae['psnr_of_pictures_trained_on']:.1f} dB for those it was trained on"
    yield f"{255 * vae['mean_absolute_error']:.0f} of 255 levels off, scaling factor {vae['scaling_factor']:.2f}"
    yield f"shapes {found['training']['loss']:.2f} at the end"
    assert judge["accuracy"] == figures["agreement_of_real"] == 1
    yield f"{100 * figures['agreement']:.0f} % (± {100 * spread['agreement']:.0f}) as what was asked for"
    yield f"kernel distance {figures['kernel_distance']:,.0f} ± {spread['kernel_distance']:.0f}"
    assert {"frechet", "spatial_frechet"} == found["left_out"].keys() and found["reference"]["split"] == "tenth"
    yield f"{found['reference']['pictures']} pictures are too few"
    assert 2.2 < found["seconds"]["vae"] / 60 < 2.8 and 3.2 < found["seconds"]["train"] / 60 < 3.8
    assert sum(found["seconds"].values()) < 8 * 60


@says(BLOCKS)
def blocks():
    frechet, agreement = runs("blocks", "frechet"), runs("blocks", "agreement")
    others = frechet["in_context"] + frechet["cross_attention"]
    yield f"({span(frechet['adaln_zero'], '.0f')} and {span(frechet['adaln'], '.0f')}; the other two are from"
    yield f"are from {min(others):.0f} up)"
    means = {name: mean(values) for name, values in frechet.items()}
    yield f"({means['in_context']:.1f} and {means['cross_attention']:.1f}; in the figure"
    yield f"the paper's order ({frechet['in_context'][0]:.0f} and {frechet['cross_attention'][0]:.0f})"
    yield f"its in-context FID is {DIT_BLOCKS['in_context'].fid / DIT_BLOCKS['adaln_zero'].fid:.1f} times that"
    yield f"here the Fréchet distance is {means['in_context'] / means['adaln_zero']:.2f} times"
    seen = [100 * mean(values) for values in agreement.values()]
    yield f"({span(seen, '.0f')} %, seeds within"


@says(LADDER)
def ladder():
    frechet, loss = runs("udit_ladder", "frechet"), runs("udit_ladder", "test_mse")
    titles = (
        "to a U-shape", "downsampled keys and values", "downsampled tokens instead", "cosine attention", "2-D RoPE",
        "depthwise MLP", "re-parameterised",
    )  # fmt: skip
    for title, (before, after) in zip(titles, pairwise(frechet.values()), strict=True):
        fell = sum(b < a for a, b in zip(before, after, strict=True))
        yield f"| {title} | {mean(before):.0f} to {mean(after):.0f} | {fell} of 3 |"
    isotropic, unet, kv, token, *rest = frechet.values()
    better = [a - b for a, b in zip(kv, token, strict=True)]
    yield "but by {:.0f}, {:.0f} and {:.0f}, on average less".format(*better)
    yield f"({mean(better):.0f}) than one rung's seeds differ ({np.ptp(token):.0f} and {np.ptp(kv):.0f})"
    each = "{:.0f}, {:.0f} and {:.0f}"
    macs = [runs("udit_ladder", "macs")[name][0] for name in ("toy/unet", "toy/token")]
    yield f"({each.format(*unet)} become {each.format(*token)}) with {1 - macs[1] / macs[0]:.0%}".replace("%", " %")
    yield f"from {mean(token):.0f} to {mean(rest[-1]):.0f} in all"
    yield f"lie between {span([mean(values) for values in list(loss.values())[1:]], '.4f')}".replace(" to ", " and ")
    first, second = (UDIT_LADDER[name][1] for name in ("toy/isotropic", "toy/unet"))
    yield f"is worth {int(100 * (1 - second / first))} % of the FID ({first} to {second})"
    seen = mean(runs("udit_ladder", "agreement")["toy/isotropic"])
    yield f"its digits are read as asked {100 * seen:.0f} % of the time"
    last, *others = [np.ptp(values) for values in reversed(frechet.values())]
    assert last < min(others[:5]) and mean(list(loss.values())[-1]) == min(map(mean, loss.values()))
    yield "The last model has the lowest loss on unseen pictures on average, and the smallest spread of the six"


@says(LADDER)
def spectrum():
    power, low, end, noise, ends = {}, {}, {}, {}, set()
    for model, found in result("docs/results/udit_spectrum").items():
        now = found["t"].index(500)
        for block in found["blocks"]:
            curve = dict(zip(block["frequency"], block["power"][now], strict=True))
            power[model, block["name"]] = curve.get(0.25, 0) / block["power"][now][0]
            low[model, block["name"]] = block["low"][now]
            end[model, block["name"]] = block["low"][found["t"].index(0)]
            noise["middle" if "middle" in block["name"] else "else"] = block["noise"]
            if block["name"].startswith("decoder 1"):
                ends.add(round(block["power"][now][block["frequency"].index(0.5)] / block["power"][now][0], 1))
    of = lambda table, model, part: [value for key, value in table.items() if key[0] == model and part in key[1]]
    upper = of(power, "toy/unet", "decoder 1")
    yield f"is {of(power, 'toy/unet', 'encoder 1')[-1]:.2f} of that at the lowest frequency"
    yield f"after the second ones, but {of(power, 'toy/unet', 'decoder 2')[0]:.2f} in the lower decoder"
    yield f"and {span(upper, '.2f')} in the upper one, where it goes on falling to {ends.pop():.1f} at 1/2"
    assert not ends
    yield f"white noise would have {noise.pop('middle'):.2f} on the middle's 4 x 4 tokens and {noise.pop('else'):.2f}"
    (darkest,) = {f"{value:.2f}" for value in of(end, "toy/unet", "middle")}
    yield f"the share falls, in the middle to {darkest}, which is nearly white"
    inner = of(low, "toy/unet", "middle") + of(low, "toy/unet", "decoder")
    yield f"is {span(inner, '.2f')} in middle and decoder, and {span(of(low, 'toy/unet', 'encoder'), '.2f')} in the"
    flat = of(power, "toy/isotropic", "block")
    yield f"from {flat[0]:.2f} to {flat[-1]:.2f} at 1/4, and the share falls to {of(low, 'toy/isotropic', '')[-1]:.2f}"


@says(CAUSAL)
def causal():
    rows = result("docs/results/causal")["rows"]
    yield f"The rank correlation is {span([row['rho'] for row in rows if 'rho' in row], '.2f')}:"
    carried = [row for row in rows if row["question"] == "massive activations" and row["model"] == "cifar10"]
    (channel,) = {number for row in carried for number in row["channels"]}
    moved, others = (np.sum([row[name] for row in carried], axis=0) for name in ("moved", "controls"))
    further = int(min(moved / others))  # of the seeds' means, as in the table
    yield f"where one channel, {channel}, moves the picture {further} times as far as others and more"
    sinks = [row for row in rows if row["question"] == "corner sinks"]
    by_model = {row["model"]: [] for row in sinks}
    for row in sinks:
        by_model[row["model"]].append(row["received"])
    received = np.concatenate([np.mean(each, 0) for each in by_model.values()])
    yield f"they receive {span(received, '.1f')} times what any token does"
    strokes = [row for row in rows if row["question"] == "strokes"]
    cut = {round(row["off"].pop(2)) for row in map(deepcopy, strokes)}
    left = {round(count) for row in strokes for block, count in enumerate(row["off"]) if block != 2}
    assert (cut, left, len(strokes)) == ({4, 5}, {1, 2}, 3)
    yield "without its heads a digit falls into four or five pieces, without those of any other block into one or two"
    yield "holds for all digits on three new ones"


STEPS = ("S/2", 8), ("B/2", 4)


@says("README.md")
def speed():
    gpu = "DiT-XL/2 guided step, 1", "DiT-XL/2 guided step, 64", "DiT-XL/2 training step, 32"
    cpu = "DiT-S/2 guided step, 4", "DiT-B/2 guided step, 4"
    for name, works in ("bench-h100", gpu), ("bench-amx", cpu):
        lines = lines_of(name)
        for work in works:
            mine = {who: line for (about, who), line in lines.items() if about == work}
            first = mine["original, its default (fp32)"]["median"]
            ours = [who for who in mine if re.fullmatch("dit_lab,( fast,)? bf16(, compiled)?", who)]
            whos = ["original, autocast bf16", "diffusers, autocast bf16", *ours]
            cells = [f"{first / mine[who]['median']:.1f}x" for who in whos]
            if name == "bench-amx":
                cells[2] += f" ({1000 * mine[ours[0]]['median']:.0f} ms)"
            yield f"| 1.0x | {' | '.join(cells)}"
    one, many = (lines_of("bench-h100")[work, "dit_lab, fast, bf16, compiled"] for work in gpu[:2])
    yield f"({1000 * one['median']:.1f} ms)"
    yield f"({100 * many['share']:.0f} % of the peak)"
    small, base = (lines_of("bench-avx512")[work, "dit_lab, fast, bf16"] for work in cpu)
    shares = f"({100 * small['share']:.0f} and {100 * base['share']:.0f} % of the peak)"
    yield f"S/2 is {small['ratio']:.1f}x, B/2 {base['ratio']:.1f}x the original {shares}"
    steps = [lines_of("bench-avx512")[f"DiT-{size} training step, {batch}", "dit_lab, bf16"] for size, batch in STEPS]
    yield f"a training step {steps[0]['ratio']:.1f}x and {steps[1]['ratio']:.1f}x"
    full = lines_of("bench-avx2")
    ratio = lambda work, who: f"{full[work, who]['ratio']:.2f}x"
    plain, compiled = ([ratio(work, f"dit_lab, {how}") for work in cpu] for how in ("fp32", "fast, fp32, compiled"))
    yield f"ours is {plain[0]} it for S/2 and {plain[1]} for B/2, compiled {compiled[0]} and {compiled[1]}"
    good = full["mnist, 8 guided pictures", "dit_lab, fp32, good (unipc 10)"]
    yield f"eight guided digits by `good` {good['ratio']:.1f}x as soon as by 50 of DDIM"
    digits, zero, udit = small_compiled()
    yield f"{digits:.1f}x as fast with `mnist`, {zero:.1f}x with `mnist_adaln_zero`, {udit:.1f}x with `mnist_udit`"


@says("README.md")
def caches():
    lines = {who: line for (work, who), line in lines_of("bench-run").items() if work.startswith("mnist")}
    few = lines["diffusers, DPM++ 14"]
    caches = [line for who, line in lines.items() if who.startswith("diffusers, DDIM 50,")]
    assert len(caches) == 4 and all(few["median"] < line["median"] for line in caches)
    (nearer,) = (line for line in caches if line["error"] < few["error"])
    assert nearer["median"] > 2 * few["median"]
    yield "14 steps of DPM-Solver++ are sooner there"


@says(LOG)
def whole_runs():
    lines = {who: line for (work, who), line in lines_of("bench-run").items() if work.startswith("mnist")}
    five, block, few = (
        lines[f"diffusers, {who}"] for who in ("DDIM 50, TaylorSeer 5", "DDIM 50, first block 0.1", "DPM++ 14")
    )
    yield f"TaylorSeer of every fifth step {five['ratio']:.2f}x with an error of {five['error']:.3f}"
    yield f"the first block's change {block['ratio']:.2f}x with {block['error']:.2f}"
    yield f"{few['ratio']:.2f}x with {few['error']:.3f}"
    good = f"good ({QUALITIES['good']['sampler']} {QUALITIES['good']['steps']})"
    half, full, draft = (
        next(line["ratio"] for who, line in lines.items() if who.startswith(f"dit_lab, {name}"))
        for name in (f"fast, bf16, {good}", f"fp32, {good}", "fast, bf16, draft")
    )
    yield f"in bf16 {half:.2f}x, in fp32, with which the app begins, {full:.2f}x; `draft` {draft:.2f}x"
    yield f"there it is {full:.2f}x where 8x were hoped for with bf16 at hand; with bf16 chosen it is {half:.2f}x"


def lines_of(name):
    """The lines of a bench by what was done, and who did it."""
    return {(line["work"], line["who"]): line for line in result(f"docs/results/{name}")["lines"]}


@says("README.md")
def readme():
    yield f"test pictures at {result('dit_lab/zoo/cifar10_vae/figures')['psnr_mean_over_pictures']:.1f} dB (PSNR)"
    share = result("dit_lab/zoo/cifar10_pixels/figures")["agreement"]["share"]
    yield f"of whose samples {100 * share:.0f} % are seen as what was asked for"
    rows = result("docs/results/fewer_steps")["rows"]
    of = lambda way: [row for row in rows if (row["model"], row["way"]) == ("mnist", way)]
    frechet = lambda way: mean(row["frechet"] for row in of(way))
    assert frechet("unipc 6") < frechet("ddim 50") and frechet("unipc 6, interval") < frechet("unipc 6")
    yield "and on MNIST 6 too"
    yield f"in {of('unipc 6, interval')[0]['passes']:.0f} passes instead of {of('ddim 50')[0]['passes']:.0f}"


@says("docs/results/fewer_steps.md")
def fewer_steps():
    found = {}
    for row in result("docs/results/fewer_steps")["rows"]:
        found.setdefault((row["model"], row["way"]), []).append(row)
    of = lambda model, way: mean(row["frechet"] for row in found[model, way])
    digits, colour, udit = (lambda way, model=model: of(model, way) for model in ("mnist", "cifar10", "mnist_udit"))
    good, many, draft, line = "unipc 10", "ddim 50", "unipc 6", "dpmpp 14, every 3, order 1"
    assert f"{QUALITIES['good']['sampler']} {QUALITIES['good']['steps']}" == good
    pairs = lambda less, more: [
        (a["frechet"], b["frechet"])
        for model in ("mnist", "cifar10", "mnist_udit")
        for a, b in zip(found[model, less], found[model, more], strict=True)
    ]
    assert all(less < more for less, more in pairs(good, many))
    nearer = [more - less for less, more in pairs("unipc 14", "dpmpp 14")]
    yield f"with every seed, by {min(nearer):.1f} to {max(nearer):.1f}"
    yield f"{digits(good):.1f} against {digits(many):.1f} on the digits"
    yield f"{colour(good):.1f} against {colour(many):.1f} in colour"
    yield f"{udit(good):.1f} against {udit(many):.1f} for the U-DiT"
    yield f"four of DDPM's 250 steps ({colour('ddpm 250'):.1f})"
    assert 0 < colour(good) - colour("ddpm 250") < 4
    yield f"on the digits only** ({digits(draft):.1f} and {udit(draft):.1f}). In colour they are {colour(draft):.1f}"
    middle = f"{draft}, interval"
    yield f"helps the digits ({digits(middle):.1f} and {udit(middle):.1f} in 9 passes)"
    yield f"harms colour ({colour(middle):.1f} against"
    assert {round(found[model, line][0]["passes"]) for model in ("mnist", "cifar10", "mnist_udit")} == {12}
    yield f"in 12 passes {colour(line):.1f} in colour, where UniPC's 6 steps have {colour(draft):.1f} in as many"
    yield f"has {digits(line):.1f} where UniPC has {digits(draft):.1f}, for the U-DiT {udit(line):.1f} where UniPC has"
    yield f"are at {colour('unipc 4, searched'):.1f} in 8 passes, where even steps have {colour('unipc 4'):.1f} and 50"
    yield f"6 are at {colour('unipc 6, searched'):.1f} in 12"
    error = {(row["way"], row["cfg_scale"]): row["error"] for row in result("docs/results/fewer_steps")["errors"]}
    four, six = ({scale: error[f"unipc {steps}, searched", scale] for scale in (1, 2, 4)} for steps in (4, 6))
    assert six[1] < error["unipc 10", 1] and six[2] < error["unipc 10", 2], "the 6 hold without any too"
    assert error["unipc 10", 4] < six[4] < error["unipc 6", 4] / 1.9, "and with 4 are a little behind"
    assert four[4] > 1.6 * error["unipc 6", 4] and four[2] < error["unipc 6", 2], "the 4 do not hold with 4"
    flow = lambda way: of("cifar10_pixels", way)
    yield f"10 steps of UniPC are at {flow('unipc 10'):.1f}, 14 of DPM-Solver++ at {flow('dpmpp 14'):.1f}, and"
    yield f"Euler's at {flow('euler 14'):.1f} with 14 and {flow('euler 50'):.1f} with 50"
    yield f"6 of UniPC, its `draft`, are at {flow('unipc 6'):.1f}"
    lost = [(each("unipc 6, searched"), each("unipc 6")) for each in (udit, flow)]
    yield "(6 of UniPC: {:.1f} against {:.1f} of even ones, and {:.1f} against {:.1f})".format(*lost[0], *lost[1])
    for name in "mnist_udit", "cifar10_pixels":
        rows = [row for row in result("docs/results/fewer_steps")["searched"] if row["model"] == name]
        assert all(row["error"] < row["even"] for row in rows if (row["sampler"], row["steps"]) == ("unipc", 6))
    (row,) = found["cifar10_pixels", "unipc 6, interval"]
    (plain,) = found["cifar10_pixels", "unipc 6"]
    shares = f"{100 * row['agreement']:.0f} % for {100 * plain['agreement']:.0f} %"
    yield f"at {row['frechet']:.1f}, but fewer are seen as asked ({shares})"
    curve = "dpmpp 14, every 5, order 2"
    assert colour(curve) < colour("ddpm 250")
    yield f"it is {colour(curve):.1f} in colour and {digits(curve):.1f} on the digits"


@says(LOG)
def ideas():
    """Single ideas that `fewer-steps` has measured since; of the others no file is kept, as the log says."""
    found = {}
    for row in result("docs/results/fewer_steps")["rows"]:
        found.setdefault((row["model"], row["way"]), []).append(row["frechet"])
    digits, colour, udit = (
        lambda way, model=model: mean(found[model, way]) for model in ("mnist", "cifar10", "mnist_udit")
    )
    line, draft = "dpmpp 14, every 3, order 1", "unipc 6"
    yield "by scripts that are not kept"
    searched = f"DPM-Solver++, 6 steps: {digits('dpmpp 6, searched'):.1f}"
    yield f"{searched} against {digits(draft):.1f} of plain UniPC, in all three"
    assert all(a < b for a, b in zip(found["mnist", "dpmpp 6, searched"], found["mnist", draft], strict=True))
    searched = f"UniPC, 6 steps: {colour('unipc 6, searched'):.1f}, even ones {colour(draft):.1f}"
    yield f"{searched}, 14 of DPM-Solver++ {colour('dpmpp 14'):.1f}"
    plain = f"plain UniPC with as many at {colour(draft):.1f}, 28 passes of DPM-Solver++ at {colour('dpmpp 14'):.1f}"
    of_udit = f"on the U-DiT {udit(line):.1f} against {udit(draft):.1f}"
    yield f"in colour 12 passes are at {colour(line):.1f}, {plain}; {of_udit}"
    of = lambda way: f"{digits(way):.1f} ± {np.ptp(found['mnist', way]) / 2:.1f}"
    yield f"9 passes: {of('unipc 6, interval')}, where DDIM's 50 steps take 100 for {of('ddim 50')}"


def told_of_branches():
    """Distances and seconds of `forecasts.json` by model and way, and the names of what is forecast by its output.

    The distances are means over seeds, of which what the branches' forecasts are told of holds with each.
    """
    table, found = result("docs/results/forecasts"), {}
    for row in table["rows"]:
        found.setdefault((row["model"], row["way"]), {})[row["seed"]] = row["frechet"]
    for (model, way), values in found.items():
        if "branches" in way:
            nearer = {values[seed] < found[model, way.removesuffix(", branches")][seed] for seed in values}
            assert nearer == {model == "mnist_udit"}
        assert len(values) == (1 if model == "mnist_udit" else 3)
    frechet = {key: mean(values.values()) for key, values in found.items()}
    seconds = {(row["model"], row["way"]): row["seconds"] for row in table["times"]}
    return frechet, seconds, [key for key in frechet if "every" in key[1] and "branches" not in key[1]]


@says("docs/results/fewer_steps.md")
def branches():
    frechet, seconds, outputs = told_of_branches()
    longer = [seconds[model, f"{way}, branches"] / seconds[model, way] for model, way in outputs]
    yield f"{min(longer):.1f} to {max(longer):.1f} times as long as with the output's"
    assert len(outputs) == 15
    third = "dpmpp 20, every 3, order 1"
    both = lambda model: f"{frechet[model, f'{third}, branches']:.1f} against {frechet[model, third]:.1f}"
    yield f"every third step: {both('mnist')}, {both('cifar10')})"
    udit = " ".join(both("mnist_udit").split())
    yield f"({udit}), where 10 plain steps take less time and are at {frechet['mnist_udit', 'dpmpp 10']:.1f}"
    assert seconds["mnist_udit", "dpmpp 10"] < min(
        seconds[key] for key in seconds if "udit" in key[0] and "branches" in key[1]
    )
    assert frechet["mnist", "dpmpp 8"] == min(value for (model, _), value in frechet.items() if model == "mnist")


@says(LOG)
def branches_in_short():
    frechet, seconds, _ = told_of_branches()
    third = "dpmpp 20, every 3, order 1"
    both = {
        model: f"{frechet[model, f'{third}, branches']:.1f} against {frechet[model, third]:.1f}"
        for model in ("mnist", "cifar10", "mnist_udit")
    }
    longer = [
        seconds[model, f"{third}, branches"] / seconds[model, third] for model in ("mnist", "cifar10", "mnist_udit")
    ]
    yield f"digits {both['mnist']}, colour {both['cifar10']}, U-DiT {both['mnist_udit']}"
    yield f"{min(longer):.1f} to {max(longer):.1f} times as long"


@says(LOG)
def missing():
    cpu, gpu = lines_of("bench-amx"), lines_of("bench-h100")
    s, b = (f"DiT-{size}/2 guided step, 4" for size in "SB")
    compiled = "dit_lab, fast, bf16, compiled"
    yield f"compiled: {cpu[s, compiled]['ratio']:.2f}x for S/2 where 5.8x were hoped for and"
    yield f"hoped for and {100 * cpu[s, compiled]['share']:.0f} % of the peak where 55 % were"
    yield f"B/2 {cpu[b, compiled]['ratio']:.2f}x where 4.6x were"
    yield f"no bf16: {cpu[s, 'dit_lab, fp32']['ratio']:.2f}x where 1.1x were, compiled"
    yield f"compiled {cpu[s, 'dit_lab, fast, fp32, compiled']['ratio']:.2f}x where 1.4x were"
    few, plain = lines_of("bench-avx512"), "original, its default (fp32)"
    over = lambda work, who, ours: few[work, who]["median"] / few[work, f"dit_lab, {ours}"]["median"]
    autocast = "original, autocast bf16"
    yield f"S/2 {over(s, plain, 'fast, bf16'):.2f}x the original where 3.9x were"
    yield f"B/2 {over(b, autocast, 'fast, bf16'):.2f}x its autocast (1.5x) and"
    yield f"{over(b, 'diffusers, autocast bf16', 'fast, bf16'):.2f}x diffusers' (1.3x)"
    assert over(s, autocast, "fast, bf16") >= 1.5 and over(b, plain, "fast, bf16") >= 3.4
    assert over(s, "diffusers, autocast bf16", "fast, bf16") >= 1.3
    for work in "DiT-S/2 training step, 8", "DiT-B/2 training step, 4":
        assert over(work, plain, "bf16") >= 2.1 and over(work, autocast, "bf16") >= 1.2
        assert over(work, plain, "bf16, compiled") >= 2.7
        yield f"{work[4:7]} {over(work, autocast, 'bf16, compiled'):.2f}x"
    yield f"own: {over(s, plain, 'fast, bf16, compiled'):.2f}x and {over(b, plain, 'fast, bf16, compiled'):.2f}x where"
    exact = [f"{over(s, plain, how):.2f}x and {over(b, plain, how):.2f}x" for how in ("fp32", "fast, fp32, compiled")]
    yield f"In fp32 {exact[0]}, where 1.1x were hoped for, compiled {exact[1]}"
    yield from without_bf16(s, b)
    training = [over(f"DiT-{size} training step, {batch}", plain, "fp32") for size, batch in STEPS]
    yield f"Training in fp32 is {training[0]:.2f}x (S/2) and {training[1]:.2f}x (B/2) the original's"
    on_gpu = {who: line["median"] for (work, who), line in gpu.items() if work == "DiT-XL/2 training step, 32"}
    theirs = on_gpu["original, its script"] if "original, its script" in on_gpu else on_gpu[plain]
    yield f"training step is {theirs / on_gpu['dit_lab, bf16, compiled']:.2f}x the original's on the H100"
    loads = [work for work, who in few if who == "load"]
    fp32, fp16, theirs = (few[work, "load"]["median"] / few[work, "its bytes alone"]["median"] for work in loads)
    yield f"a ready fp32 model: {fp16:.1f} times as long as reading its bytes"
    yield f"From an fp32 file it is {fp32:.2f} times, from the original's .pt {theirs:.1f} times"
    longer = [1 / few[f"U-DiT-S folded forward, 8, {kind}", f"U-DiT-S, {kind}"]["ratio"] for kind in ("bf16", "fp32")]
    yield f"{longer[0]:.2f} times its time in bf16 where 1.4 were hoped for, {longer[1]:.2f} in fp32"
    one, many, step = (f"DiT-XL/2 {work}" for work in ("guided step, 1", "guided step, 64", "training step, 32"))
    yield f"XL/2, one picture: {1000 * gpu[one, compiled]['median']:.1f} ms where 2 ms were hoped for"
    yield f"64 pictures: {100 * gpu[many, compiled]['share']:.0f} % of the peak where 60 % were"
    yield f"training step: {100 * gpu[step, 'dit_lab, bf16, compiled']['share']:.0f} % of the peak"
    slower = lambda kind: 1 / gpu[f"U-DiT-S folded forward, 64, {kind}", f"U-DiT-S, {kind}"]["ratio"]
    yield f"takes {slower('bf16'):.1f} times DiT-S/2's time in bf16 on the H100, and {slower('fp32'):.1f} times in fp32"


def small_compiled():
    """How many times as fast as they are the small models' forwards are in compiled code, on a CPU without bf16."""
    few = lines_of("bench-avx2")
    models = ("mnist", "mnist_adaln_zero", "mnist_udit")
    return [few[f"{name} forward, 2", "dit_lab, fast, fp32, compiled"]["ratio"] for name in models]


def without_bf16(s, b):
    """What the log says of a CPU that has none."""
    few, plain, half = lines_of("bench-avx2"), "original, its default (fp32)", "dit_lab, fast, fp32, compiled"
    over = lambda work, who, ours: f"{few[work, who]['median'] / few[work, ours]['median']:.2f}x"
    yield f"S/2 is {over(s, plain, 'dit_lab, fp32')} the original, B/2 {over(b, plain, 'dit_lab, fp32')}, and of"
    yield f"diffusers {' and '.join(over(work, 'diffusers, fp32', 'dit_lab, fp32') for work in (s, b))}, where 1.1x"
    yield f"compiled {over(s, plain, half)} and {over(b, plain, half)} where 1.4x were"
    assert few[s, plain]["share"] * 1.4 > few[b, plain]["share"] * 1.4 > 1
    yield f"reaches {100 * few[s, plain]['share']:.0f} % of the peak there"
    steps = [f"DiT-{size} training step, {batch}" for size, batch in STEPS]
    for how, hoped in ("", 1.1), (", compiled", 1.3):
        both = " and ".join(over(step, plain, f"dit_lab, fp32{how}") for step in steps)
        yield f"{both} where {hoped}x were"
    digits, zero, udit = (f"{ratio:.2f}x" for ratio in small_compiled())
    yield f"ms: {digits}, {zero} and {udit}; compiled as before"
    yield f"compiling gains {digits}, {zero} and {udit}, and 1.7x, 2.2x and 2.8x were hoped for"
    fp16 = "DiT-XL/2 fp16, 1.35 GB"
    yield f"takes {few[fp16, 'load']['median'] / few[fp16, 'its bytes alone']['median']:.1f} times as long as reading"
    run = [line for (work, _), line in few.items() if work == "mnist, 8 guided pictures"]
    (good,) = [line["ratio"] for line in run if line["who"].startswith("dit_lab, fp32, good")]
    udit = 1 / few["U-DiT-S folded forward, 8, fp32", "U-DiT-S, fp32"]["ratio"]
    yield f"({good:.2f}x for 4x) and the U-DiT ({udit:.2f} times"


@says(MANY)
def how_many():
    table, sets = result("docs/results/how_many"), {}
    for row in table["rows"]:
        sets.setdefault((row["set"], row["pool"], row["count"]), []).append(row)
    middle = lambda count, figure="frechet": mean(row["figures"][figure] for row in sets["mnist", "real", count])
    found = lambda name, count: how_many_page.found(table, sets[name, "real", count], "frechet")
    yield (
        f"MNIST's training digits are {middle(500):.1f} from its test digits by 500 of them, {middle(5000):.1f} by "
        f"5,000 and {middle(10_000):.1f} by 10,000; the spread is {found('mnist', 500):.1f} by 500 and "
        f"{found('mnist', 5000):.1f} by 5,000."
    )
    kernel = lambda pool: mean(row["figures"]["kernel_distance"] for row in sets["cifar10", pool, 200])
    spread = how_many_page.found(table, sets["cifar10", "noisy", 200], "kernel_distance")
    shown = f"{kernel('noisy'):.0f} against {kernel('real'):.1f}, with a spread of {spread:.0f}."
    yield f"A noise of 0.1 on CIFAR-10 shows in 200 pictures already: the kernel distance is {shown}"
    least = [f"from {how_many_page.VISIBLE * found('cifar10', count):.1f} on with" for count in (500, 5000)]
    yield f"two Fréchet distances on CIFAR-10 differ visibly {least[0]} 500 pictures, {least[1]} 5,000."
    covered = [row["covered"] for row in table["gaussian"]]
    yield (
        f"of the Fréchet distances between Gaussians {100 * mean(covered):.0f} % are within two of it from their mean "
        f"({span([100 * share for share in covered], '.0f')} % by row; 95 % would be exact)."
    )
    ratios = {figure: sorted(said_to_found(table, sets.values(), figure)) for figure in how_many_page.FIGURES}
    told = [f"of {how_many_page.FIGURES[name][0]} {span(each, '.1f')} times" for name, each in ratios.items()]
    yield f"it says {', '.join(told)} what is found."


def said_to_found(table, sets, figure):
    """What one set says of a figure's spread, over what many show."""
    for rows in sets:
        if len(rows) > 1 and all(figure in row["spread"] for row in rows):
            said = mean(row["spread"][figure] ** 2 for row in rows) ** 0.5
            yield said / how_many_page.found(table, rows, figure)


@pytest.mark.parametrize(("page", "make"), [pytest.param(*fact, id=fact[1].__name__) for fact in FACTS])
def test_a_sentence_says_what_its_result_says(page, make):
    text = words(page)
    said = [" ".join(sentence.split()) for sentence in make()]
    assert said and not [sentence for sentence in said if sentence not in text], page


ZOO = sorted(path.parent.name for path in ROOT.glob("dit_lab/zoo/*/figures.json") if path.parent.name != "cifar10_vae")


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_models_table_has_the_figures_beside_it(name):
    figures, text = result(f"dit_lab/zoo/{name}/figures"), words(f"dit_lab/zoo/{name}/README.md")
    asked, distance = figures["agreement"], figures["frechet"]
    how = f"guidance {asked['cfg_scale']:g}, {asked['steps']} {asked['sampler'].upper()} steps"
    assert f"{asked['samples']:,} samples, {how} | {100 * asked['share']:.1f} % |" in text
    assert f"| {100 * figures['classifier_test_accuracy']:.2f} % |" in text
    assert f"Fréchet distance, {distance['samples']:,} samples" in text
    assert f"| {distance['samples_to_test']:.2f} |" in text and f"| {distance['train_to_test']:.2f} |" in text


@pytest.mark.parametrize("name", ["amx", "h100"])
def test_a_benchs_page_is_the_one_of_its_lines(name):
    kept = result(f"docs/results/bench-{name}")
    assert table(name, kept["about"], [Line(**line) for line in kept["lines"]]) == page_of(f"bench-{name}")


def test_the_page_of_the_apps_bench_is_the_one_of_its_lines():
    kept = result("docs/results/bench-app")
    assert serving.page("app", kept["about"], [serving.Row(**row) for row in kept["lines"]]) == page_of("bench-app")


@pytest.mark.parametrize("kind", [fewer_steps_page, how_many_page])
def test_a_page_that_tells_a_table_is_the_one_of_its_table(kind):
    name = kind.COMMAND.split()[-1].replace("-", "_")
    assert kind.page(result(f"docs/results/{name}")) in page_of(name)


def page_of(name):
    return (ROOT / f"docs/results/{name}.md").read_text(encoding="utf-8")
