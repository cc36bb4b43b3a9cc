"""One at a time in a folder: the second is told who is there, and whoever is killed holds nothing."""

import errno
import json
import os
import re
import resource
import signal
import socket
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file
from shared import launch, processes, stirred, tiny_vae

from dit_lab.checkpoints import load, save
from dit_lab.data import open_data
from dit_lab.experiments import Kept, Ladder, Plan, carry_out
from dit_lab.training import TrainOptions, train
from dit_lab.training.folder import can_resume
from dit_lab.training.lock import HOLDER, LOCK, check_free, hold

QUICK = TrainOptions(steps=3, batch_size=4)
SHAPE = dict(in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)


def holding(folder, there, work):
    """In a process: hold a folder until told to let go."""
    with hold(folder, work):
        there.send("held")
        there.recv()


@pytest.fixture
def somebody():
    """A function that starts a process that holds a folder; `-> (the process, a function that lets it go)`."""
    started = []

    def start(folder, work="training"):
        here, there = processes.Pipe()
        process = processes.Process(target=holding, args=(folder, there, work))
        process.start()
        there.close()

        def let_go():
            with suppress(OSError):  # it was killed
                here.send("go")
            process.join(60)

        started.append(let_go)
        assert here.poll(60) and here.recv() == "held"
        return process, let_go

    yield start
    for let_go in started:
        let_go()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def model():
    return stirred("DiT-nano/4", **SHAPE).train()


def told_by(process, folder, work="training"):
    host = re.escape(socket.gethostname())
    since = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    who = f"{work}, process {process.pid} on {host}, since {since}"
    return f"{re.escape(str(folder))} is in use: {who}; wait until it ends, or take another folder$"


def test_the_second_is_told_who_is_there_and_afterwards_nothing_is_left(somebody, tmp_path):
    process, let_go = somebody(tmp_path / "run")
    for attempt in (lambda: hold(tmp_path / "run", "training"), lambda: check_free(tmp_path / "run")):
        with pytest.raises(ValueError, match=told_by(process, tmp_path / "run")) as caught:
            attempt()
        assert len(str(caught.value)) <= 300
    assert names(tmp_path / "run") == [LOCK, HOLDER] and not can_resume(tmp_path / "run")
    let_go()
    assert not (tmp_path / "run").exists()  # which it made, and left empty
    with hold(tmp_path, "training"):
        pass
    assert names(tmp_path) == []


def test_a_killed_process_holds_nothing(somebody, tmp_path):
    process, _ = somebody(tmp_path / "run")
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert names(tmp_path / "run") == [LOCK, HOLDER]  # what it left says nothing by itself
    check_free(tmp_path / "run")
    with hold(tmp_path / "run", "training"):
        assert json.loads((tmp_path / "run" / HOLDER).read_text())["process"] == os.getpid()


def compete(folder, go, pipe):
    """In a process: try to hold a folder at the same moment as others, and say how it went."""
    go.wait(60)
    try:
        with hold(folder, "training"):
            time.sleep(1)  # longer than another one waits
            pipe.send("held")
    except ValueError as error:
        pipe.send(str(error))


def test_of_several_at_once_exactly_one_holds(tmp_path):
    go, pairs = processes.Event(), [processes.Pipe() for _ in range(4)]
    started = [processes.Process(target=compete, args=(tmp_path / "run", go, there)) for _, there in pairs]
    for process in started:
        process.start()
    go.set()
    said = [here.recv() if here.poll(60) else "silence" for here, _ in pairs]
    for process in started:
        process.join(60)
    assert said.count("held") == 1 and sum("is in use: " in sentence for sentence in said) == 3


def test_a_run_whose_caller_still_has_its_steps_is_there_and_ends_with_them(tmp_path):
    steps = train(model(), open_data("digits"), QUICK, out=tmp_path / "run")
    next(steps)
    with pytest.raises(ValueError, match=f"is in use: training, process {os.getpid()} on "):
        train(model(), open_data("digits"), QUICK, out=tmp_path / "run", resume=True)
    steps.close()
    assert LOCK not in names(tmp_path / "run")
    list(train(model(), open_data("digits"), QUICK, out=tmp_path / "run", resume=True))
    assert LOCK not in names(tmp_path / "run")
    unbegun = train(model(), open_data("digits"), QUICK, out=tmp_path / "other")
    del unbegun  # it never took a step: its folder is free all the same
    check_free(tmp_path / "other")


