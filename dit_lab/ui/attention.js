lab.owner = "attention";
const block = find("block"), head = find("head"), overlay = find("overlay");
let seen = null;
find("gradient").style.background = lab.gradient("inferno");

// The row of one head, or of the average over heads: one weight a token, condition tokens (if any) last.
const row = (which) => {
  const [, heads, tokens] = seen.shape, start = Number(block.value) * heads * tokens;
  const of = (h) => seen.values.subarray(start + h * tokens, start + (h + 1) * tokens);
  if (which !== "mean") return of(Number(which));
  const mean = new Float32Array(tokens);
  for (let h = 0; h < heads; h++) of(h).forEach((weight, j) => (mean[j] += weight / heads));
  return mean;
};
const image = (weights) => weights.subarray(0, seen.tokens);
const peak = (weights) => image(weights).reduce((most, weight) => Math.max(most, weight), 0);

const outline = (context, side) => {
  const columns = seen.grid[1], left = (seen.patch % columns) * side, top = Math.floor(seen.patch / columns) * side;
  const thin = Math.max(1.5, side / 14);
  context.lineWidth = 2 * thin;
  context.strokeStyle = "#000";
  context.strokeRect(left + thin, top + thin, side - 2 * thin, side - 2 * thin);
  context.lineWidth = thin;
  context.strokeStyle = "#22d3ee";
  context.strokeRect(left + thin, top + thin, side - 2 * thin, side - 2 * thin);
};

const paint = (canvas, weights, top, side, picture) => {
  const [rows, columns] = seen.grid;
  [canvas.width, canvas.height] = [columns * side, rows * side];
  const context = canvas.getContext("2d");
  if (picture) {
    // Dimmed, so that only attention is bright.
    lab.draw("x0", seen.step, canvas, columns * side, rows * side);
    context.fillStyle = "rgba(0, 0, 0, 0.5)";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  image(weights).forEach((weight, j) => {
    const share = top ? weight / top : 0;
    context.fillStyle = "rgba(" + lab.colour("inferno", share) + "," + (picture ? 0.2 + 0.75 * share : 1) + ")";
    context.fillRect((j % columns) * side, Math.floor(j / columns) * side, side, side);
  });
  outline(context, side);
};

const thumbnails = () => {
  const choices = ["mean", ...Array(seen.shape[1]).keys()].map(String);
  const rows = choices.map(row), top = Math.max(...rows.map(peak));
  const side = Math.max(2, Math.round(112 / Math.max(...seen.grid)));
  find("grid").replaceChildren(...choices.map((choice, i) => {
    const button = make("button", choice === head.value ? "lab-on" : ""), canvas = make("canvas");
    button.type = "button";
    button.setAttribute("aria-pressed", choice === head.value);
    paint(canvas, rows[i], top, side, false);
    button.append(canvas, make("span", "", choice === "mean" ? "average" : "head " + choice));
    button.onclick = () => ((head.value = choice), draw());
    return button;
  }));
  say("scale", "All heads of block " + block.value + " on one scale, 0 to " + lab.percent(top) + ". Evenly spread would be " +
    lab.percent(1 / seen.shape[2]) + " a token.");
};

const readout = (hovered) => {
  const weights = row(head.value), columns = seen.grid[1];
  const place = (j) => "row " + Math.floor(j / columns) + ", column " + (j % columns);
  const extra = weights.length - seen.tokens;
  const condition = extra === 2 ? " The time token gets " + lab.percent(weights[seen.tokens]) + ", the class token " + lab.percent(weights[seen.tokens + 1]) + "." : "";
  say("readout", hovered === undefined
    ? "Outlined: the clicked patch, " + place(seen.patch) + "." + condition
    : "It gives " + place(hovered) + " " + lab.percent(weights[hovered]) + ".");
};

const draw = () => {
  if (!seen || !lab.run) return;
  const weights = row(head.value), top = peak(weights);
  paint(overlay, weights, top, Math.max(4, Math.round(448 / Math.max(...seen.grid))), true);
  overlay.style.maxWidth = Math.round((520 * seen.grid[1]) / seen.grid[0]) + "px";
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
  if (!value || !value.rows || !lab.run || value.run !== lab.run.run) {
    seen = null;
    find("body").hidden = true;
    say("what", "Click a patch in a picture above: one replay of that step gives its attention in every block and head.");
    return;
  }
  const plain = JSON.parse(JSON.stringify(value));
  seen = Object.assign(plain, lab.unpack(plain.rows));
  fill(block, Array.from(Array(seen.shape[0]).keys(), (b) => [String(b), "block " + b]));
  fill(head, [["mean", "average over heads"], ...Array.from(Array(seen.shape[1]).keys(), (h) => [String(h), "head " + h])]);
  lab.patch = seen.patch;
  lab.emit("patch");
  say("what", "Self-attention of one patch at " + lab.when(seen.step, seen.steps, seen.t) +
    (seen.guided ? ", in the pass with the class." : "."));
  find("body").hidden = false;
  draw();
  stale();
};

block.addEventListener("change", draw);
head.addEventListener("change", draw);
overlay.addEventListener("pointermove", (event) => {
  if (!seen) return;
  const box = overlay.getBoundingClientRect(), [rows, columns] = seen.grid;
  const r = Math.floor(((event.clientY - box.top) / box.height) * rows), c = Math.floor(((event.clientX - box.left) / box.width) * columns);
  if (r >= 0 && c >= 0 && r < rows && c < columns) readout(r * columns + c);
});
overlay.addEventListener("pointerleave", () => seen && readout());
find("update").addEventListener("click", () => seen && trigger("click", { run: lab.run.run, step: lab.step, patch: seen.patch }));
lab.on("step", stale);
lab.on("run", show);
watch("value", show);
show();
