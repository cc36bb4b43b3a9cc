"""The one writer: what is no file is refused, what is there is kept or replaced whole, and nobody else's is touched."""

import json
import os
import re
import resource
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared import processes, stirred

from dit_lab.checkpoints import load, save
from dit_lab.files import (
    add_line,
    apart,
    atomic,
    blank,
    check_fields,
    clear,
    read_json,
    writable,
    write_json,
    write_tensors,
)
from dit_lab.inside import TraceError, record
from dit_lab.training.state import is_number

WRITERS = {
    "atomic": lambda path: put(path, "new"),
    "write_json": lambda path: write_json(path, {"new": 1}),
    "write_tensors": lambda path: write_tensors(path, {"x": torch.ones(3)}, {}),
    "add_line": lambda path: add_line(path, {"new": 1}),
}


def put(path, text):
    with atomic(path) as partial:
        partial.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["device", "pipe", "socket", "folder"])
def no_file(request, tmp_path, monkeypatch):
    """Something that is no regular file, and the word for it."""
    path = tmp_path / request.param
    if request.param == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # another /dev/null
        except PermissionError:
            pytest.skip("only root makes devices")
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            monkeypatch.chdir(tmp_path), bound.bind("socket")  # whose path must be short
    else:
        path.mkdir()
    return path, request.param


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_regular_file_is_refused_and_stays_what_it_is(writer, no_file):
    path, what = no_file
    before = os.lstat(path)
    told = f"could not write {path}: it is a {what}; give a file's name"
    for attempt in (WRITERS[writer], writable):
        with pytest.raises(OSError, match=re.escape(told)):
            attempt(path)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert names(path.parent) == [what]


def test_dev_null_is_refused_before_any_work():
    with pytest.raises(OSError, match="could not write /dev/null: it is a device"):
        writable(Path("/dev/null"))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(writer, there, tmp_path):
    (tmp_path / "far").mkdir(), (tmp_path / "near").mkdir()
    target, link = tmp_path / "far" / "a.json", tmp_path / "near" / "b.json"
    if there:
        target.write_text('{"old": 1}\n')
    link.symlink_to("../far/a.json")
    (tmp_path / "near" / "c.json").symlink_to("b.json")  # and a link to the link
    writable(tmp_path / "near" / "c.json")
    WRITERS[writer](tmp_path / "near" / "c.json")
    assert link.is_symlink() and os.readlink(link) == "../far/a.json" and not target.is_symlink()
    assert target.read_bytes() and target.read_bytes() != b'{"old": 1}\n'
    assert names(tmp_path / "far") == ["a.json"] and names(tmp_path / "near") == ["b.json", "c.json"]


