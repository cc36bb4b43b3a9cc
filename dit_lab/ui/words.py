"""How the app says how things stand: places in the queue, progress of long answers, and exceptions as sentences."""

from collections.abc import Callable, Generator
from contextlib import closing

from dit_lab.inside.walking import relayed
from dit_lab.panels import Progress
from dit_lab.program import one_line, out_of_memory

MOST = 600  # letters of a sentence


def ahead(count: int) -> str:
    """How many go before one that waits."""
    return f"{count} run{'s' * (count != 1)}" if count else "the step that is under way"


def answering(ask: Callable, after: Callable | None = None) -> Generator[dict, None, dict]:
    """A panel's answer as work, `{answer}`: with news of the progress of one that comes in parts."""
    answer = ask()
    if isinstance(answer, Generator):
        with closing(answer):
            answer = yield from relayed(answer, progressed)
    if after:
        after()
    return {"answer": answer}


def progressed(progress) -> dict:
    """The progress of an answer as news."""
    return {"progress": progress._asdict() if isinstance(progress, Progress) else {}}


def sentence(error: Exception) -> str:
    """What the page says of an exception: its own words, on one line, or that it was not foreseen."""
    if out_of_memory(error):
        return "The memory ran out: take fewer pictures, fewer steps or a smaller size."
    if isinstance(error, ValueError | OSError):
        return one_line(" ".join(str(error).split()), MOST) or type(error).__name__
    return f"That did not work ({type(error).__name__}: {one_line(' '.join(str(error).split()), MOST // 2)})."
