"""The anatomy panel: every number it shows is the library's, every place in the code is there, any block is drawn."""

import json
import re
from functools import partial

import pytest
import torch
from einops import rearrange, reduce
from shared import ROOT, random_model
from small_host import cut_off, hosted, shown
from torch import nn

from dit_lab.checkpoints import load
from dit_lab.inside import Trajectory, record
from dit_lab.models import BLOCKS, PRESETS, Block, count, preset
from dit_lab.models.layers import LayerNorm
from dit_lab.panels import Opened, page, panel
from dit_lab.panels.anatomy import PANEL, anatomy
from dit_lab.panels.anatomy.patterns import numbered, patterns_of

ZOO = "mnist", "mnist_udit", "mnist_in_context", "mnist_cross_attention", "mnist_adaln", "cifar10"


def opened_of(name: str) -> Opened:
    there = load(name)
    run = Trajectory.load(ROOT / "dit_lab" / "zoo" / name / "run.safetensors")
    return Opened(run, there.model, labels=there.labels, source=name)


@pytest.fixture(params=ZOO, scope="module")
def config(request):
    return load(request.param).config


@pytest.fixture
def fifth():
    """A block that a learner wrote, whose wiring nobody knows; gone afterwards."""

    class Parallel(Block):
        """Attention and MLP side by side."""

        name, title = "fifth", "parallel"

        def __init__(self, dim, heads, attn, mlp):
            super().__init__(dim, heads, attn, mlp)
            self.speak = nn.Linear(dim, dim)
            self.both = LayerNorm(dim, affine=True)

        def forward(self, x, cond):
            y = self.both(x) + self.speak(reduce(cond, "b k d -> b 1 d", "mean"))
            return x + self.attn(y) + self.mlp(y)

    yield Parallel
    del BLOCKS["fifth"]
    anatomy.cache_clear()


def test_it_is_a_panel_whose_data_is_plain_json():
    opened = Opened(record(model := random_model(), [1], steps=2, cfg_scale=1.0), model, source="mine")
    data = panel("anatomy").data(opened)
    assert json.loads(json.dumps(data)) == data and data["source"] == "mine" and data["run"] == opened.id
    with pytest.raises(ValueError, match="answers no such request"):
        panel("anatomy").asked(opened, {"part": "attn"})


def test_it_needs_no_weights():
    run = record(model := random_model(), [1], steps=2, cfg_scale=1.0)
    with_model, without = (PANEL.data(Opened(run, each)) for each in (model, None))
    assert with_model | {"run": None} == without | {"run": None}


def test_the_parts_add_up_to_the_library_s_count(config):
    told, counted = anatomy(config), count(config)
    assert told["total"] == {"trained": counted.trained, "fixed": counted.fixed, "macs": counted.macs}
    parts, stages = told["parts"], [len(stage["blocks"]) for stage in told["stages"]]
    around = [part for name, part in parts.items() if "." not in name or name.split(".")[0] in ("down", "up", "merge")]
    around = [part for part in around if part["title"] not in ("Timestep embedding", "Label embedding")]
    for what in ("trained", "macs"):
        blocks = sum(copies * parts[f"stages.{number}"][what] for number, copies in enumerate(stages))
        assert blocks + sum(part[what] for part in around) == told["total"][what], what
        for part in (parts[name] for name in parts if re.fullmatch(r"stages.\d+.(attn|cross|modulation)", name)):
            # Attention's two products with no weights are its own child's.
            assert what == "trained" or sum(child[what] for child in part["children"]) == part[what]
        for number in range(len(stages)):
            held = sum(parts[f"stages.{number}.{name}"][what] for name in parts[f"stages.{number}"]["holds"])
            assert held == parts[f"stages.{number}"][what]
    assert [(row["part"], row["copies"], row["trained"], row["macs"]) for row in told["rows"]] == [
        (row.part, row.copies, row.trained, row.macs) for row in counted.rows
    ]


