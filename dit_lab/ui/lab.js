// What the panels share in the browser. A panel's script gets `element`, `trigger`, `props` and `watch` from Gradio.
const lab = (window.ditLab ??= {
  run: null, // the finished run that is shown: { run, t, grid, images: { x, x0, eps }, ... }
  step: 0,
  patch: null, // the token last clicked
  listeners: {},
  on(name, callback) {
    // One listener a panel and event: a panel that is mounted again replaces its former self.
    const owner = this.owner + ":" + name;
    this.listeners[owner] = { name, callback };
  },
  emit(name) {
    for (const listener of Object.values(this.listeners)) if (listener.name === name) listener.callback();
  },
  go(step) {
    if (!this.run) return;
    this.step = Math.max(0, Math.min(this.run.t.length - 1, step));
    this.emit("step");
  },
  // Draw one frame of "x", "x0" or "eps" into a canvas, at its own size or into a given rectangle.
  draw(kind, step, canvas, width, height) {
    const atlas = this.run.atlases[kind];
    const image = this.run.images[kind];
    const w = atlas.width, h = atlas.height;
    canvas.width = width || w;
    canvas.height = height || h;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = w > 64;
    const left = (step % atlas.columns) * w, top = Math.floor(step / atlas.columns) * h;
    context.drawImage(image, left, top, w, h, 0, 0, canvas.width, canvas.height);
  },
  // The fp32 numbers that Python packed.
  unpack(packed) {
    const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
    return { shape: Array.from(packed.shape), values: new Float32Array(bytes.buffer) };
  },
  // Perceptually even, safe for colour-blind eyes, dark to bright (stops of matplotlib's inferno and viridis).
  maps: {
    inferno: [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
    viridis: [[68, 1, 84], [70, 50, 127], [54, 92, 141], [39, 127, 142], [31, 161, 135], [74, 194, 109], [159, 218, 58], [253, 231, 37]],
  },
  colour(map, value) {
    const stops = this.maps[map];
    const place = Math.max(0, Math.min(1, value || 0)) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((c, i) => Math.round(c + (place - low) * (stops[low + 1][i] - c)));
  },
  gradient(map) {
    return "linear-gradient(to right, " + this.maps[map].map((c) => "rgb(" + c + ")").join(", ") + ")";
  },
  // "encoder 1, block 2, pair b"; the stage has no name where there is only one.
  blockName: (stage, block) => (stage.name ? stage.name + ", " : "") + stage.blocks[block - stage.first],
  percent: (value) => (100 * value).toFixed(value < 0.0995 ? 1 : 0) + " %",
  // "step 13 of 50, t = 741"
  when: (step, steps, t) => "step " + (step + 1) + " of " + steps + ", t = " + t,
});
const find = (name) => element.querySelector("[data-" + name + "]");
const findAll = (name) => Array.from(element.querySelectorAll("[data-" + name + "]"));
const say = (name, text) => (find(name).textContent = text);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
// Choices are [value, text] or [value, text, group]; what was chosen stays chosen where it can.
const fill = (select, choices) => {
  const before = select.value, groups = {};
  select.replaceChildren();
  for (const [value, text, group] of choices) {
    if (group) groups[group] ??= select.appendChild(Object.assign(make("optgroup"), { label: group }));
    (groups[group] || select).append(Object.assign(make("option", "", text), { value }));
  }
  if (choices.some(([value]) => value === before)) select.value = before;
};
