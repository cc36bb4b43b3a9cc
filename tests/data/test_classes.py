"""Classes by number and by name, as people type them."""

import pytest

from dit_lab.data import class_numbers, named_classes
from dit_lab.data.classes import namesakes

NAMES = ["circle", "Square", "tench, Tinca tinca", "star", "crane", "crane"]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (["circle", "3"], [0, 3]),
        (["SQUARE", " star "], [1, 3]),
        (["tench", "tinca Tinca", "tench, Tinca tinca"], [2, 2, 2]),
        (["null", "6"], [6, 6]),
        (["99"], [99]),  # the model says that there is none
    ],
)
def test_a_class_is_its_number_or_any_of_its_names(asked, numbers):
    assert class_numbers(asked, NAMES, 6) == numbers


def test_a_class_that_is_called_null_is_meant_by_it():
    assert class_numbers(["null"], ["nothing", "null"], 2) == [1]


def test_digits_are_numbers_even_where_a_class_is_called_so():
    assert class_numbers(["1"], ["1", "0"], 2) == [1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["1"], ["class 1 is called '2'; the class called '1' is number 0"]),
        (["4", "null"], ["class 4 is the null label; the class called '4' is number 3"]),
        ([" 2", "2", "0"], ["class 2 is called '3'; the class called '2' is number 1"]),
        (["3"], []),  # which is called so too
        (["null", "0"], []),
    ],
)
def test_a_number_that_is_another_classs_name_is_told_once(asked, told):
    assert namesakes(asked, ["1", "2", "3", "4, 3"]) == told


def test_numbers_that_are_their_own_classs_name_or_nobodys_are_no_news():
    assert namesakes(["0", "1", "2"], ["0", "1"]) == namesakes(["1"], ["cat", "dog"]) == namesakes(["1"], None) == []
    assert namesakes(["5"], ["5"] * 3 + ["x"] * 5) == [
        "class 5 is called 'x'; the classes called '5' are numbers 0, 1, 2"
    ]


def test_digits_that_are_no_number_of_the_models_but_a_name_are_refused_with_its_number():
    with pytest.raises(ValueError, match="^there is no class 20; the class called '20' is number 1$"):
        class_numbers(["20"], ["10", "20"], 2)


@pytest.mark.parametrize(
    ("asked", "names", "told"),
    [
        ("circel", NAMES, "no class is called 'circel'; did you mean 'circle'?"),
        ("xyz", ["a", "b"], "no class is called 'xyz'; there are 'a', 'b'"),
        ("crane", NAMES, "the classes 4, 5 are all called 'crane': give one of the numbers"),
        ("cat", None, "this model's classes have no names: give numbers from 0 to 5, not 'cat'"),
    ],
)
def test_what_is_no_class_or_several_is_a_sentence(asked, names, told):
    with pytest.raises(ValueError) as error:
        class_numbers([asked], names, 6)
    assert str(error.value) == told


@pytest.mark.parametrize("asked", ["--5", "-", "9" * 5000, "٣", "²", "1_0", "+1"])
def test_what_is_nearly_a_number_is_no_class_and_refused_in_our_words(asked):
    with pytest.raises(ValueError) as error:
        class_numbers([asked], ["a", "b"], 2)
    assert str(error.value).startswith("no class is called ") and str(error.value).endswith("; there are 'a', 'b'")
    assert namesakes([asked], ["a", "b"]) == []


def test_a_model_without_classes_has_none_to_count():
    with pytest.raises(ValueError, match="^this model has no classes: give null, not 'cat'$"):
        class_numbers(["cat"], [], 0)
    assert class_numbers(["null"], [], 0) == [0]


def test_which_number_is_which_class_is_one_line_and_none_where_it_says_nothing():
    assert named_classes(["circle", "square"]) == "2 classes: 0 circle, 1 square"
    assert named_classes(["cat"]) == "1 class: 0 cat"
    assert named_classes([f"c{i}" for i in range(20)]).endswith("18 c18, 19 c19")
    assert named_classes(["0", "1"], "there") == named_classes([]) == named_classes(None) == ""


def test_of_many_classes_the_first_are_named_and_it_is_said_how_many_more_there_are_and_where():
    names = [f"c{i}" for i in range(21)]
    assert named_classes(names) == "21 classes: 0 c0, 1 c1, 2 c2 and 18 more"
    assert named_classes(names, "here") == "21 classes: 0 c0, 1 c1, 2 c2 and 18 more; all: here"
    assert "here" not in named_classes(names[:20], "here")
