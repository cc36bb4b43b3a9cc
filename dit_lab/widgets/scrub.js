// Frames that were made before, a range input an axis: `frames` are in the order of their labels, the last axis fastest.
const { along, labels, frames, place, pause } = JSON.parse(document.getElementById("lab-frames").textContent);
const image = document.querySelector("img"), axes = document.querySelector("[data-axes]"), make = (tag, more) => Object.assign(document.createElement(tag), more);
const decoded = frames.map((src) => make("img", { src })); // kept, so that none is empty when it is wanted
const rows = along.map((name, axis) => {
  const range = make("input", { type: "range", min: 0, max: labels[axis].length - 1, value: place[axis], id: "axis-" + axis });
  const output = make("output", { htmlFor: range.id });
  output.style.minWidth = Math.min(14, Math.max(...labels[axis].map((label) => label.length))) + "ch";
  axes.append(make("label", { htmlFor: range.id, textContent: name }), range, output);
  range.addEventListener("input", () => (stop(), draw()));
  return { range, output };
});
const draw = () => {
  const at = rows.map(({ range }) => Number(range.value)), words = at.map((index, axis) => labels[axis][index]);
  rows.forEach(({ range, output }, axis) => (range.setAttribute("aria-valuetext", words[axis]), (output.textContent = words[axis])));
  image.src = frames[at.reduce((number, index, axis) => number * labels[axis].length + index, 0)];
  image.alt = along.map((name, axis) => name + " " + words[axis]).join(", ");
};
const [{ range, output }] = rows, button = make("button", { type: "button", textContent: "Play", hidden: range.max === "0" });
output.after(button);
let timer = null;
const stop = () => ((timer = clearInterval(timer)), (button.textContent = "Play"));
button.addEventListener("click", () => {
  if (timer) return stop();
  if (range.value === range.max) range.value = -1;
  button.textContent = "Pause";
  timer = setInterval(() => (range.stepUp(), draw(), range.value === range.max && stop()), pause);
});
draw();
await Promise.all(decoded.map((each) => each.decode()));
document.body.dataset.ready = "";
