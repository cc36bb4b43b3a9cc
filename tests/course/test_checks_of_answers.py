"""The checks themselves: right answers of any kind pass, every known mistake is told apart, others get what differs."""

import ast
import inspect
import math
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import RIGHT, WRONG
from einops import einsum, rearrange, reduce, repeat

from dit_lab.course import EXERCISES, NOTEBOOKS, check
from dit_lab.course.engine import Wrong, does, judge, tried
from dit_lab.course.exercises import NOTEBOOKS_OF
from dit_lab.course.values import parts_of

CONTRACT = {
    1: "alpha_bar noised log_snr",
    2: "patchify unpatchify position_table",
    3: "split_heads attend layer_norm block_macs",
    4: "timestep_waves drop_labels modulate gated_branch",
    5: "simple_loss interpolated_log_variance update_average",
    6: "predicted_x0 ddim_step posterior_mean guided",
    7: "kl_to_standard_normal to_latents",
    8: "power_law frechet_distance",
    9: "interleaved_tokens fold_linears low_frequency_share",
    10: "attention_entropy attention_distance rollout head_contributions",
    12: "velocity rotate rms_norm",
}
MISTAKES = [(name, number) for name, exercise in EXERCISES.items() for number in range(len(exercise.mistakes))]
named = pytest.mark.parametrize("name", EXERCISES)


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    """A record of the reader's that is nobody's."""
    monkeypatch.setenv("DIT_LAB_COURSE", str(tmp_path / "course.json"))


def told(name, answer) -> str:
    """What a check says to a wrong answer."""
    with pytest.raises(check.Wrong) as caught:
        getattr(check, name)(answer)
    return str(caught.value)


def test_the_exercises_are_those_of_the_course_in_their_notebooks():
    found = {
        number: " ".join(name for name, exercise in EXERCISES.items() if exercise.notebook == number)
        for number in NOTEBOOKS
    }
    assert {number: names for number, names in found.items() if names} == CONTRACT
    assert len(EXERCISES) == sum(len(notebook.EXERCISES) for notebook in NOTEBOOKS_OF) == 35


@named
def test_the_solution_passes_and_one_line_says_what_is_now_known(name, capsys):
    assert getattr(check, name)(EXERCISES[name].solution) is None
    said = capsys.readouterr().out
    assert said == f"{name} is right. {EXERCISES[name].known}\n" and len(said) < 140


@named
def test_the_solution_stands_alone_and_is_shown_as_it_is(name, capsys):
    check.solution(name)
    source = capsys.readouterr().out
    names = dict(torch=torch, F=F, np=np, math=math, einsum=einsum, rearrange=rearrange, reduce=reduce, repeat=repeat)
    exec(source, names)
    judge(EXERCISES[name], names[name])


@named
def test_a_stub_is_told_that_it_is_one(name):
    parameters = ", ".join(EXERCISES[name].parameters)
    for body in ("...", "return ...", "return None", "raise NotImplementedError", "pass"):
        names = {}
        exec(f"def stub({parameters}): {body}", names)
        assert "still the stub" in told(name, names["stub"]), body


@named
def test_there_are_at_least_three_mistakes_and_hints_and_no_message_gives_the_line(name):
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 3 and len(exercise.hints) >= 3
    messages = [mistake.told for mistake in exercise.mistakes]
    assert len({*messages}) == len(messages) and all(len(message) > 40 for message in messages)
    tree = ast.parse(textwrap.dedent(inspect.getsource(exercise.solution))).body[0]
    line = ast.unparse(tree.body[-1]).removeprefix("return ")
    assert len(line) < 10 or not any(line in text for text in (*messages, *exercise.hints, exercise.known))


@named
def test_probes_tell_axes_apart_and_stay_what_they_are(name):
    exercise = EXERCISES[name]
    probes, again = exercise.probes(), exercise.probes()
    assert len(exercise.sizes) >= 2 and {probe.dtype for probe in probes} == {*exercise.dtypes}
    for one, other in zip(probes, again, strict=True):
        assert repr(one) == repr(other)
    parts = [part for probe in probes for each in probe.arguments for part in parts_of(each)]
    shapes = {tuple(part.shape) for part in parts if hasattr(part, "shape")}
    square = 1 if name in ("attention_distance", "rollout") else 0  # a map has as many queries as keys
    assert not shapes or any(len({*shape}) == len(shape) - square for shape in shapes)


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_a_known_mistake_is_recognised_by_its_own_message_and_no_other(name, number):
    exercise = EXERCISES[name]
    made, message = exercise.mistakes[number]
    assert told(name, made).startswith(message)
    probes = exercise.probes()
    outcomes = [tried(exercise, made, probe) for probe in probes]
    alike = [
        other
        for other, mistake in enumerate(exercise.mistakes)
        if all(does(mistake.made, *each, exercise.loose) for each in zip(probes, outcomes, strict=True))
    ]
    assert alike == [number]


@named
def test_a_right_answer_of_another_kind_passes(name):
    judge(EXERCISES[name], RIGHT[name])


@named
def test_a_mistake_that_is_not_known_gets_the_first_input_on_which_it_differs(name):
    said = told(name, WRONG[name])
    assert said not in {mistake.told for mistake in EXERCISES[name].mistakes}
    assert said.startswith("Given ") and "it should be" in said and " and is " in said
    assert all(parameter in said for parameter in EXERCISES[name].parameters)


@named
def test_an_answer_that_raises_is_told_so_with_its_line(name):
    def answer(*arguments):
        return arguments[0] / {}["nothing"]

    said = told(name, answer)
    assert said.startswith("It stops with KeyError: 'nothing', at `return arguments[0] / {}[\"nothing\"]`")


