"""The endpoints for programs: what they give is the library's, and what they refuse is a sentence."""

import io
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

gr = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")

from launched import launched, post, raw  # noqa: E402
from PIL import Image  # noqa: E402
from shared import random_model, random_udit  # noqa: E402
from small_workbench import saved, workbench  # noqa: E402

from dit_lab.files import read_json, write_json  # noqa: E402
from dit_lab.inside import record  # noqa: E402
from dit_lab.inside.plots import as_pictures  # noqa: E402
from dit_lab.models import count  # noqa: E402
from dit_lab.panels import Opened  # noqa: E402
from dit_lab.ui.endpoints import Endpoints  # noqa: E402
from dit_lab.ui.scheduler import LOOK  # noqa: E402
from dit_lab.ui.settings import defaults  # noqa: E402

STEPS = 3
MODELS = {"tiny": random_model(), "u": random_udit(), "alone": random_model(num_classes=0)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with launched(tmp_path_factory.mktemp("served"), **MODELS) as made:
        yield made


@pytest.fixture(scope="module")
def ask(server):
    """Call an endpoint as a program does."""
    client = gradio_client.Client(server[0], verbose=False)
    return lambda name, *given, **named: client.predict(*given, api_name=f"/{name}", **named)


def run_of(name, label, seed=0, guidance=2.0):
    """The library's run with the page's defaults."""
    first = defaults(MODELS[name].config, name)
    guided = {"cfg_scale": guidance} if MODELS[name].config.num_classes else {}
    return record(MODELS[name], [label], seed=seed, steps=STEPS, sampler=first["sampler"], **guided)


def test_there_are_five_with_typed_values_and_a_word_on_each(server):
    import httpx

    told = httpx.get(f"{server[0]}/gradio_api/info", trust_env=False).json()["named_endpoints"]
    assert set(told) == {"/sample", "/attention", "/contributions", "/list_checkpoints", "/count"}
    values = {value["parameter_name"]: value["python_type"]["type"] for value in told["/attention"]["parameters"]}
    assert values["checkpoint"] == "str" and values["step"] == "int" and values["guidance"] == "float"
    assert all(endpoint["description"] for endpoint in told.values())


def test_checkpoints_and_counts_are_told(ask):
    assert ask("list_checkpoints") == list(MODELS)
    table = count("DiT-S/2")
    assert ask("count", "DiT-S/2") == {"parameters": table.params, "trained": table.trained, "macs": table.macs}


def test_without_steps_a_run_is_the_one_that_the_page_begins_with(ask, tmp_path_factory):
    assert "10 steps of UniPC" in ask("sample", "tiny", 3)["title"]
    assert len(ask("contributions", "tiny", 3, 9)["parts"]) > 0
    sources = saved(tmp_path_factory.mktemp("own"), tiny=MODELS["tiny"])
    about = read_json(place := Path(sources["tiny"]) / "config.json")
    write_json(place, about | {"qualities": {"good": {"sampler": "unipc", "steps": [999, 500, 20]}}})
    with workbench(sources) as bench:
        assert "3 steps of UniPC" in Endpoints(bench).sample("tiny", 3)["title"]


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_is_the_librarys_picture(name, ask):
    label = 0 if name == "alone" else 3
    said, run = ask("sample", name, label, seed=7, steps=STEPS), run_of(name, label, seed=7)
    kind, _, data = said["picture"].partition(",")
    shown = np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB"))
    expected = as_pictures(Opened(run, MODELS[name]).pictures(0)[-1:])[0]
    assert kind == "data:image/png;base64" and np.array_equal(shown, np.broadcast_to(expected, shown.shape))
    assert "seed 7" in said["title"]


@pytest.mark.parametrize(("name", "block"), [("tiny", 0), ("tiny", 2), ("u", 0), ("u", 3), ("u", 5), ("alone", 1)])
def test_attention_is_the_librarys_in_every_block(name, block, ask):
    label = 0 if name == "alone" else 2
    said = ask("attention", name, label, 1, 4, block, seed=5, steps=STEPS)
    run = run_of(name, label, seed=5)
    stage, blocks = next(each for each in MODELS[name].config.stage_blocks.items() if block in each[1])
    expected = run.patch_rows(MODELS[name], 1, 4)[stage][block - blocks.start]
    np.testing.assert_allclose(said["weights"], expected.numpy(), rtol=1e-5, atol=1e-7)
    assert said["grid"] == list(run.grid_of(block))


def test_contributions_are_the_librarys_largest_first(ask):
    said = ask("contributions", "tiny", 1, 2, seed=3, steps=STEPS)
    found = run_of("tiny", 1, seed=3).contributions(MODELS["tiny"], 2)
    sizes = dict(zip(map(str, found.parts), found.x0.square().mean(dim=(1, 2, 3)).sqrt().tolist(), strict=True))
    assert [part["part"] for part in said["parts"]] == sorted(sizes, key=sizes.get, reverse=True)[: len(said["parts"])]
    for part in said["parts"]:
        assert part["size"] == pytest.approx(sizes[part["part"]], rel=1e-4)
    assert said["error"] == pytest.approx(found.error, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("sample", ("nope", 1), "This app serves tiny, u, alone, not 'nope'"),
        ("sample", ("../../etc/passwd", 1), "This app serves tiny"),
        ("sample", (["tiny"], 1), "This app serves tiny"),
        *(("sample", ("tiny", label), "Class must be") for label in (99, -1, "x", [1], None, 1.5, {})),
        *(("sample", ("tiny", 1, seed), "Seed must be") for seed in (-1, 2**63, "x", 0.5)),
        *(("sample", ("tiny", 1, 0, steps), "Steps must be") for steps in (0, 1001, "many", 2.5)),
        *(("sample", ("tiny", 1, 0, 2, scale), "Guidance must be") for scale in (-1, 1e9, "strong", None)),
        ("attention", ("tiny", 1, 5, 0, 0, 0, 3), "Step must be a whole number from 0 to 2"),
        ("attention", ("tiny", 1, 0, 6, 0, 0, 3), "Patch must be a whole number from 0 to 5"),
        ("attention", ("tiny", 1, 0, 0, 3, 0, 3), "Block must be a whole number from 0 to 2"),
        ("contributions", ("tiny", 1, -1), "Step must be"),
        ("count", ("DiT-XXL/1",), "Preset must be one of DiT-XL/2"),
        ("count", ({"a": 1},), "Preset must be one of"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_the_next_call_is_answered(name, given, told, ask):
    with pytest.raises(Exception) as caught:
        ask(name, *given)
    assert told in str(caught.value) and "Traceback" not in str(caught.value)
    assert ask("list_checkpoints") == list(MODELS)


def test_too_few_values_are_told_in_a_sentence(server):
    status, said = post(server[0], "/gradio_api/call/sample", {"data": ["tiny"]})
    assert status == 200
    status, body = raw(server[0], f"/gradio_api/call/sample/{said['event_id']}")
    assert status == 200 and b"sample takes 5 values, and 1 came." in body and b"Traceback" not in body


def test_many_callers_at_once_each_get_their_own(ask):
    with ThreadPoolExecutor(8) as threads:
        calls = {seed: threads.submit(ask, "sample", "tiny", seed % 5, seed=seed, steps=2) for seed in range(12)}
        said = {seed: call.result(120) for seed, call in calls.items()}
    assert all(f"seed {seed}," in each["title"] for seed, each in said.items())
    assert len({each["picture"] for each in said.values()}) == len(said)


def test_a_model_that_is_busy_says_so(server, ask):
    """More wait than the queue takes: the endpoint says it, as the page does."""
    import threading

    _, bench = server
    go, begun = threading.Event(), threading.Event()

    def holding():
        begun.set()
        go.wait(30)
        return {}
        yield

    held = bench.scheduler.submit(holding, LOOK, "held")
    assert begun.wait(30)
    waiting = [bench.scheduler.submit(holding, 1, str(owner)) for owner in range(16)]
    try:
        with pytest.raises(Exception, match="The model is busy: 16 others wait already"):
            ask("sample", "tiny", 1, steps=1)
    finally:
        for job in waiting:
            bench.scheduler.stop(job, keep=False)
        go.set()
    while not held.over:
        bench.scheduler.wait(held, held.number, 1)
    assert "class" in ask("sample", "tiny", 1, steps=1)["title"]
