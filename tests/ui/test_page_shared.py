"""The page while it waits, and others beside it: what a run costs, a queue that is told, what can be stopped."""

from pages import sample, says

SAID = "document.querySelector('[data-says]').textContent"
LONG = {"steps": "1000", "sampler": "ddpm"}


def begins(page, settings):
    """Begin a run that takes its time."""
    page.select_option("[data-name=sampler]", settings["sampler"])
    page.fill("[data-name=steps]", settings["steps"])
    page.click("[data-sample]")
    says(page, "Sampling: step")


def test_what_a_run_takes_is_said_before_any_and_follows_the_settings(opened):
    page = opened()
    told = "document.querySelector('[data-cost]').textContent"
    page.wait_for_function(f"/passes of .*MACs, (about|under)/.test({told})")
    before = page.inner_text("[data-cost]")
    page.fill("[data-name=steps]", "1000")
    page.wait_for_function(f"{told}.startsWith('2000 passes')")
    assert before != page.inner_text("[data-cost]") and "MMACs" in before and "of pictures kept" in before


def test_who_waits_is_told_for_what_and_goes_on_when_the_run_before_is_stopped(opened):
    first, second = opened(), opened()
    begins(first, LONG)
    second.click("[data-sample]")
    says(second, "Waiting for the model: ")
    first.click("[data-stop]")
    says(second, "Done")
    says(first, "Stopped after step")


def test_a_closed_tab_frees_the_model_for_the_next(opened):
    first, second = opened(), opened()
    begins(first, LONG)
    second.click("[data-sample]")
    says(second, "Waiting for the model: ")
    first.goto("about:blank")
    says(second, "Done")


def test_a_look_goes_between_the_steps_of_whatever_run_is_on(opened):
    first, second = opened(), opened()
    begins(first, LONG)
    shown = "document.querySelector('#lab-panel-attention').textContent"
    second.wait_for_function(f"{shown}.includes('row 3, column 3')")
    second.locator("[data-trajectory] [data-kind=x0] canvas").click(position={"x": 20, "y": 20})
    second.wait_for_function(f"!{shown}.includes('row 3, column 3')")
    second.wait_for_function("!document.querySelector('[data-panels]').textContent.includes('Waiting')")
    assert first.evaluate(SAID).startswith("Sampling: step")
    first.click("[data-stop]")


def test_ten_tabs_sample_at_once_and_each_gets_its_own(opened):
    pages = [opened() for _ in range(10)]
    for seed, page in enumerate(pages):
        page.fill("[data-name=seed]", str(seed))
        page.click("[data-sample]")
    for seed, page in enumerate(pages):
        says(page, "Done")
        assert f"seed {seed}," in page.inner_text("[data-trajectory]")


def test_a_long_answer_of_a_panel_can_be_stopped_and_asked_for_again(opened):
    page = opened()
    sample(page, steps="60")
    page.click("[data-panel=whatif]")
    page.wait_for_selector("#lab-panel-whatif [data-try]:not(:disabled)")
    page.fill("#lab-panel-whatif [data-controls]", "16")
    page.click("#lab-panel-whatif [data-try]")
    page.click("#lab-panel-whatif .lab-stop")
    told = "document.querySelector('#lab-panel-whatif [data-told]').textContent"
    page.wait_for_function(f"{told} === 'Stopped before its end.'")
    assert page.locator("#lab-panel-whatif .lab-stop").count() == 0
    page.fill("#lab-panel-whatif [data-controls]", "1")
    page.click("#lab-panel-whatif [data-try]")
    page.wait_for_function(f"{told}.startsWith('Done')")


def test_a_link_holds_the_edit_that_was_tried_and_what_it_came_to(opened):
    page = opened()
    panel = "#lab-panel-whatif"
    page.click("[data-panel=whatif]")
    page.wait_for_selector(f"{panel} [data-try]:not(:disabled)")
    page.select_option(f"{panel} [data-kind]", "branch")
    page.select_option(f"{panel} [data-block]", "2")
    page.fill(f"{panel} [data-first]", "3")
    page.fill(f"{panel} [data-controls]", "2")
    page.click(f"{panel} [data-try]")
    verdict = f"document.querySelector('{panel} [data-verdict]').textContent"
    page.wait_for_function(f"{verdict}.includes('moved the picture')")
    page.wait_for_function("location.hash.includes('edit=')")
    other = opened(at=page.url[page.url.index("#") :])
    other.wait_for_function(f"{verdict}.includes('moved the picture')")
    assert other.evaluate(verdict) == page.evaluate(verdict)
    form = f"[...document.querySelectorAll('{panel} form :is(select, input)')].map(each => each.value)"
    assert other.evaluate(form) == page.evaluate(form)


def test_an_edit_in_a_link_that_makes_no_sense_is_a_sentence(opened):
    page = opened(at="#checkpoint=mnist&labels=7&seed=0&steps=14&sampler=dpmpp&cfg_scale=2&panel=whatif&edit=[1]")
    page.wait_for_function("document.querySelector('#lab-panel-whatif [data-told]')?.textContent.includes('link')")
