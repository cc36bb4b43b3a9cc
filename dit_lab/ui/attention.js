lab.owner = "attention";
const block = find("block"), head = find("head"), view = find("view"), overlay = find("overlay");
let seen = null;
find("gradient").style.background = lab.gradient("inferno");

// The stage of the chosen block: { name, first, blocks, grid, query, stride, shape: [block, head, token], values }.
const stage = () => seen.stages.findLast((each) => each.first <= Number(block.value));
const tokens = () => stage().grid[0] * stage().grid[1];

// The row of one head, or of the average over heads: one weight a token, condition tokens (if any) last.
const row = (which) => {
  const { first, shape: [, heads, count], values } = stage(), start = (Number(block.value) - first) * heads * count;
  const of = (h) => values.subarray(start + h * count, start + (h + 1) * count);
  if (which !== "mean") return of(Number(which));
  const mean = new Float32Array(count);
  for (let h = 0; h < heads; h++) of(h).forEach((weight, j) => (mean[j] += weight / heads));
  return mean;
};
const peak = (weights) => weights.subarray(0, tokens()).reduce((most, weight) => Math.max(most, weight), 0);

// How the tokens are drawn: squares of `span` x `span`, each for the token `row` below and `column` right of its corner.
const layout = () => {
  const { grid: [, columns], query, stride } = stage();
  if (stride === 1 || view.value === "picture") return { span: 1, row: 0, column: 0 };
  return { span: stride, row: Math.floor(query / columns) % stride, column: (query % columns) % stride };
};
// The token that is drawn at a place of the grid.
const drawnAt = (r, c) => {
  const { span, row, column } = layout();
  return (r - (r % span) + row) * stage().grid[1] + c - (c % span) + column;
};

