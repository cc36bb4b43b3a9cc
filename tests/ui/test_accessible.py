"""The page for those who cannot see it, or use no mouse: axe-core finds nothing, in any panel."""

import pytest
from pages import PANELS

sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_wrong_with_any_panel(opened, width, scheme):
    page = opened(width=width, scheme=scheme)
    for name in PANELS:
        page.click(f"[data-panel={name}]")
        page.wait_for_function(f"document.querySelector('#lab-panel-{name} .lab-card')?.innerText.length > 60")
        page.wait_for_timeout(1000)  # what it draws comes with an answer
        found = sync_playwright.Axe().run(page).response["violations"]
        assert not [f"{name}: {each['help']}: {[node['html'] for node in each['nodes'][:3]]}" for each in found]
        page.evaluate("delete window.axe")
