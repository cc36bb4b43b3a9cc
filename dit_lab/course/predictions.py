"""A guess is written down before its answer is shown, and stands beside it then."""

from collections.abc import Callable
from numbers import Integral, Real

from dit_lab.course.progress import change, read

PASSES = {"don't know", "dont know", "?", "pass"}
MOST = 200  # letters of a guess
LONG = 60  # letters of an answer that gets a line of its own


def predict(question: str, guess) -> None:
    """Write down what the reader expects: a number or a few words; "don't know" is a guess too, and `...` none yet.

    After the answer was shown the guess stays what it was. Prints one line.
    """
    if guess is None or guess is Ellipsis or (isinstance(guess, str) and not guess.strip()):
        print('No guess yet: write it in the place of the ... (or "don\'t know").')
        return
    text = spelt(guess)
    with change() as record:
        before = record.guesses.get(question)
        if question in record.shown and before not in (None, text):
            print(f"Before the answer was shown you said {before}: that stays.")
            return
        record.guesses[question] = text
    print("Noted: you pass." if passes(text) else f"Noted: {text}.")


def reveal(question: str, truth) -> None:
    """Show the answer beside the guess, `you said 3, it is 5`; without a guess it says how to make one, and no more.

    `truth` is a number, words, or a function that is called only then: it may draw, and what it returns is shown.
    """
    guess = read().guesses.get(question)
    if guess is None:
        print(f'Guess first: predict("{question}", ...), or predict("{question}", "don\'t know") to see it without.')
        return
    if isinstance(truth, Callable):
        truth = truth()
    with change() as record:
        if question not in record.shown:
            record.shown.append(question)
    said = "You passed" if passes(guess) else f"You said {guess}"
    if truth is None:
        print(f"{said}.")
        return
    text = spelt(truth)
    print(f"{said}; it is {text}." if len(text) <= LONG and "\n" not in text else f"{said}. It is:\n{text}")


def passes(guess: str) -> bool:
    """Whether a guess is none, and says so."""
    return guess.strip().lower().rstrip(".") in PASSES


def spelt(value) -> str:
    """A guess or an answer as text: numbers to three digits where they are not whole, so that machines agree."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(value)
    if isinstance(value, Real):
        return f"{value:.3g}"
    return str(value).strip()[:MOST] if not isinstance(value, str) else value.strip()
