"""Ten seconds of the page in use, as `docs/app.gif`: `PYTHONPATH=.:tests python tests/ui/film.py`.

What moves is not timed but done: a picture is taken when a step of the use is drawn, and shown as long as one needs to
see it. So a slow machine makes the same film.
"""

import io
import shutil
from pathlib import Path

from pages import serving
from PIL import Image
from playwright.sync_api import sync_playwright
from shared import ROOT

WIDTH, HEIGHT, SHOWN = 1200, 860, 900  # of the page, and the film's width, in pixels
COLOURS = 255
MOUSE = """() => {
  const dot = document.body.appendChild(document.createElement("div"));
  dot.style.cssText = "position:fixed;z-index:99;width:18px;height:18px;margin:-9px;border-radius:50%;"
    + "background:rgba(79,70,229,.45);border:2px solid #4f46e5;pointer-events:none;left:600px;top:400px";
  const follow = ({ clientX, clientY }) => Object.assign(dot.style, { left: clientX + "px", top: clientY + "px" });
  addEventListener("mousemove", follow, true);
}"""


class Film:
    """Pictures of a page, and for how many milliseconds each is shown."""

    def __init__(self, page):
        self.page, self.pictures, self.durations = page, [], []

    def take(self, milliseconds: int) -> None:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self.pictures.append(picture.resize((SHOWN, SHOWN * HEIGHT // WIDTH), Image.Resampling.LANCZOS))
        self.durations.append(milliseconds)

    def to(self, place: str, at=None, frames: int = 4) -> None:
        """Move the mouse to a place of the page, seen on its way."""
        self.page.locator(place).first.scroll_into_view_if_needed()
        box = self.page.locator(place).first.bounding_box()
        x, y = at or (box["width"] / 2, box["height"] / 2)
        begun, end = getattr(self, "mouse", (600, 400)), (box["x"] + x, box["y"] + y)
        for share in range(1, frames + 1):
            self.mouse = tuple(a + (b - a) * share / frames for a, b in zip(begun, end, strict=True))
            self.page.mouse.move(*self.mouse)
            self.take(60)

    def click(self, place: str, at=None) -> None:
        self.to(place, at)
        self.page.mouse.down()
        self.page.mouse.up()

    def save(self, path: Path) -> None:
        seen = self.pictures[:: max(1, len(self.pictures) // 12)]
        sheet = Image.new("RGB", (SHOWN, sum(picture.height for picture in seen)))
        for number, picture in enumerate(seen):
            sheet.paste(picture, (0, number * picture.height))
        palette = sheet.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=2)
        frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in self.pictures]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=self.durations, loop=0, optimize=True)


def scrolled(film: Film, pixels: int, frames: int = 4) -> None:
    """Scroll the page down, seen on its way."""
    for _ in range(frames):
        film.page.mouse.wheel(0, pixels // frames)
        film.page.wait_for_timeout(150)
        film.take(70)


def used(film: Film) -> None:
    """A run is scrubbed, patches are clicked, heads looked at, and one is switched off beside its controls."""
    page = film.page
    film.take(900)
    film.to("[data-trajectory] [data-range]")
    page.focus("[data-trajectory] [data-range]")
    page.keyboard.press("Home")
    for _ in range(10):
        film.take(110)
        page.keyboard.press("ArrowRight")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")  # to where there is noise still
    film.take(300)
    scrolled(film, 540)
    patches = "#lab-panel-attention [data-stack=picture]"
    box = page.locator(patches).bounding_box()
    for x, y in ((0.65, 0.35), (0.5, 0.8), (0.2, 0.2)):
        film.click(patches, (x * box["width"], y * box["height"]))
        page.wait_for_timeout(1200)
        film.take(650)
    for head in ("1", "2", "3"):
        page.select_option("#lab-panel-attention [data-head]", head)
        page.wait_for_timeout(800)
        film.take(550)
    film.click("[data-panel=whatif]")
    page.wait_for_selector("#lab-panel-whatif [data-try]:not(:disabled)")
    film.take(500)
    film.click("#lab-panel-whatif [data-try]")
    page.wait_for_function("document.querySelector('#lab-panel-whatif [data-told]').textContent.startsWith('Done')")
    page.wait_for_timeout(800)
    film.take(700)
    scrolled(film, 420)
    film.take(1500)


def main() -> None:
    with serving("--checkpoint", "mnist") as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(url)
        page.wait_for_selector("[data-ready]")
        page.wait_for_timeout(2500)
        page.evaluate(MOUSE)
        used(film := Film(page))
        film.save(ROOT / "docs" / "app.gif")
        print(f"docs/app.gif: {len(film.pictures)} pictures, {sum(film.durations) / 1000:.1f} s")


if __name__ == "__main__":
    main()
