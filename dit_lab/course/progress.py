"""What the reader has done so far, kept in a small file of their own: checks passed, guesses made, answers shown.

It lies in the user's cache folder; DIT_LAB_COURSE names another file. A file that cannot be read is as good as none,
and one that cannot be written stops nothing: then this session alone remembers.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dit_lab.files import check_fields, make_folder, read_json, user_cache, write_json

MOST = 2**20  # bytes
REMEMBERED: dict[Path, "Record"] = {}  # by this process, whether the file could be written or not


@dataclass
class Record:
    """Exercises `passed` by name, `guesses` by question, and the questions whose answer was `shown`."""

    passed: list[str] = field(default_factory=list)
    guesses: dict[str, str] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def joined(self, other: "Record") -> "Record":
        """Both together; where both guessed, the other's guess."""
        either = lambda one, two: list(dict.fromkeys([*one, *two]))
        return Record(either(self.passed, other.passed), self.guesses | other.guesses, either(self.shown, other.shown))


def place() -> Path:
    """The file that the record is kept in."""
    if told := os.environ.get("DIT_LAB_COURSE"):
        return Path(told).expanduser().absolute()
    return user_cache() / "course.json"


def read() -> Record:
    """What is kept, and what this process remembers."""
    try:
        content = read_json(place(), MOST)
        check_fields(
            content,
            passed=(is_names, "names of exercises"),
            guesses=(is_guesses, "texts by question"),
            shown=(is_names, "questions"),
        )
        kept = Record(content["passed"], content["guesses"], content["shown"])
    except (OSError, ValueError):
        kept = Record()
    return kept.joined(REMEMBERED.get(place(), Record()))


@contextmanager
def change() -> Iterator[Record]:
    """The record, kept as it is when the `with` block ends."""
    record = read()
    yield record
    REMEMBERED[place()] = record
    try:
        make_folder(place().parent)
        write_json(place(), asdict(record))
    except OSError:
        pass


def passed() -> set[str]:
    """The names of the exercises that were answered rightly here."""
    return set(read().passed)


def is_names(value) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_guesses(value) -> bool:
    """Whether a value of JSON is texts by name."""
    return isinstance(value, dict) and all(isinstance(guess, str) for guess in value.values())