def test_links_that_lead_nowhere_are_said_before_any_work(tmp_path):
    (tmp_path / "into").symlink_to("nosuch/file"), (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="into: it is a link into .*nosuch, which is not there"):
        writable(tmp_path / "into")
    with pytest.raises(OSError, match="could not write .*round: Too many levels of symbolic links"):
        writable(tmp_path / "round")
    with pytest.raises(OSError, match="could not write .*round: Too many levels"):
        put(tmp_path / "round", "")
    assert names(tmp_path) == ["into", "round"]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_mode(writer, mode, tmp_path):
    path = tmp_path / "a"
    path.write_text("old\n")
    path.chmod(mode)
    WRITERS[writer](path)
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() != b"old\n"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_new_file_has_the_mode_that_the_umask_asks_for(writer, tmp_path):
    before = os.umask(0o027)
    try:
        WRITERS[writer](tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_secret_is_nobodys_to_read_while_it_is_written(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o600)
    with atomic(tmp_path / "a") as partial:
        partial.write_text("new")
        assert stat.S_IMODE(partial.parent.stat().st_mode) == 0o700 and partial.parent.name.startswith(".a.")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path):
    (tmp_path / "a").write_text("old")
    os.chown(tmp_path / "a", 12345, 54321)
    put(tmp_path / "a", "new")
    found = (tmp_path / "a").stat()
    assert (found.st_uid, found.st_gid) == (12345, 54321) and (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_file_is_refused_also_to_root(writer, tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o444)
    for attempt in (WRITERS[writer], writable):
        with pytest.raises(OSError, match=f"could not write {tmp_path / 'a'}: it is read-only; make it writable"):
            attempt(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize("writer", ["atomic", "write_tensors"])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(writer, tmp_path, limited):
    WRITERS[writer](tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with limited(resource.RLIMIT_FSIZE, 100), pytest.raises(OSError, match=f"could not write {tmp_path / 'a'}: "):
        if writer == "atomic":
            put(tmp_path / "a", "x" * 1000)
        else:
            write_tensors(tmp_path / "a", {"x": torch.zeros(1000)}, {})
    assert (tmp_path / "a").read_bytes() == before and names(tmp_path) == ["a"]


def die_writing(path):
    """In a process: be killed in the middle of a file."""
    with atomic(path) as partial:
        partial.write_text("half")
        (partial.parent / ".tmpX").write_text("as safetensors writes, beside")
        os.kill(os.getpid(), signal.SIGKILL)


def killed(path):
    process = processes.Process(target=die_writing, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_killed_half_way_the_old_file_is_whole_and_the_next_save_of_it_clears_its_own_leftovers(tmp_path):
    put(tmp_path / "a.json", "old"), put(tmp_path / "b.json", "other")
    killed(tmp_path / "a.json"), killed(tmp_path / "a.json"), killed(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == "old" and len(names(tmp_path)) == 4  # the second cleared the first's
    put(tmp_path / "a.json", "new")
    left = names(tmp_path)
    assert left[1:] == ["a.json", "b.json"] and re.fullmatch(r"\.b\.json\.[0-9a-f]{12}\.partial", left[0])
    put(tmp_path / "b.json", "new")
    assert names(tmp_path) == ["a.json", "b.json"]


def write_slowly(path, text, begun, go):
    """In a process: begin a file, say so, and end it when told."""
    with atomic(path) as partial:
        partial.write_text(text)
        begun.set()
        go.wait(60)


def test_what_a_living_process_writes_is_never_cleared(tmp_path):
    begun, go = processes.Event(), processes.Event()
    process = processes.Process(target=write_slowly, args=(tmp_path / "a", "theirs", begun, go))
    process.start()
    assert begun.wait(60)
    put(tmp_path / "a", "ours")  # which clears what dead ones left of the same file
    clear(tmp_path, "a|b")
    assert (tmp_path / "a").read_text() == "ours" and len(names(tmp_path)) == 2
    go.set()
    process.join(60)
    assert process.exitcode == 0 and (tmp_path / "a").read_text() == "theirs" and names(tmp_path) == ["a"]


def test_files_of_other_names_and_of_other_kinds_are_left_alone(tmp_path):
    others = [".notes.partial", ".a.partial", ".a.0123456789ab.partial", ".ba.0123456789ab.partial", "a.tmp"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".a.old.0123456789ab.partial").mkdir()
    (tmp_path / "below").mkdir()
    killed(tmp_path / "below" / "a")
    put(tmp_path / "a", "new"), clear(tmp_path, "a")
    assert set(others) < {*names(tmp_path)} and (tmp_path / ".a.old.0123456789ab.partial").is_dir()
    assert len(names(tmp_path / "below")) == 1


def many_times(path, text):
    """In a process: write a file over and over."""
    for _ in range(150):
        put(path, text)


def test_many_who_write_one_file_at_once_all_write_it_whole(tmp_path):
    started = [processes.Process(target=many_times, args=(tmp_path / "a", text * 5000)) for text in "abc"]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started):
        text = (tmp_path / "a").read_text() if (tmp_path / "a").exists() else "a" * 5000
        assert len(text) == 5000 and len({*text}) == 1
        time.sleep(0.001)
    assert [process.exitcode for process in started] == [0, 0, 0] and names(tmp_path) == ["a"]


def test_an_error_within_another_file_names_that_file_once(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError) as caught, atomic(tmp_path / "a"):
        write_json(tmp_path / "b", {})
    assert str(caught.value) == f"could not write {tmp_path / 'b'}: it is a folder; give a file's name"
    assert names(tmp_path) == ["b"]


def test_two_outputs_that_are_one_file_are_refused_by_whatever_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text(""), (tmp_path / "link").symlink_to("a"), (tmp_path / "c").symlink_to("new")
    pairs = [("a", "a"), ("a", "link"), ("new", "c"), ("a", "sub/../a"), ("a", tmp_path / "a"), ("x/y", "x/./y")]
    for one, other in pairs:
        with pytest.raises(ValueError, match="are the same file; give each a name of its own"):
            writable(Path(one), Path("other"), Path(other))
    apart(Path("a"), Path("new"), Path("sub/a")), writable(Path("a"), Path("new"))


def test_a_blank_json_keeps_its_link_and_mode_and_one_that_is_not_there_is_not_made(tmp_path):
    (tmp_path / "real").write_text('{"a": 1}'), (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    blank(tmp_path / "link"), blank(tmp_path / "none")
    assert (tmp_path / "link").is_symlink() and json.loads((tmp_path / "real").read_text()) == {}
    assert names(tmp_path) == ["link", "real"] and stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600


def test_tensors_are_read_as_they_were_written_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to("real.safetensors")
    write_tensors(tmp_path / "link", {"x": torch.arange(4.0)}, {"a": 1})
    assert load_file(tmp_path / "real.safetensors")["x"].equal(torch.arange(4.0))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1]", "it is a JSON list, no object"),
        (b"5", "it is a JSON int, no object"),
        (b"{", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, "it is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is no JSON"),
        (b'{"a": "' + b"x" * 200_000 + b'"}', "it has more than 100,000 bytes"),
    ],
    ids=range(8),
)
def test_json_that_is_no_object_or_too_large_is_refused_soon(content, told, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=told):
        read_json(tmp_path / "a.json", 100_000 if "more" in told else 2**24)
    assert time.monotonic() - begun < 2


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="it is no file"):
        read_json(tmp_path / "a.json")


def test_fields_are_checked_and_what_is_wrong_is_quoted_shortly():
    check_fields({"a": 1.5}, a=(is_number, "a number"))
    for wrong in (True, "5", None, 10**400, [1], "x" * 10_000, "\n\x1b[31m"):
        with pytest.raises(ValueError, match="its a should be a number, not ") as caught:
            check_fields({"a": wrong}, a=(is_number, "a number"))
        assert len(str(caught.value)) < 150 and str(caught.value).isprintable()


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny checkpoint in a folder of its own."""
    model = stirred("DiT-nano/4", in_channels=1, input_size=8, num_classes=10, depth=1, dim=16, heads=2)
    return save(tmp_path / "model", model, codec_hint="pixels")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sample", "--labels", 1, "--out", "a.png", "--trace", "./a.png"], "are the same file; give each a name"),
        (["sample", "--labels", 1, "--out", "a.png", "--trace", "link"], "are the same file; give each a name"),
        (["sample", "--labels", 1, "--out", "pipe.png"], "could not write pipe.png: it is a pipe; give a file's name"),
        (["sample", "--labels", 1, "--out", "b.png", "--trace", "/dev/null"], "could not write /dev/null: it is a dev"),
        (
            ["convert", "kept.pt", "--to", "meta_dit", "--overwrite"],
            "could not write kept.pt: it is read-only; make it",
        ),
        (["convert", "out.pt", "--to", "udit"], "could not write out.json: it is a pipe; give a file's name"),
        (
            ["convert", "folder", "--to", "dit_lab", "--overwrite"],
            "model.safetensors: it is a pipe; give a file's name",
        ),
    ],
)
def test_commands_refuse_what_they_cannot_write_before_any_work(
    arguments, told, checkpoint, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a.png"), (tmp_path / "kept.pt").touch(0o444), (tmp_path / "folder").mkdir()
    for pipe in "pipe.png", "out.json", "folder/model.safetensors":
        os.mkfifo(tmp_path / pipe)
    for name in "sample", "convert":
        loads = f"dit_lab.commands.{name}.load"
        monkeypatch.setattr(loads, lambda *_, **__: pytest.fail("something was loaded"))
    before = sorted(tmp_path.rglob("*"))
    name, *rest = arguments
    code, _, said = command(name, checkpoint, *rest)
    assert code == 2 and said.count("\n") == 1 and told in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trajectory_is_not_saved_in_the_place_of_a_device(checkpoint, no_file):
    path, what = no_file
    trajectory = record(load(checkpoint).model, [1], steps=1)
    for place in (path, Path("/dev/null")):
        with pytest.raises(TraceError, match=f"could not write {place}: it is a "):
            trajectory.save(place)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_checkpoint_converted_over_another_keeps_its_links_and_modes(checkpoint, command, tmp_path):
    (tmp_path / "far").mkdir()
    for name in "out.pt", "out.json":
        (tmp_path / "far" / name).write_text("{}"), (tmp_path / "far" / name).chmod(0o600)
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    code, _, said = command("convert", checkpoint, tmp_path / "out.pt", "--to", "meta_dit", "--overwrite")
    assert code == 0 and said == ""
    assert load(tmp_path / "out.pt").config == load(checkpoint).config
    for name in "out.pt", "out.json":
        assert (tmp_path / name).is_symlink() and stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