const outline = (context, side) => {
  const { grid: [, columns], query } = stage(), { span } = layout();
  const [r, c] = [Math.floor(query / columns), query % columns].map((place) => (place - (place % span)) * side);
  const small = span * side < 16, thin = small ? 2 : Math.min(5, Math.max(1.5, (span * side) / 14));
  // Around a small square, not over it.
  const out = small ? thin : -thin;
  for (const [colour, width] of [["#000", 2 * thin], ["#22d3ee", thin]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(c - out, r - out, span * side + 2 * out, span * side + 2 * out);
  }
};

const paint = (canvas, weights, top, side, picture) => {
  const { grid: [rows, columns] } = stage(), { span } = layout();
  [canvas.width, canvas.height] = [columns * side, rows * side];
  const context = canvas.getContext("2d");
  if (picture) {
    // Dimmed, so that only attention is bright.
    lab.draw("x0", seen.step, canvas, columns * side, rows * side);
    context.fillStyle = "rgba(0, 0, 0, 0.5)";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  for (let r = 0; r < rows; r += span) {
    for (let c = 0; c < columns; c += span) {
      const share = top ? weights[drawnAt(r, c)] / top : 0;
      context.fillStyle = "rgba(" + lab.colour("inferno", share) + "," + (picture ? 0.2 + 0.75 * share : 1) + ")";
      context.fillRect(c * side, r * side, span * side, span * side);
    }
  }
  outline(context, side);
};

const thumbnails = () => {
  const { grid, stride, shape: [, heads, count] } = stage();
  const choices = ["mean", ...Array(heads).keys()].map(String);
  const rows = choices.map(row), top = Math.max(...rows.map(peak));
  const side = Math.max(2, Math.round(112 / Math.max(...grid)));
  find("grid").replaceChildren(...choices.map((choice, i) => {
    const button = make("button", choice === head.value ? "lab-on" : ""), canvas = make("canvas");
    button.type = "button";
    button.setAttribute("aria-pressed", choice === head.value);
    paint(canvas, rows[i], top, side, false);
    button.append(canvas, make("span", "", choice === "mean" ? "average" : "head " + choice));
    button.onclick = () => ((head.value = choice), draw());
    return button;
  }));
  say("scale", "All heads of " + lab.blockName(stage(), block.value) + " on one scale, 0 to " + lab.percent(top) +
    ". Evenly spread would be " + lab.percent(stride ** 2 / count) + " a token" + (stride > 1 ? " of its grid." : "."));
};

const readout = (hovered) => {
  const { grid: [, columns], query, stride } = stage(), weights = row(head.value);
  const at = (j) => [Math.floor(j / columns), j % columns], place = (j) => "row " + at(j)[0] + ", column " + at(j)[1];
  const extra = weights.length - tokens();
  const condition = extra === 2 ? " The time token gets " + lab.percent(weights[tokens()]) + ", the class token " + lab.percent(weights[tokens() + 1]) + "." : "";
  const what = tokens() === seen.stages[0].shape[2] - extra ? "the clicked patch" : "the token over the clicked patch";
  const unseen = hovered !== undefined && at(hovered).some((side, way) => (side - at(query)[way]) % stride);
  say("readout", hovered === undefined
    ? "Outlined: " + what + ", " + place(query) + "." + condition
    : unseen ? "It cannot see " + place(hovered) + ", a token of another grid."
    : "It gives " + place(hovered) + " " + lab.percent(weights[hovered]) + ".");
};

const draw = () => {
  if (!seen || !lab.run) return;
  const { name, grid, stride } = stage(), weights = row(head.value), top = peak(weights), { span } = layout();
  paint(overlay, weights, top, Math.max(4, Math.round(448 / Math.max(...grid))), true);
  overlay.style.maxWidth = Math.round((520 * grid[1]) / grid[0]) + "px";
  overlay.setAttribute("aria-label", "attention over the predicted picture, " + grid.map((side) => side / span).join(" × ") + " weights");
  say("where", name ? name + ": " + grid.join(" × ") + " tokens" : "from the first (0) to the last");
  find("views").hidden = find("why").hidden = stride === 1;
  say("drawn", span > 1 ? "each weight over its " + span + " × " + span + " tokens" : "tokens of the other grids stay dark");
  say("top", lab.percent(top));
  thumbnails();
  readout();
};

const stale = () => {
  const off = seen && lab.run && seen.run === lab.run.run && lab.step !== seen.step;
  find("stale").hidden = !off;
  if (off) say("stale-text", "The bar has moved to " + lab.when(lab.step, lab.run.t.length, lab.run.t[lab.step]) + ".");
};

const show = () => {
  const value = props.value;
  // Rows and run arrive apart: whichever comes last draws.
  if (!value || !value.stages || !lab.run || value.run !== lab.run.run) {
    seen = null;
    find("body").hidden = true;
    say("what", "Click a patch in a picture above: one replay of that step gives its attention in every block and head.");
    return;
  }
  const plain = JSON.parse(JSON.stringify(value));
  for (const each of plain.stages) Object.assign(each, lab.unpack(each.rows));
  seen = plain;
  fill(block, seen.stages.flatMap(({ name, first, blocks }) => blocks.map((text, b) => [String(first + b), text, name])));
  fill(head, [["mean", "average over heads"], ...Array.from(Array(seen.stages[0].shape[1]).keys(), (h) => [String(h), "head " + h])]);
  lab.patch = seen.patch;
  lab.emit("patch");
  say("what", "Self-attention of one patch at " + lab.when(seen.step, seen.steps, seen.t) +
    (seen.guided ? ", in the pass with the class." : "."));
  find("body").hidden = false;
  draw();
  stale();
};

for (const chooser of [block, head, view]) chooser.addEventListener("change", draw);
overlay.addEventListener("pointermove", (event) => {
  if (!seen) return;
  const box = overlay.getBoundingClientRect(), [rows, columns] = stage().grid;
  const r = Math.floor(((event.clientY - box.top) / box.height) * rows), c = Math.floor(((event.clientX - box.left) / box.width) * columns);
  if (r >= 0 && c >= 0 && r < rows && c < columns) readout(drawnAt(r, c));
});
overlay.addEventListener("pointerleave", () => seen && readout());
find("update").addEventListener("click", () => seen && trigger("click", { run: lab.run.run, step: lab.step, patch: seen.patch }));
lab.on("step", stale);
lab.on("run", show);
watch("value", show);
show();