def test_every_pattern_is_in_the_code_and_does_what_its_numbers_say(config):
    seen = 0
    for name, part in anatomy(config)["parts"].items():
        for each in part["patterns"]:
            if "numbers" not in each:
                continue
            seen += 1
            # einops does the same with tensors of these shapes, and the letters are of these sizes.
            before, after = (re.findall("[a-z]+", side) for side in each["pattern"].split("->"))
            names, numbers = (re.findall("[a-z]+|[0-9]+", each[kind]) for kind in ("pattern", "numbers"))
            sizes = {name: int(size) for name, size in zip(names, numbers, strict=True) if name in before}
            empty = torch.empty(each["before"])
            if set(before) == set(after):
                after = rearrange(empty, each["pattern"], **sizes)
            else:
                after = reduce(empty, each["pattern"], "sum", **sizes)
            assert list(after.shape) == each["after"], (name, each)
    assert seen >= 4


def test_mnist_s_patches_in_numbers():
    (pattern,) = anatomy(load("mnist").config)["parts"]["patchify"]["patterns"]
    assert pattern == {
        "pattern": "b c (h p) (w q) -> b (h w) (c p q)", "numbers": "1 1 (7 4) (7 4) -> 1 (7 7) (1 4 4)",
        "before": [1, 1, 28, 28], "after": [1, 49, 16],
    }  # fmt: skip
    assert numbered("b x -> x b", {"b": 1}) == {"pattern": "b x -> x b"}, "a letter that is not known"


def test_shapes_are_those_of_the_weights_model():
    there = load("mnist_udit")
    seen, hooks = {}, []
    for name, module in there.model.named_modules():
        hooks.append(module.register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, o)))
    there.model(torch.randn(1, 1, 16, 16), torch.tensor([500]), torch.tensor([3]))
    parts = anatomy(there.config)["parts"]
    for name, path in {
        "stages.0.attn": "encoder.0.blocks.0.attn",
        "down.0": "down.0",
        "merge.1": "merge.1",
        "out": "out",
    }.items():
        assert parts[name]["after"] == [list(seen[path].shape)]


def test_every_part_s_place_in_the_code_is_there(config):
    for name, part in anatomy(config)["parts"].items():
        code = part["code"]
        lines = (ROOT / code["file"]).read_text(encoding="utf-8").splitlines()
        shown = code["source"].splitlines()
        assert lines[code["line"] - 1].strip() == shown[0].strip(), name
        assert shown[0].split()[0] in ("def", "class", "@staticmethod") and part["paper"], name
        assert "/" in code["file"] and not code["file"].startswith("/")


def test_each_block_is_wired_as_its_code_says():
    wirings = anatomy(load("mnist").config)["wirings"]
    boxes = {
        name: [[box["label"] for box in branch] for branch in wiring["branches"]] for name, wiring in wirings.items()
    }
    norm, modulate = "Layer norm", "Scale and shift"
    assert boxes == {
        "adaln": [[norm, modulate, "Attention"], [norm, modulate, "MLP"]],
        "adaln_zero": [[norm, modulate, "Attention", "Gate"], [norm, modulate, "MLP", "Gate"]],
        "in_context": [[norm, "Attention"], [norm, "MLP"]],
        "cross_attention": [[norm, "Attention"], [norm, "Cross-attention"], [norm, "MLP"]],
    }
    assert wirings["adaln_zero"]["branches"][0][0]["note"] == "without weights"
    assert wirings["in_context"]["joins"] and not wirings["adaln"]["joins"]
    assert "in_context" not in anatomy(load("mnist_udit").config)["wirings"], "U-DiT does not take it"


@pytest.mark.parametrize(("name", "size"), [("DiT-S/8", (12, 384, 6)), ("U-DiT-S", (22, 96, 4))])
def test_a_preset_is_known_by_its_size(name, size):
    told = anatomy(preset(name, num_classes=10))
    row = told["presets"][name]
    assert told["preset"] == name and (row["layers"], row["dim"], row["heads"]) == size


