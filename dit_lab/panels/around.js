// What a page does within a frame of another: it is as dark as that one, and as high as what its <main> holds.
// It can be reached, unless it is another's.
const around = (() => {
  try {
    return window.frameElement?.ownerDocument.body;
  } catch {}
})();
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const theme = around?.dataset.jpThemeLight; // a notebook's own, whatever the system's is
  document.body.classList.toggle("lab-dark", theme ? theme === "false" : dark.matches);
};
dark.addEventListener("change", paint);
if (around) new MutationObserver(paint).observe(around, { attributes: true });
paint();
const fit = () => around && (window.frameElement.style.height = Math.ceil(document.querySelector("main").getBoundingClientRect().height) + 1 + "px");
new ResizeObserver(fit).observe(document.querySelector("main"));
