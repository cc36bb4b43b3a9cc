"""Who works in a folder: one at a time, and the second is told who is there. A killed process holds nothing."""

import errno
import json
import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

from dit_lab.files import check_fields, make_folder, read_json
from dit_lab.training.parallel import anywhere, processes

LOCK, HOLDER = ".lock", ".lock.json"  # what the system locks, and beside it, for people, who did
WAIT = 0.3  # seconds, for one that is just about to end
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# What is there said of a holder is shown to people, so it is plain words.
TOLD = {"work": r"[a-z ]{1,40}", "host": r"[\w.-]{1,80}", "since": r"[\d:+T -]{1,40}"}


def hold(folder: Path, work: str) -> ExitStack:
    """Make a folder and hold it for some `work` (such as "training"), until what is returned is closed.

    However the process ends, the folder is free again. Of several processes of one launch, which must all ask, the
    main one holds it for all. Raises ValueError that says who is there, OSError where the folder cannot be written.
    """
    return together(folder, lambda held: take(folder, work, held))


def check_free(folder: Path) -> None:
    """Raise ValueError, before any work, where somebody holds a folder. Every process of a launch must ask."""
    together(folder, lambda held: take(folder, "looking", held) if folder.is_dir() else None).close()


def together(folder: Path, attempt: Callable) -> ExitStack:
    """What the main process alone attempts, filling a stack; where that is refused, all processes are."""
    held, refusal = ExitStack(), None
    if processes().is_main_process:
        try:
            attempt(held)
        except (ValueError, OSError) as error:
            held.close()
            refusal = error
    if anywhere(refusal is not None):
        raise refusal or ValueError(f"the main process of this launch could not have {folder} for itself")
    return held


def take(folder: Path, work: str, held: ExitStack) -> None:
    """Hold a folder for this process until `held` is closed; one that it made, and that stayed empty, goes again."""
    from filelock import FileLock, Timeout  # here: it comes with torch, and not every run has a folder

    if not folder.exists():
        held.callback(remove_empty, folder)
    make_folder(folder)
    lock = FileLock(folder / LOCK, thread_local=False)  # a generator may be closed by another thread
    try:
        lock.acquire(timeout=WAIT, poll_interval=WAIT / 4)
    except Timeout:
        raise ValueError(f"{folder} is in use: {holder(folder)}; wait until it ends, or take another folder") from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise OSError(f"could not write {folder / LOCK}: {error.strerror or error}") from error
        print(f"dit_lab: {folder} is on a disk without locks; see that nobody else writes there", file=sys.stderr)
        return
    held.callback(release, lock, folder, (folder / LOCK).stat())
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    told = {"work": work, "process": os.getpid(), "host": socket.gethostname(), "since": since}
    with suppress(OSError):  # a disk that is full: held all the same, if by nobody knows whom
        (folder / HOLDER).write_text(json.dumps(told), encoding="utf-8")


def holder(folder: Path) -> str:
    """Who holds a folder, as far as he said."""
    fits = lambda pattern: lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None
    plain = {name: (fits(pattern), "plain words") for name, pattern in TOLD.items()}
    try:
        about = read_json(folder / HOLDER, 2**12)
        check_fields(about, process=(lambda value: type(value) is int and 0 < value < 2**63, "a number"), **plain)
    except (ValueError, OSError):
        return "another process works there"
    return f"{about['work']}, process {about['process']} on {about['host']}, since {about['since']}"


def release(lock, folder: Path, mine: os.stat_result) -> None:
    """Let go of a folder and leave no trace in it, unless it was replaced and is another's by now."""
    with suppress(OSError):
        if os.path.samestat((folder / LOCK).stat(), mine):
            (folder / HOLDER).unlink(missing_ok=True)
            (folder / LOCK).unlink()
    lock.release()


def remove_empty(folder: Path) -> None:
    """Remove a folder with nothing in it."""
    with suppress(OSError):
        folder.rmdir()