def test_the_paper_s_table_beside_ours_is_what_is_counted():
    told = anatomy(load("mnist").config)
    assert told["preset"] is None
    assert set(told["presets"]) == {name for name in PRESETS if re.match("(U-)?DiT-(S|B|L|XL)", name)}
    for name in ("DiT-S/8", "DiT-B/4", "DiT-L/8", "DiT-XL/2", "U-DiT-S"):
        counted, row = count(name, **({"mlp": "depthwise"} if name.startswith("U") else {})), told["presets"][name]
        assert (row["params"], row["macs"]) == (counted.trained, counted.macs)
    for name, row in told["presets"].items():
        # Theirs are rounded, and of U-DiT within 0.4 %.
        assert row["macs"] / 1e9 == pytest.approx(float(row["paper"]["gmacs"]), rel=0.004, abs=0.006), name
        assert row["params"] / 1e6 == pytest.approx(float(row["paper"]["params"]), abs=0.51), name
    counted = count("DiT-XL/2", block="cross_attention")
    assert told["blocks"]["cross_attention"]["macs"] == counted.macs
    assert told["blocks"].keys() == {"adaln", "adaln_zero", "in_context", "cross_attention"}


def test_a_learner_s_block_is_drawn_from_its_parts_in_the_order_in_which_they_run(fifth):
    told = anatomy(preset("DiT-nano/4", block="fifth", input_size=16))
    assert told["wirings"]["fifth"]["branches"] == []
    assert told["parts"]["stages.0"]["holds"] == ["both", "speak", "attn", "mlp"]
    assert (
        told["parts"]["stages.0.speak"]["code"] is None
        or "torch" not in told["parts"]["stages.0.speak"]["code"]["file"]
    )
    assert told["parts"]["stages.0"]["code"]["file"] == "test_panel_anatomy.py", "no folder of this machine"
    assert patterns_of(fifth.forward) == ["b k d -> b 1 d"]
    assert told["parts"]["stages.0"]["patterns"] == [{"pattern": "b k d -> b 1 d"}], "its letters are its own"


# ---- In the browser


@pytest.fixture
def browser(visit):
    return partial(shown, visit)


@pytest.fixture(scope="module")
def mnist():
    return opened_of("mnist")


def lit(page) -> list[str]:
    return page.eval_on_selector_all("[data-map] .lab-anatomy-lit", "nodes => nodes.map((node) => node.dataset.name)")


def test_parts_open_by_click_and_by_keyboard_and_show_the_library_s_numbers(browser, mnist, tmp_path):
    seen = browser(page(mnist, "anatomy"), tmp_path / "anatomy.html")
    counted = count(mnist.config)
    assert lit(seen) == ["patchify"] and "b c (h p) (w q) -> b (h w) (c p q)" in seen.inner_text("[data-part]")
    assert "1 × 1 × 28 × 28 → 1 × 49 × 16" in seen.inner_text("[data-part]")
    seen.get_by_role("button", name="block 3", exact=True).press("Enter")
    assert lit(seen) == ["blocks.3"] and seen.text_content("[data-part] h3") == "Block, block 3"
    seen.locator("[data-wiring] [data-child=attn]").press("Enter")
    part = seen.inner_text("[data-part]")
    assert (
        "dit_lab/models/layers.py:" in part
        and f"{counted['blocks.*.attn'].trained // 6:,}, in each of 6 blocks" in part
    )
    share = 100 * counted["blocks.*.attn"].macs / counted.macs
    assert f"{share:.0f} % in all 6" in part
    assert seen.is_hidden("[data-part] pre")
    seen.get_by_text("Show the source of Attention.forward").click()
    assert "self.attend(q, k, v)" in seen.inner_text("[data-part] pre")
    seen.get_by_text("Where the parameters and the work are").click()
    assert f"{counted.macs:,}" in seen.inner_text("[data-rows] .lab-anatomy-own")
    seen.get_by_text("The papers' models").click()
    assert seen.inner_text("[data-presets] .lab-anatomy-own").startswith("mnist")
    assert "118.62 / 118.64" in seen.inner_text("[data-presets]")
    assert seen.inner_text("[data-blocks] .lab-anatomy-own").startswith("adaLN-Zero")
    assert seen.broken == []
    assert {url for url in seen.asked if not url.startswith(("file:", "blob:", "data:"))} == set()