@named
def test_an_answer_that_is_no_function_or_takes_other_arguments_is_told_so(name):
    assert "nothing here yet" in told(name, ...) and "nothing here yet" in told(name, None)
    assert "takes your function, not a tensor" in told(name, torch.ones(2))
    assert f"It should take {', '.join(EXERCISES[name].parameters)}" in told(name, lambda: 0)


@named
def test_an_answer_of_another_type_is_told_so(name):
    assert "and gives a str" in told(name, lambda *arguments: "right")


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if len(exercise.dtypes) == 2])
def test_near_misses_in_shape_dtype_place_and_gradient_are_told_apart(name):
    exercise = EXERCISES[name]
    change = lambda how: lambda *arguments: how(exercise.solution(*arguments))
    if not torch.is_tensor(exercise.solution(*exercise.probes()[0].fresh())):
        return
    assert "its shape should be" in told(name, change(lambda x: x[None]))
    assert "Its result is on meta" in told(name, change(lambda x: x.to("meta")))
    rounded = told(name, change(torch.Tensor.half))
    assert "come as float16" in rounded or "it should be" in rounded
    assert "a numpy ndarray" in told(name, change(torch.Tensor.numpy))
    if exercise.learns:
        assert "no gradient comes through" in told(name, change(torch.Tensor.detach))
    else:
        judge(exercise, change(torch.Tensor.detach))


@named
def test_an_answer_that_changes_its_inputs_is_told_so(name):
    exercise = EXERCISES[name]
    first = next((n for n, each in enumerate(exercise.probes()[0].arguments) if hasattr(each, "shape")), None)
    if first is None:
        return

    def answer(*arguments):
        right = exercise.solution(*arguments)
        arguments[first][...] = 1
        return right

    assert f"changes its input {exercise.parameters[first]} in place" in told(name, answer)


def test_a_list_that_is_given_stays_as_it_was():
    def answer(average, weights, decay):
        average[:] = EXERCISES["update_average"].solution(average, weights, decay)
        return average

    assert "changes its input average in place" in told("update_average", answer)


def test_an_answer_that_takes_seconds_each_time_is_told_so_and_one_that_does_once_is_not(monkeypatch):
    clock = iter([0, 9, 9, 18])
    monkeypatch.setattr("dit_lab.course.engine.time.perf_counter", lambda: next(clock))
    assert "takes more than 2 seconds" in told("velocity", lambda x0, eps: eps - x0)
    clock = iter([0, 9, *range(9, 99)])
    monkeypatch.setattr("dit_lab.course.engine.time.perf_counter", lambda: next(clock, 0))
    judge(EXERCISES["velocity"], lambda x0, eps: eps - x0)


def test_an_answer_with_chance_in_it_is_told_so():
    draw = lambda x0, eps, a: EXERCISES["ddim_step"].solution(x0, torch.randn_like(eps), a)
    assert "a random draw in it" in told("ddim_step", draw)


def test_what_is_wrong_in_one_dtype_alone_is_said():
    rounded = lambda x: F.layer_norm(x, x.shape[-1:], weight=torch.ones(x.shape[-1]), eps=1e-6)
    assert "In float32 it is right" in told("layer_norm", rounded)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("velocity", lambda x0, eps: 3 * (eps - x0), "Every value is 3 times what it should be."),
        ("velocity", lambda x0, eps: eps - x0 + 1, "Every value is too large by 1."),
        ("rms_norm", lambda x: -EXERCISES["rms_norm"].solution(x), "Every value has the wrong sign."),
        ("velocity", lambda x0, eps: (eps - x0).flip(1), "in other places"),
        ("velocity", lambda x0, eps: (eps - x0) / 0, "NaN or infinity"),
        ("block_macs", lambda n, d, r: 3 * EXERCISES["block_macs"].solution(n, d, r), "That is 3 times as much."),
        ("block_macs", lambda n, d, r: 10**400, "it should be 819200"),
        ("block_macs", lambda n, d, r: True, "gives a bool"),
        ("low_frequency_share", lambda x: torch.tensor(0.5), ".item()"),
        ("low_frequency_share", lambda x: math.nan, "is nan"),
        ("split_heads", lambda qkv, heads: qkv, "3 results"),
        ("power_law", lambda macs, loss: (1.0,), "gives 1 of them"),
        ("drop_labels", lambda y, dropped, n: torch.where(dropped, n, y).float(), "come as float32"),
        ("velocity", lambda x0, eps: (eps - x0).to(torch.complex64), "come as complex64"),
    ],
)
def test_what_a_difference_looks_like_is_said(name, wrong, words):
    assert words in told(name, wrong)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5),
        lambda x: F.layer_norm(x, x.shape[-1:], eps=1.1e-6),
        lambda x: F.layer_norm(x, x.shape[-1:], eps=0),
    ],
)
def test_a_layer_norms_eps_is_seen_where_it_is_near(answer):
    told("layer_norm", answer)


def test_alpha_bar_one_step_off_is_seen_over_a_thousand_steps():
    late = lambda betas: torch.cat([torch.cumprod(1 - betas, 0)[1:], torch.cumprod(1 - betas, 0)[-1:]])
    assert "it should be" in told("alpha_bar", late)


def test_a_module_and_a_function_without_a_signature_are_answers_too():
    class Norm(torch.nn.Module):
        def forward(self, x):
            return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    judge(EXERCISES["layer_norm"], Norm())
    judge(EXERCISES["attend"], F.scaled_dot_product_attention)


def test_a_wrong_answer_changes_nothing_for_the_next():
    told("velocity", lambda x0, eps: x0.mul_(0))
    judge(EXERCISES["velocity"], EXERCISES["velocity"].solution)


def test_wrong_is_an_assertion_error():
    assert check.Wrong is Wrong and issubclass(Wrong, AssertionError)
