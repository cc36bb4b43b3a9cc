"""Ways of sampling by name in the app's page: chosen, walked, kept in the address, and left where others are set."""

import pytest
from pages import says

COLOUR = "#checkpoint=cifar10"


def shown(page) -> tuple[str, str, str]:
    """The quality that the form says, its sampler, and how many steps."""
    return tuple(page.input_value(f"[data-name={name}]") for name in ("quality", "sampler", "steps"))


def sampled(page, words):
    page.click("[data-sample]")
    page.wait_for_function(
        "words => document.querySelector('[data-trajectory]').textContent.includes(words)", arg=words, timeout=60_000
    )
    says(page, "Done")


def test_a_checkpoints_own_qualities_are_chosen_walked_and_in_the_address(opened):
    page = opened(at=COLOUR)
    page.wait_for_function("document.querySelector('[data-name=quality]').value === 'good'")
    assert shown(page) == ("good", "unipc", "6")
    assert "at timesteps 999, 632, 444" in page.inner_text("[data-steps-note]")
    page.select_option("[data-name=quality]", "draft")
    assert shown(page) == ("draft", "unipc", "4") and "at timesteps 999, 484" in page.inner_text("[data-steps-note]")
    sampled(page, "4 steps of UniPC")
    page.wait_for_function("location.hash.includes('steps=999,484,367,62')")
    page.reload()
    page.wait_for_function("document.querySelector('[data-name=quality]')?.value === 'draft'")


def test_a_sampler_or_steps_set_by_hand_are_no_quality_until_they_are_again(opened):
    page = opened()
    assert shown(page) == ("good", "unipc", "10")
    page.fill("[data-name=steps]", "9")
    assert shown(page)[0] == "" and page.inner_text("[data-name=quality] option:checked") == "as set below"
    page.fill("[data-name=steps]", "10")
    assert shown(page)[0] == "good"
    page.select_option("[data-name=sampler]", "ddim")
    assert shown(page)[0] == ""
    page.select_option("[data-name=quality]", "paper")
    assert shown(page) == ("paper", "ddpm", "250")
    page.wait_for_function("document.querySelector('[data-cost]').textContent.includes('500')")


def test_searched_timesteps_are_left_where_the_number_is_changed_and_back_with_it(opened):
    page = opened(at=COLOUR)
    page.wait_for_function("document.querySelector('[data-name=quality]').value === 'good'")
    page.fill("[data-name=steps]", "9")
    assert shown(page)[0] == "" and "even" in page.inner_text("[data-steps-note]")
    page.fill("[data-name=steps]", "6")
    assert shown(page)[0] == "good" and "at timesteps 999" in page.inner_text("[data-steps-note]")


def test_the_header_says_what_runs(opened):
    page, runs = opened(), "document.querySelector('[data-facts] [title=Runs]').textContent"
    assert page.evaluate(runs) == "fp32 on cpu"
    page.click("details summary")
    if page.locator("[data-name=precision] option[value=auto]").count() == 0:
        pytest.skip("this CPU has no kernels for bf16")
    page.select_option("[data-name=precision]", "auto")
    page.wait_for_function(f"{runs} === 'auto on cpu'")
    sampled(page, "10 steps of UniPC")
    page.wait_for_function(f"/^(fp32|bf16) .a forward of 2: fp32 .* ms, bf16 .* ms. on cpu$/.test({runs})")


def test_an_address_of_one_timestep_is_no_number_of_steps(opened):
    page = opened(at="#checkpoint=mnist&sampler=ddim&steps=700,")
    page.wait_for_function("document.querySelector('[data-trajectory]').textContent.includes('1 step')")
    assert shown(page) == ("", "ddim", "1") and "at timesteps 700" in page.inner_text("[data-steps-note]")
    page.wait_for_function("location.hash.includes('steps=700,&') || location.hash.endsWith('steps=700,')")
