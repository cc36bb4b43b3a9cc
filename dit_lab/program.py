"""How a typed function becomes a program: its arguments from its signature, its refusals as one sentence."""

import os
import re
import reprlib
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout, suppress
from difflib import get_close_matches
from functools import partial
from inspect import signature
from io import StringIO
from itertools import takewhile

# What to turn when memory runs out, by program.
FEWER = "take a smaller --batch-size, which is part of what is compared, or a device with more memory"
LESS = {
    "dit_lab train": "take more passes (--accumulate), --checkpointing, --precision bf16 or a smaller model",
    "dit_lab sample": "ask for fewer --labels at once, or take --device cpu",
    "dit_lab evaluate": "take a smaller --batch-size, and --out another folder",
    **dict.fromkeys(("dit_lab encode", "dit_lab experiment fewer-steps"), "take a smaller --batch-size"),
    "dit_lab convert": "a checkpoint is converted in memory, whole; take a machine with some three times its size",
    "dit_lab count": "ask for a smaller --input-size",
    "dit_lab bench": "take a smaller --batch or model",
    **dict.fromkeys((f"dit_lab experiment {name}" for name in ("four-blocks", "ladder", "scaling")), FEWER),
    **dict.fromkeys(("dit_lab experiment causal", "dit_lab experiment gallery"), "ask for fewer --steps"),
    **dict.fromkeys(("dit_lab experiment spectrum", "dit_lab search-steps"), "ask for fewer --samples"),
    "dit_lab experiment how-many": "take a smaller --pool and --reference",
    "dit_lab.zoo.check": "ask for fewer --samples and --distance-samples",
    "dit_lab.zoo.judge": "take a smaller --size",
    **dict.fromkeys(("dit_lab train-vae", "dit_lab.zoo.vae"), "take a smaller --batch-size, or a narrower VAE"),
    "app.py": "take a smaller --checkpoint, or --device cpu",
}
NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"  # as torch says it, by device
DEVICE = re.compile("CUDA|CUDNN|cuDNN|CUBLAS|NCCL|NVIDIA|HIP|MPS")  # as torch says that one fails, and not the program
PIP = {"PIL": "pillow", "sklearn": "scikit-learn"}  # packages that are installed by another name
MOST = 300  # letters of a sentence
KINDS = {  # what an option takes, by tyro's word for it
    "INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "a name", "{FLOAT FLOAT}": "two numbers",
    "[INT [INT ...]]": "whole numbers", "INT|{INT INT}": "one or two whole numbers",
    "FLOAT|{[FLOAT [FLOAT ...]]}": "numbers", "FLOAT FLOAT": "two numbers"}  # fmt: skip


class Stopped(SystemExit):
    """The end of a program that has said why."""


def run(function: Callable, name: str, arguments: list[str] | None = None) -> None:
    """Call `function` with the command line's arguments; whatever `refusing` knows is one sentence.

    So is what is wrong with the command line, with exit code 2. A function that has a parameter `words` gets that line
    in it as it was typed: values do not tell what was given from what is at its default.
    """
    given = sys.argv[1:] if arguments is None else arguments
    function = partial(function, words=tuple(given)) if "words" in signature(function).parameters else function
    with refusing(name):
        import tyro
        from tyro._errors import on_parse_error  # not public: requirements.txt holds tyro to versions that have it

        with on_parse_error(partial(refuse_usage, function, name, given)):
            tyro.cli(function, prog=name, args=given)


def refuse_usage(function: Callable, name: str, arguments: list[str], event) -> None:
    """Stop with what is wrong with a command line, where there are words for it; else tyro shows it itself."""
    if sentence := misspelt(function, arguments) or wrong(event, arguments):
        stop(f"{sentence} {name} --help shows all options.", 2)


@contextmanager
def refusing(name: str):
    """Inside, bad input ends the program `name` with a sentence on standard error and exit code 2.

    So do a missing package and a compiler that fails; memory that runs out and a device that fails do with exit code 1,
    Ctrl-C with 130, and a pipe that nobody reads any more with 141 and no word. All else is a fault of ours.
    """
    with interruptible(), warnings_last():
        try:
            try:
                yield
            finally:
                sys.stdout.flush()  # a closed pipe is met here, and not after the end
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
            raise Stopped(128 + signal.SIGPIPE) from None
        except KeyboardInterrupt:
            stop("interrupted", 130)
        except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
            sentence, code = told(error, name)
            if not sentence:
                raise
            stop(sentence, code)


def told(error: Exception, name: str) -> tuple[str, int]:
    """The sentence of an error that is the user's matter, and the exit code; an empty one where it is ours."""
    words, kind = str(error), type(error)
    first = words.partition("\n")[0]
    if isinstance(error, ImportError):
        return missing(error, first), 2
    if isinstance(error, (ValueError, OSError)):
        return words, 2
    if out_of_memory(error):
        return f"out of memory; {LESS.get(name, 'take a machine with more')}", 1
    if kind.__module__.startswith(("torch._inductor", "torch._dynamo")):
        advice = "it needs a working C++ compiler, g++ or what CXX names; train without --compile, or --compile no"
        return f"compiling failed ({quoted(first, 120)}): {advice}", 2
    if DEVICE.search(first) or kind.__name__ == "AcceleratorError":
        return f"the device failed ({quoted(first, 200)}); another one, such as --device cpu, may do", 1
    return "", 1


