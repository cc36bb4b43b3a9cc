"""What an experiment kept of what it did, read again: nothing in these files is believed before it is checked."""

from pathlib import Path

from dit_lab.checkpoints.reading import listed
from dit_lab.experiments.judge import ACCURACY, HELD_BACK, MEASURED, REBUILT, SPLITS
from dit_lab.files import check_fields, json_object, read_json
from dit_lab.training.folder import LOG
from dit_lab.training.state import is_number, is_step

FIGURES = ("train_loss", "test_mse", "test_vb", "frechet", "agreement", "seconds")
NUMBER, STEP = (is_number, "a number"), (is_step, "a whole number from 0")
NAME = (lambda value: isinstance(value, str), "a name")


# The rows of further parts, which a table may lack: samples by their steps, and by their decoder.
OF_A_MODEL = dict(model=NAME, seed=STEP, frechet=NUMBER, agreement=NUMBER)
OF_A_DECODER = OF_A_MODEL | dict(decoder=NAME, made=(lambda value: is_object(value), "an object"), rebuilt=NUMBER)
MORE = {"sampling": OF_A_MODEL | dict(steps=STEP), "decoders": OF_A_DECODER | dict(psnr=NUMBER)}


def read_results(path: Path) -> dict:
    """The table of an experiment so far. Raises ValueError on a file that is none."""
    try:
        table = read_json(path)
        check_fields(table, settings=(is_object, "an object"), runs=(is_objects, "a list of objects"))
        check_fields(table["settings"], **{MEASURED: NUMBER})
        if REBUILT in table["settings"]:
            check_fields(table["settings"], **{REBUILT: NUMBER})
        if ACCURACY in table["settings"]:
            check_fields(table["settings"], **{ACCURACY: NUMBER, HELD_BACK: STEP})
        if SPLITS in table["settings"]:
            check_fields(table["settings"], **{SPLITS: (is_names, "two names")})
        for row in table["runs"]:
            check_row(row)
        for part, fields in MORE.items():
            check_fields({part: table.get(part, [])}, **{part: (is_objects, "a list of objects")})
            for row in table.get(part, []):
                check_fields(row, **fields)
    except ValueError as error:
        raise ValueError(f"{path} holds no results of an experiment; give --results another name ({error})") from error
    return table


def check_settings(path: Path, before: dict, now: dict) -> None:
    """Raise ValueError where results were made with other settings than would be gone on with."""
    if changed := [name for name in now if before.get(name) != now[name]]:
        raise ValueError(f"{path} was made with another {listed(changed)}; give --results another name")


def check_row(row: dict) -> None:
    """Raise ValueError where a run of a table lacks what is told of it; some that ship have no curve."""
    check_fields(row, model=NAME, seed=STEP)
    check_fields(row, **dict.fromkeys(("parameters", "macs"), STEP), **dict.fromkeys(FIGURES, NUMBER))
    if row.keys() & {"tokens", "losses", "curve"}:
        check_fields(row, tokens=STEP, losses=(is_losses, "pairs of a step and a loss"))
        check_curve(row)


def read_judged(path: Path) -> dict:
    """A run's judgements so far, `curve`, and how it was `made`. Raises ValueError on a file that is none."""
    try:
        before = read_json(path)
        check_fields(before, made=(is_object, "an object"))
        check_curve(before)
    except ValueError as error:
        raise ValueError(f"{path} does not say what was judged; give --out another folder ({error})") from error
    return before


def check_curve(kept: dict) -> None:
    """Raise ValueError where the `curve` of a run is no list of its figures after some steps."""
    check_fields(kept, curve=(is_objects, "a list of objects"))
    for figures in kept["curve"]:
        check_fields(figures, step=STEP, **dict.fromkeys(FIGURES, NUMBER))


def log_of(folder: Path) -> list[dict]:
    """The lines of a run's loss log. Raises ValueError on one that is none."""
    lines = []
    for number, line in enumerate((folder / LOG).read_bytes().splitlines(), start=1):
        try:
            check_fields(found := json_object(line), step=STEP, loss=NUMBER, mse=NUMBER)
        except ValueError as error:
            told = f"line {number} of {folder / LOG} is no line of a loss log; give --out another folder ({error})"
            raise ValueError(told) from error
        lines.append(found)
    return lines


def is_object(value) -> bool:
    """Whether a value of JSON is an object."""
    return isinstance(value, dict)


def is_objects(value) -> bool:
    """Whether a value of JSON is a list of objects."""
    return isinstance(value, list) and all(map(is_object, value))


def is_names(value) -> bool:
    """Whether a value of JSON is a list of two names."""
    return isinstance(value, list) and [type(name) for name in value] == [str, str]


def is_losses(value) -> bool:
    """Whether a value of JSON is a list of pairs of a step and a number."""
    fits = lambda pair: isinstance(pair, list) and len(pair) == 2 and is_step(pair[0]) and is_number(pair[1])
    return isinstance(value, list) and all(map(fits, value))
