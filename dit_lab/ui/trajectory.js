lab.owner = "trajectory";
const range = find("range"), play = find("play"), figures = findAll("kind");
let timer = null, busy = false, previewed = null, stopped = null;

const caption = () => say("when", lab.run ? lab.when(lab.step, lab.run.t.length, lab.run.t[lab.step]) : "");

const draw = () => {
  if (!lab.run || busy) return;
  for (const figure of figures) lab.draw(figure.dataset.kind, lab.step, figure.querySelector("canvas"));
  range.value = lab.step;
  caption();
};

const mark = () => {
  for (const box of element.querySelectorAll(".lab-mark")) {
    box.hidden = !lab.run || lab.patch === null || busy;
    if (box.hidden) continue;
    const [rows, columns] = lab.run.grid, row = Math.floor(lab.patch / columns), column = lab.patch % columns;
    // Around a small token, not over it.
    box.classList.toggle("lab-fine", box.parentElement.clientWidth / columns < 14);
    Object.assign(box.style, {
      left: (100 * column) / columns + "%", top: (100 * row) / rows + "%",
      width: 100 / columns + "%", height: 100 / rows + "%",
    });
  }
};

const pause = () => {
  clearInterval(timer);
  timer = null;
  find("icon").setAttribute("d", "M4 2.5v11l9-5.5z");
  play.setAttribute("aria-label", "Play");
};

const start = () => {
  const last = lab.run.t.length - 1;
  if (lab.step === last) lab.go(0);
  // About four seconds from end to end, whatever the number of steps.
  const stride = Math.max(1, Math.round(last / 100));
  timer = setInterval(() => (lab.step >= last ? pause() : lab.go(lab.step + stride)), Math.max(40, 4000 / (last + 1)));
  find("icon").setAttribute("d", "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z");
  play.setAttribute("aria-label", "Pause");
};

const working = (now) => {
  busy = now;
  element.firstElementChild.classList.toggle("lab-busy", now);
  find("progress").hidden = !now;
  range.hidden = now;
  range.disabled = play.disabled = now || !lab.run;
  mark();
};

const shape = (figure, width, height) => {
  figure.classList.toggle("lab-smooth", width > 64);
  const style = figure.querySelector(".lab-picture").style;
  style.aspectRatio = width + " / " + height;
  style.maxWidth = Math.round((420 * width) / height) + "px";
};

const preview = (value) => {
  // One may still be on its way when its run has been stopped.
  if (value.run === stopped) return;
  previewed = value.run;
  pause();
  working(true);
  say("title", "Sampling…");
  say("when", lab.when(value.step, value.steps, value.t));
  find("bar").style.width = (100 * (value.step + 1)) / value.steps + "%";
  for (const figure of figures) {
    const image = new Image(), canvas = figure.querySelector("canvas");
    image.onload = () => {
      if (!busy) return;
      [canvas.width, canvas.height] = [image.width, image.height];
      shape(figure, image.width, image.height);
      canvas.getContext("2d").drawImage(image, 0, 0);
    };
    image.src = value.pictures[figure.dataset.kind];
  }
};

const finish = async (value) => {
  // A plain copy: what Gradio hands over is a proxy, too slow to read at every frame.
  const run = JSON.parse(JSON.stringify(value));
  run.images = {};
  await Promise.all(figures.map(async ({ dataset: { kind } }) => {
    run.images[kind] = Object.assign(new Image(), { src: run.atlases[kind].uri });
    await run.images[kind].decode();
  }));
  lab.run = run;
  lab.patch = null;
  lab.step = run.step ?? run.t.length - 1;
  range.max = run.t.length - 1;
  for (const figure of figures) shape(figure, run.atlases[figure.dataset.kind].width, run.atlases[figure.dataset.kind].height);
  working(false);
  say("title", run.title);
  lab.emit("run");
  lab.emit("step");
};

const show = () => {
  const value = props.value;
  if (!value) return;
  if (value.kind === "preview") preview(value);
  if (value.kind === "trajectory") finish(value);
  if (value.kind === "stopped") {
    stopped = previewed;
    working(false);
    say("title", lab.run ? lab.run.title : "Stopped: nothing sampled yet.");
    draw();
  }
};

range.addEventListener("input", () => (pause(), lab.go(Number(range.value))));
play.addEventListener("click", () => (timer ? pause() : start()));
for (const figure of figures) {
  figure.querySelector(".lab-picture").addEventListener("click", (event) => {
    if (!lab.run || busy) return;
    pause();
    const box = event.currentTarget.getBoundingClientRect(), [rows, columns] = lab.run.grid;
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
    lab.patch = row * columns + column;
    lab.emit("patch");
    trigger("click", { run: lab.run.run, step: lab.step, patch: lab.patch });
  });
}
const keys = (event) => {
  const typing = event.target.closest && event.target.closest("input, textarea, select, [contenteditable], [role=listbox]");
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!way || typing || busy || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  pause();
  lab.go(lab.step + way);
};
document.removeEventListener("keydown", lab.keys);
document.addEventListener("keydown", (lab.keys = keys));
lab.on("step", draw);
lab.on("patch", mark);
watch("value", show);
show();