def test_a_run_that_is_refused_leaves_its_folder_free(tmp_path):
    list(train(model(), open_data("digits"), QUICK, out=tmp_path / "run"))
    before = names(tmp_path / "run")
    for options, resume in (QUICK, False), (TrainOptions(steps=3, batch_size=5), True):
        with pytest.raises(ValueError, match="already holds a run|batch_size 4"):
            train(model(), open_data("digits"), options, out=tmp_path / "run", resume=resume)
    assert names(tmp_path / "run") == before
    with pytest.raises(ValueError, match="nothing to resume"):
        train(model(), open_data("digits"), QUICK, out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def home(tmp_path):
    """A folder with a tiny digit model and a tiny VAE."""
    save(tmp_path / "model", stirred("DiT-nano/4", **SHAPE), codec_hint="pixels")
    tiny_vae().save_pretrained(tmp_path / "vae")
    return tmp_path


@pytest.mark.parametrize(
    ("work", "arguments"),
    [
        ("training", ["train", "--steps", 2]),
        ("training", ["train", "--steps", 2, "--resume"]),
        ("encoding", ["encode", "--data", "digits", "--vae", "{home}/vae"]),
        ("evaluation", ["evaluate", "{home}/model", "--data", "digits", "--count", 10, "--steps", 1]),
    ],
    ids=["train", "resume", "encode", "evaluate"],
)
def test_every_command_says_who_is_in_its_folder_with_exit_code_2(work, arguments, home, somebody, command):
    (home / "out").mkdir()
    process, _ = somebody(home / "out", work)
    there = names(home / "out")
    given = [str(word).format(home=home) for word in arguments]
    code, _, said = command(*given, "--device", "cpu", "--out", home / "out")
    assert code == 2 and said.count("\n") == 1, said
    assert re.search(told_by(process, home / "out", work), said.strip()) and names(home / "out") == there


def test_an_experiment_says_who_is_in_its_folder(somebody, tmp_path):
    process, _ = somebody(tmp_path / "runs", "experiment")
    with pytest.raises(ValueError, match=told_by(process, tmp_path / "runs", "experiment")):
        carry_out(Ladder(), Plan(data="digits"), Kept(tmp_path / "runs", tmp_path / "results.json"))
    assert names(tmp_path) == ["runs"]


def test_a_checkpoint_is_loaded_while_its_run_goes_on(somebody, home, command):
    somebody(home / "model")
    assert load(home / "model").config.depth == 1
    out = ["--out", home / "1.png", "--device", "cpu"]
    assert command("sample", home / "model", "--labels", 1, "--steps", 1, *out)[0] == 0


def in_launch(folder, free):
    """In one of several processes: train together, and say how it went."""
    torch.set_num_threads(1)
    try:
        check_free(folder)
        return [step.step for step in train(model(), open_data("digits"), QUICK, out=folder)]
    except ValueError as error:
        return str(error)


def test_the_processes_of_one_launch_share_a_folder_and_are_refused_together(somebody, tmp_path):
    assert launch(2, in_launch, tmp_path / "run", True) == [[1, 2, 3]] * 2
    assert LOCK not in names(tmp_path / "run") and load_file(tmp_path / "run" / "state.safetensors")
    process, _ = somebody(tmp_path / "held")
    main, other = launch(2, in_launch, tmp_path / "held", False)
    assert re.match(told_by(process, tmp_path / "held"), main) and "could not have" in other


def test_a_holder_who_says_nothing_or_nonsense_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("dit_lab.training.lock.WAIT", 0.01)
    held = hold(tmp_path, "training")
    about = json.loads((tmp_path / HOLDER).read_text())
    strange = dict(host="\x1b[31m", work="x" * 10**4, since="a\nb", process=10**400)
    nonsense = ["", "{", "[]", '{"process": "x"}', '{"work": 5, "process": 1}', "[" * 4000]
    for content in (None, *nonsense, *(json.dumps(about | {name: value}) for name, value in strange.items())):
        (tmp_path / HOLDER).unlink() if content is None else (tmp_path / HOLDER).write_text(content)
        with pytest.raises(ValueError, match="is in use: another process works there; wait until it ends, or"):
            hold(tmp_path, "training")
    held.close()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(OSError, match=f"could not write {tmp_path / LOCK}: "):
        hold(tmp_path, "training")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not make the folder .*file"):
        hold(tmp_path / "file", "training")


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, capsys):
    import filelock

    def without(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    with hold(tmp_path, "training"), hold(tmp_path, "training"):
        pass
    told = f"dit_lab: {tmp_path} is on a disk without locks; see that nobody else writes there\n"
    assert capsys.readouterr().err == 2 * told


def test_a_full_disk_holds_all_the_same(tmp_path, limited):
    refused = pytest.raises(ValueError, match="another process works there")
    with limited(resource.RLIMIT_FSIZE, 0), hold(tmp_path, "training"), refused:
        hold(tmp_path, "training")
    assert names(tmp_path) == []


def test_a_folder_that_was_replaced_meanwhile_stays_anothers(tmp_path):
    ours = hold(tmp_path / "run", "training")
    (tmp_path / "run").rename(tmp_path / "moved")
    with hold(tmp_path / "run", "training"):
        ours.close()
        assert names(tmp_path / "run") == [LOCK, HOLDER]
        with pytest.raises(ValueError, match="is in use: training"):
            hold(tmp_path / "run", "training")