def missing(error: ImportError, first: str) -> str:
    """The sentence for a package that is not there or does not fit; none where it is a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package == __name__.partition(".")[0]:
        return ""
    if isinstance(error, ModuleNotFoundError) and package:
        return f"this needs the package {package}, which is not installed here: pip install {PIP.get(package, package)}"
    return f"a package does not fit or is missing ({quoted(first, 160)}): pip install -r requirements.txt brings all"


def stop(sentence: str, code: int) -> None:
    """Leave with a sentence, on one line, on standard error."""
    print(f"dit_lab: {one_line(sentence)}", file=sys.stderr)
    raise Stopped(code)


@contextmanager
def warnings_last():
    """Show what libraries warn of at the end, not beside a sentence; nor at all where the program stops with one.

    With Python's -W or PYTHONWARNINGS they come as they are raised.
    """
    if sys.warnoptions:
        yield
        return
    held, show = [], warnings.showwarning
    warnings.showwarning = lambda *warned: held.append(warned)
    try:
        yield
    except Stopped:
        held.clear()
        raise
    finally:
        warnings.showwarning = show
        for warned in held:
            show(*warned)


@contextmanager
def interruptible():
    """Inside, Ctrl-C amid an import ends the process there and then: half a library fails later, in its own words."""

    def interrupt(number, frame):
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":  # where Python imports
                os.write(2, b"dit_lab: interrupted\n")
                os._exit(130)
            frame = frame.f_back
        raise KeyboardInterrupt

    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.default_int_handler:  # ours is there already, or somebody has chosen, as nohup does
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


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
    text = escaped(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def escaped(text: str) -> str:
    """The text with its control characters, line ends included, as Python spells them."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(text: str, most: int = MOST) -> str:
    """The text on one line, of `most` letters: what is too long loses its middle, for advice stands at the end."""
    head, tail = escaped(text[:most]), escaped(text[-most:])
    if len(text) <= most and len(head) <= most:
        return head
    kept = most // 3
    return f"{head[: most - kept - 5]} ... {tail[-kept:]}"


def misspelt(function: Callable, arguments: list[str]) -> str:
    """The sentence for the first option that a function does not take, with the nearest that it does; or none."""
    import tyro

    with redirect_stdout(StringIO()) as shown, suppress(SystemExit):
        tyro.cli(function, args=["--help"])
    known = re.findall(r"--[a-z][a-z-]*", shown.getvalue())
    for option in (word.partition("=")[0] for word in arguments if re.match("--?[A-Za-z]", word)):
        if (asked := option.replace("_", "-")) not in known:
            near = get_close_matches(asked[:80], known, n=1)
            return f"there is no option {quoted(option)}{f'; did you mean {near[0]}?' if near else '.'}"
    return ""


def wrong(event, arguments: list[str]) -> str:
    """tyro's finding as a sentence; none for one that it has no words for, which tyro then shows itself."""
    kind, argument = type(event).__name__, getattr(event, "argument", None)
    if kind == "UnrecognizedArgs":
        return f"{quoted(event.tokens[0])} is one argument too many."
    if kind == "MissingArgs":
        lacking = [context.arg for context in event.missing_arguments]
        return f"{', '.join(map(spelt, lacking))} {'is' if len(lacking) == 1 else 'are'} missing."
    if kind == "InvalidChoice":
        choices = sorted({*event.choices} - {"None"})
        near = get_close_matches(event.value[:80], choices, n=4, cutoff=0.3)
        what = f"it is one of {', '.join(choices)}" if len(choices) <= 8 else f"the nearest are {', '.join(near)}"
        return f"{spelt(argument)} cannot be {quoted(event.value)}: {what}."
    if kind in ("BadValue", "InstantiationFailure") and argument is not None:
        metavar, usual = argument.lowered.metavar, argument.field.default
        off = " or None" if "{None}|" in metavar and usual is not None else ""
        kind = metavar.replace("{None}|", "")
        got = "not " + quoted(words) if (words := given(arguments, argument.lowered.name_or_flags)) else "and got none"
        return f"{spelt(argument)} takes {KINDS.get(kind, kind)}{off}, {got}."
    return ""


def spelt(argument) -> str:
    """An option of tyro's as one types it, an argument without a name by its meaning."""
    if not argument.is_positional():
        return argument.lowered.name_or_flags[0]
    return f"{argument.field.intern_name} ({argument.field.helptext.rstrip('.')})"


def given(arguments: list[str], flags: tuple[str, ...]) -> str:
    """The words that follow an option."""
    for place, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option.replace("_", "-") in flags:
            return value if equals else " ".join(takewhile(lambda w: not w.startswith("--"), arguments[place + 1 :]))
    return ""
