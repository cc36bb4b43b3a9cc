"""Writing files so that a reader never meets half of one and nobody's is lost, and reading JSON that is checked.

What is written lies first in a hidden folder beside its place, `.NAME.<random>.partial`, and is then renamed into it.
"""

import hashlib
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dit_lab.program import quoted

try:
    import fcntl
except ImportError:  # Windows: there what a killed process left stays
    fcntl = None

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
MOST_JSON = 2**24  # bytes; what is read back here has some thousands


@contextmanager
def atomic(path: str | Path):
    """Yield a path to write to; on success what is there becomes `path`, on any failure the old file stays.

    A link stays one, and what it points to is replaced; a file that was there keeps its mode, and its owner where that
    may be. Killed half-way, the process leaves a hidden folder that nothing reads, which the next who writes the same
    file clears away. Raises OSError that names the file, also where it is none that can be replaced (`place_of`).
    """
    try:
        place = place_of(Path(path))
        clear(place.parent, re.escape(place.name))
        with room_beside(place) as room:
            partial = room / place.name
            partial.touch()
            mode = partial.stat().st_mode  # what the umask asks for; safetensors' files only their owner reads
            yield partial
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())
            dress(partial, place, mode)
            os.replace(partial, place)
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: str | Path, error: OSError) -> OSError:
    """What went wrong with a file as a sentence that names it, or the file that was written in between."""
    told = str(error)
    return OSError(told if told.startswith("could not write") else f"could not write {path}: {error.strerror or told}")


def place_of(path: Path) -> Path:
    """Where a file really lies, or will, its links followed. Raises OSError that says why it is not to be replaced."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {KINDS.get(stat.S_IFMT(mode), 'a device')}; give a file's name")
    if not (mode & 0o222 and os.access(path, os.W_OK)):  # the first for root, who may write all the same
        raise OSError("it is read-only; make it writable, or give another name")
    return Path(os.path.realpath(path))


@contextmanager
def room_beside(place: Path):
    """A folder for one writer, closed to others, whose lock says that he lives."""
    while True:
        # Not the process's number: two machines, or two containers, on one disk may have the same.
        room = place.with_name(f".{place.name}.{uuid4().hex[:12]}.partial")
        room.mkdir(0o700)
        lock = locked(room, wait=True)
        if room.is_dir():  # else somebody took it for a dead one's before it was locked
            break
    try:
        yield room
    finally:
        rmtree(room, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def locked(folder: Path, wait: bool) -> int | None:
    """A folder's lock as an open descriptor, which ends with the process; None where another has it, or none is."""
    lock = None
    try:
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except (OSError, AttributeError):  # a disk, or a system, without locks: then nothing is taken for a dead one's
        if lock is not None:
            os.close(lock)
        return None


def clear(folder: Path, names: str) -> None:
    """Remove what killed processes left half-written of files in a folder; `names` is a pattern of whole names.

    What is being written, by whomever, stays, and so does everything of another name.
    """
    whole, found = re.compile(rf"\.(?:{names})\.[0-9a-f]{{12}}\.partial"), []
    with suppress(OSError), os.scandir(folder) as entries:
        found = [Path(e.path) for e in entries if whole.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    for room in found:
        if (lock := locked(room, wait=False)) is not None:
            rmtree(room, ignore_errors=True)
            os.close(lock)


def dress(partial: Path, place: Path, mode: int) -> None:
    """Give what was written the owner and the mode of the file that it takes the place of; without one, `mode`."""
    with suppress(FileNotFoundError):
        old = place.stat()
        mode = old.st_mode
        for owner in (old.st_uid, -1), (-1, old.st_gid):
            with suppress(OSError, AttributeError):  # who may not give files away keeps it; Windows has no owners
                os.chown(partial, *owner)
    partial.chmod(stat.S_IMODE(mode))


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there. Raises OSError that names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"could not make the folder {path}: {error.strerror or error}") from error


