"""What is taken away and brought back: the Python makes the same bits, and no file does harm."""

import json
import struct
from base64 import b64decode, b64encode

import pytest
import torch
from shared import random_model
from small_workbench import Page, saved, workbench

from dit_lab.files import write_tensors
from dit_lab.inside import Trajectory, record
from dit_lab.panels import NAMES

PLACE = {"step": 2, "sample": 1, "patch": 5, "block": 1, "head": 1, "half": "uncond"}


def executed(text: str) -> dict:
    found = {}
    exec(compile(text, "snippet", "exec"), found)
    return found


def brought(page, name, data: bytes) -> dict:
    """The end of opening a file."""
    return page.follow(page.ok("open", name=name, data=b64encode(data).decode())["job"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "ddim", "eta": 0.3, "cfg_channels": 2, "cfg_interval": [100, 700], "seed": 2**62},
        {"name": "u", "cfg_scale": 1, "sampler": "ddpm"},
        {"precision": "bf16"},
    ],
)
def test_the_python_for_a_picture_makes_it_bit_for_bit_and_looks_where_the_page_looks(page, changes):
    if changes.get("precision", "fp32") not in page.about("tiny")["precisions"]:
        pytest.skip("this CPU has no kernels for bf16")
    end = page.sample(labels=[1, 3], **changes)
    opened = page.opened(end["run"]["id"])
    made = executed(page.ok("python", run=opened.id, place=PLACE)["text"])
    assert torch.equal(made["pictures"], opened.trajectory.sample)
    assert torch.equal(made["x0"], opened.trajectory.x0[2, 1])
    rows = opened.trajectory.patch_rows(opened.model, 2, 5, sample=1, half="uncond")
    stage, blocks = next(each for each in opened.config.stage_blocks.items() if 1 in each[1])
    assert torch.equal(made["shown"], rows[stage][1 - blocks.start][1])
    mean = executed(page.ok("python", run=opened.id, place=PLACE | {"head": "mean"})["text"])
    assert torch.equal(mean["shown"], rows[stage][1 - blocks.start].mean(0))
    assert "rows" not in page.ok("python", run=opened.id, place={"step": 1})["text"]
    assert "Step must be" in page.error("python", run=opened.id, place={"step": 4})


def test_the_python_for_a_stopped_run_makes_the_steps_that_are_shown(page):
    settings = page.settings(steps=400, sampler="ddim")
    job = page.ok("start", settings=settings)["job"]
    while page.ok("poll", job=job, seen=0).get("step", 0) < 2:
        pass
    page.ok("stop", job=job)
    end = page.follow(job)
    opened = page.opened(end["run"]["id"])
    text = page.ok("python", run=opened.id, place={"step": 1})["text"]
    assert f"the first {end['step']} of these steps" in text
    made = executed(text)
    assert torch.equal(made["run"].x0[: end["step"]], opened.trajectory.x0)


def test_a_run_that_is_saved_opens_in_a_notebook_and_in_the_page_again(page, tmp_path, bench):
    end = page.sample(labels=[0, 2], seed=4)
    file = page.ok("save", run=end["run"]["id"])
    (tmp_path / file["name"]).write_bytes(b64decode(file["data"]))
    run = Trajectory.load(tmp_path / file["name"])
    assert file["name"] == "tiny.safetensors" and torch.equal(run.x, page.opened(end["run"]["id"]).trajectory.x)
    again = brought(page, file["name"], b64decode(file["data"]))
    assert again["state"] == "done" and again["run"]["live"] and again["run"]["source"] == "tiny"
    assert again["about"]["name"] == "tiny" and again["settings"]["seed"] == 4 and again["run"]["note"] == ""
    done = page.follow(page.ok("start", settings=again["settings"])["job"])
    assert torch.equal(page.opened(done["run"]["id"]).trajectory.sample, run.sample)


def test_a_run_is_matched_by_what_its_model_says_not_by_its_config_alone(tmp_path):
    alike = random_model()
    with torch.no_grad():
        alike.out.weight.mul_(1.02)
    with workbench(saved(tmp_path, first=alike, second=random_model())) as bench:
        page, model, data = Page(bench), bench.checkpoints.get("second").model, {}
        for name, options in (("known", {}), ("listed", {"steps": [900, 400, 20]}), ("sure", {"sampler": own})):
            record(model, [1], **({"steps": 3} | options)).save(tmp_path / "run.safetensors")
            data[name] = (tmp_path / "run.safetensors").read_bytes()
        assert brought(page, "x", data["known"])["run"]["source"] == "second"
        assert len(brought(page, "x", data["listed"])["run"]["t"]) == 3
        strange = brought(page, "x", data["sure"])
        text = page.ok("python", run=strange["run"]["id"], place={})["text"]
        assert "Trajectory.load('second.safetensors')" in text
        with torch.no_grad():
            for name in ("first", "second"):
                bench.checkpoints.get(name).model.out.weight.mul_(-1)
        alone = brought(page, "x", data["known"])
        assert not alone["run"]["live"] and "No checkpoint of this app" in alone["run"]["note"] and "about" not in alone
        for name in NAMES:
            if name not in ("training", "tour"):
                assert set(page.call("data", run=alone["run"]["id"], panel=name)) == {"ok"}
        asked = {"look": "rows", "step": 1, "patch": 3, "sample": 0, "half": "cond"}
        assert "Only the recording is open" in page.error(
            "ask", run=alone["run"]["id"], panel="attention", request=asked
        )
        assert "Trajectory.load('run.safetensors')" in page.ok("python", run=alone["run"]["id"], place={})["text"]


def own(process, now, before, ask, noise, eta):
    """A sampler of somebody's own."""
    return now.x0


def hostile(tmp_path) -> dict[str, bytes]:
    """Files that would do harm, or make no sense, to who believes them."""
    path = tmp_path / "run.safetensors"
    record(random_model(), [1], steps=2).save(path)
    good = path.read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    about = json.loads(header["__metadata__"]["dit_lab"])

    def told(**changes) -> bytes:
        text = json.dumps(header | {"__metadata__": {"dit_lab": json.dumps(about | changes)}}).encode()
        return struct.pack("<Q", len(text)) + text + good[8 + size :]

    write_tensors(path, {"x": torch.zeros(1)}, {"format": "something else"})
    return {
        "cut short": good[: len(good) // 2], "empty": b"", "pickle": b"\x80\x04cos\nsystem\n(S'echo'\ntR.",
        "another file": path.read_bytes(), "huge header": struct.pack("<Q", 2**62) + good[8:],
        "depth": told(config=about["config"] | {"depth": 10**9}),
        "size": told(config=about["config"] | {"input_size": [10**9, 10**9]}),
        "classes": told(config=about["config"] | {"num_classes": 10**30}), "labels": told(labels=[10**9]),
        "architecture": told(config={"architecture": "os"}), "steps": told(options=about["options"] | {"steps": 2**40}),
        "nan": told(options=about["options"] | {"cfg_scale": float("nan")}), "version": told(version=99),
        "none": told(t=None),
    }  # fmt: skip


def test_a_hostile_file_is_a_sentence_that_names_no_path_of_the_server(page, tmp_path):
    for name, data in hostile(tmp_path).items():
        said = page.error("open", name=f"<{name}>.safetensors", data=b64encode(data).decode())
        assert len(said) < 700 and "/tmp" not in said and "Traceback" not in said, (name, said)
        assert f"<{name}>.safetensors" in said
    for data in (None, 7, [], "no base64 é", "A" * (2**26)):
        assert page.error("open", name=None, data=data).startswith("The file ")
    assert page.sample(steps=1)["state"] == "done"