def test_what_another_panel_speaks_of_is_lit_and_a_click_says_where_it_is(browser, mnist, tmp_path):
    seen = browser(hosted(mnist.run(), [(PANEL, PANEL.data(mnist))]), tmp_path / "anatomy.html")
    for part, there, title in (
        ("blocks.4.mlp", ["blocks.4"], "MLP, block 4"), ("final", ["final"], "Final norm"),
        ("conditioning", ["conditioning"], "Condition"), ("blocks.2.attn.head.1", ["blocks.2"], "Attention, block 2"),
    ):  # fmt: skip
        seen.evaluate("part => lab.set({ part })", part)
        assert lit(seen) == there and seen.text_content("[data-part] h3") == title
    assert seen.locator("[data-wiring] .lab-anatomy-lit").inner_text().startswith("Attention")
    for nothing in ("blocks.99.attn", "no such part", None, "__proto__"):
        seen.evaluate("part => lab.set({ part })", nothing)
        assert lit(seen) == ["blocks.2"], "what is not there lights nothing else"
    seen.evaluate("lab.set({ block: 5 })")
    assert lit(seen) == ["blocks.5"] and seen.text_content("[data-part] h3") == "Attention, block 5"
    seen.get_by_role("button", name="block 1", exact=True).click()
    assert seen.evaluate("[lab.block, lab.part]") == [1, "blocks.1"]
    before = seen.eval_on_selector("[data-map] canvas", "canvas => canvas.toDataURL()")
    seen.evaluate("lab.set({ step: 0 })")
    assert seen.eval_on_selector("[data-map] canvas", "canvas => canvas.toDataURL()") != before
    assert seen.broken == []


def test_each_of_the_papers_blocks_can_be_drawn(browser, mnist, tmp_path):
    seen = browser(page(mnist, "anatomy"), tmp_path / "anatomy.html")
    drawn = set()
    for title in ("adaLN", "adaLN-Zero (this model's)", "cross-attention", "in-context"):
        seen.get_by_role("button", name=title, exact=True).click()
        drawn.add(seen.inner_html("[data-wiring]"))
        own = title.endswith("model's)")
        assert (seen.locator("[data-wiring] button").count() > 0) == own, "another model's parts cannot be opened"
    assert len(drawn) == 4 and seen.broken == []


def test_it_works_before_a_run_and_follows_a_change_of_model(browser, mnist, tmp_path):
    seen = browser(hosted(None, [(PANEL, None)]), tmp_path / "anatomy.html")
    assert seen.text_content("[data-told]") == "Open a checkpoint to see what it is made of."
    seen.evaluate("told => views.anatomy.about({ anatomy: told })", anatomy(mnist.config))
    assert lit(seen) == ["patchify"] and seen.is_hidden("[data-told]")
    seen.evaluate("run => lab.open(run)", opened_of("mnist_udit").run())
    seen.wait_for_function("document.querySelector('[data-told]').textContent === 'Drawing this model …'")
    assert seen.is_hidden("[data-body]"), "never one model's parts under another's pictures"
    seen.evaluate("told => views.anatomy.update(told)", PANEL.data(opened_of("mnist_udit")))
    assert lit(seen) == ["stem"] and seen.broken == []


@pytest.mark.parametrize("name", ["mnist", "mnist_udit", "fifth", "large", "deep"])
def test_nothing_is_cut_off_at_any_width(browser, fifth, tmp_path, name):
    if name in ZOO:
        run, data = opened_of(name).run(), anatomy(load(name).config)
    else:
        changes = {"fifth": dict(block="fifth", input_size=(16, 24)), "large": {}, "deep": dict(depths=(1,) * 7)}[name]
        small = {"fifth": "DiT-nano/4", "large": "DiT-XL/2", "deep": "U-DiT-S"}[name]
        run, data = None, anatomy(preset(small, **changes))
    for scheme in ("light", "dark"):
        seen = browser(hosted(run, [(PANEL, data)]), tmp_path / "anatomy.html", width=390, scheme=scheme)
        for more in seen.locator("section > details > summary").all():
            more.click()
        for width in (390, 340, 820, 1280):
            seen.set_viewport_size({"width": width, "height": 900})
            for chosen in seen.locator("[data-map] [data-name]").all()[:12:4]:
                chosen.click()
                assert cut_off(seen) == [], width
        assert seen.broken == []
