"""How a typed function becomes a program: its arguments from its signature, its refusals as one sentence."""

import sys
from collections.abc import Callable

NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"  # as torch says it, by device


def run(function: Callable, name: str, arguments: list[str] | None = None) -> None:
    """Call `function` with the command line's arguments; bad input is a sentence on standard error and exit code 2."""
    import tyro

    try:
        tyro.cli(function, prog=name, args=arguments)
    except (ValueError, OSError) as error:
        stop(str(error), 2)
    except KeyboardInterrupt:
        stop("interrupted", 130)


def stop(sentence: str, code: int) -> None:
    """Leave with a sentence on standard error."""
    print(f"dit_lab: {sentence}", file=sys.stderr)
    sys.exit(code)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)
