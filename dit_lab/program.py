"""How a typed function becomes a program: its arguments from its signature, its refusals as one sentence."""

import reprlib
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager

# What to turn when memory runs out, by program.
LESS = {
    "dit_lab train": "take more passes (--accumulate), --checkpointing, --precision bf16 or a smaller model",
    "dit_lab sample": "ask for fewer --labels at once, or take --device cpu",
    "dit_lab evaluate": "take a smaller --batch-size, and --out another folder",
    "dit_lab bench": "take a smaller --batch",
    "dit_lab experiment spectrum": "ask for fewer --samples",
    "app.py": "take a smaller --checkpoint, or --device cpu",
}
NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"  # as torch says it, by device


def run(function: Callable, name: str, arguments: list[str] | None = None) -> None:
    """Call `function` with the command line's arguments; bad input is a sentence on standard error and exit code 2.

    So is running out of memory, with exit code 1.
    """
    import tyro

    try:
        tyro.cli(function, prog=name, args=arguments)
    except (ValueError, OSError) as error:
        stop(str(error), 2)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        stop(f"out of memory; {LESS.get(name, 'take a smaller --batch-size')}", 1)
    except KeyboardInterrupt:
        stop("interrupted", 130)


def stop(sentence: str, code: int) -> None:
    """Leave with a sentence on standard error."""
    print(f"dit_lab: {sentence}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def stop_flag():
    """Collect the first Ctrl-C or SIGTERM in a list instead of dying within a step; a second one does interrupt."""
    stopped, previous = [], {}

    def put_back():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number, frame):
        put_back()
        stopped.append(number)

    previous |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        put_back()


def quoted(value, most: int = 80) -> str:
    """A value of a file or an argument as a sentence shows it: as Python spells it, on one line, cut at `most` letters.

    However large or deep it is, this takes no time: what would be cut is not spelt.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 4, 4, 4
    try:
        text = short.repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python spells
        text = f"a {type(value).__name__} that is too large"
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)