def user_cache() -> Path:
    """The folder for what the user can do without, where this system has such things; nobody has made it yet."""
    home = os.path.expanduser("~")
    home = home if os.path.isabs(home) else tempfile.gettempdir()  # who has no home
    if sys.platform == "darwin":
        folder = Path(home, "Library", "Caches")
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path(home, "AppData", "Local"))
    else:
        told = os.environ.get("XDG_CACHE_HOME", "")
        folder = Path(told if os.path.isabs(told) else Path(home, ".cache"))
    return folder / "dit_lab"


def writable(*paths: Path) -> None:
    """Raise OSError, before any work, where one of a command's files cannot be written once its folders are made.

    Raises ValueError where two of them are one.
    """
    apart(*paths)
    for path in paths:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise OSError(f"could not write {path}: {above} is a file")
        try:
            place = place_of(path)
        except OSError as error:
            raise unwritten(path, error) from error
        folder = place.parent if path.is_symlink() else above
        if not folder.is_dir():
            raise OSError(f"could not write {path}: it is a link into {folder}, which is not there")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(f"could not write {path}: no permission in {folder}")


def apart(*paths: Path) -> None:
    """Raise ValueError where two of a command's files are one, by whatever names: one would replace the other."""
    for one, other in combinations(map(Path, paths), 2):
        same = os.path.realpath(one) == os.path.realpath(other)
        if same or (one.exists() and other.exists() and one.samefile(other)):
            raise ValueError(f"{one} and {other} are the same file; give each a name of its own")


def write_tensors(path: str | Path, tensors: dict, about: dict) -> None:
    """Write a safetensors file atomically, `about` as JSON in its metadata under the key `dit_lab`."""
    with atomic(path) as partial:
        store(partial, tensors, about)


def store(path: Path, tensors: dict, about: dict) -> None:
    """Write a safetensors file in place. Raises OSError, as for other files, when the disk is full."""
    metadata = {"format": "pt", "dit_lab": json.dumps(about)}
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def store_pickled(path: Path, tensors: dict) -> None:
    """Write PyTorch's own kind of file in place. Raises OSError, as for other files, when the disk is full."""
    try:
        torch.save(tensors, path)
    except RuntimeError as error:
        raise OSError(str(error).splitlines()[0]) from error


def checksum(tensors: dict[str, torch.Tensor]) -> str:
    """What tells tensors from others: the first digits of the SHA-256 of their bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def add_line(path: Path, content) -> None:
    """Add one whole line of JSON to a file, on a line of its own also after one that was cut off. Raises OSError."""
    try:
        with open(place_of(Path(path)), "ab+") as file:
            cut_off = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
            file.write(b"\n" * cut_off + json.dumps(content).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritten(path, error) from error


def write_json(path: str | Path, content) -> None:
    """Write indented JSON atomically."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def blank(path: Path) -> None:
    """Make a JSON file that is there say nothing, as if it were not; unlike then, its links, mode and owner stay."""
    if path.exists():
        write_json(path, {})


def read_json(path: Path, most: int = MOST_JSON) -> dict:
    """The JSON object in a file of at most so many bytes. Raises ValueError that says what it is instead."""
    if not path.is_file():
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        return json_object(file.read(most + 1), most)


def json_object(text: str | bytes, most: int = MOST_JSON) -> dict:
    """The JSON object in a text of at most so many letters. Raises ValueError that says what it is instead."""
    if len(text) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, no text, numbers of thousands of digits, nested too deep
        raise ValueError("it is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"it is a JSON {type(content).__name__}, no object")
    return content


def check_fields(content: dict, **wanted: tuple[Callable, str]) -> None:
    """Raise ValueError on the first field that is not as wanted: each is a test of its value, and that in words."""
    for name, (fits, words) in wanted.items():
        if not fits(content.get(name)):
            raise ValueError(f"its {name} should be {words}, not {quoted(content.get(name), 40)}")
