// Every step's frames under one time bar, and the run in curves. Scrubbing asks nobody: the frames are in the page.
const ICONS = {
  play: "M4 2.5v11l9-5.5z", pause: "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z", first: "M3 3h2v10H3zM13.5 3v10L6 8z",
  back: "M11.5 3v10L4 8z", next: "M4.5 3v10L12 8z", last: "M11 3h2v10h-2zM2.5 3v10L10 8z",
};
const SLOTS = ["x", "x0", "eps"];
const NAMES = { x: "xₜ, noisy input", x0: "x₀, predicted picture", eps: "ε, predicted noise", guidance: "Guidance difference" };
const SHORT = { x: "xₜ", x0: "x₀", eps: "ε", guidance: "Guidance" };
const REACH = 3, STRIP = 8, CELL = 120, HOLD = 14; // of x_t and eps; steps of the strip and their pixels; ticks at the end
// What the curves show: their lines, and whether they are drawn by powers of ten.
const CURVES = {
  norms: { title: "Size of xₜ, x₀ and ε", unit: "root mean square", lines: ["xₜ", "x₀", "ε"], why: "Noise has size 1: xₜ goes from it to the size of a picture." },
  change: { title: "Change of x₀", unit: "root mean square from step to step, log scale", lines: ["change"], log: true, why: "High where the picture is being decided, low where it is settled." },
  snr: { title: "Signal to noise", unit: "a² / s², log scale", lines: ["signal to noise"], log: true, level: 1, why: "Below the dotted line there is more noise than picture." },
  guidance: { title: "Size of the guidance difference", unit: "root mean square of ε with the label less ε without", lines: ["difference"], why: "How much the label asks for at each step." },
  angle: { title: "Angle of the guidance difference", unit: "degrees to ε with the label", lines: ["angle"], level: 90, why: "At 90 degrees the label asks for something else than more of the same." },
};
const icon = (name) => `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[name]}" /></svg>`;
const term = (key, word) => `<abbr data-term="${key}">${word}</abbr>`;
const WHY = {
  x: "what the network is given, " + term("x_t", "x<sub>t</sub>"), x0: "its guess of the end, " + term("x0", "x<sub>0</sub>"),
  eps: "what it takes for " + term("eps", "noise"), guidance: term("guidance", "ε with the label less ε without"),
};

export function mount({ element, data, send, lab }) {
  element.innerHTML = `
    <section class="lab-card lab-trajectory" aria-label="Trajectory">
      <div class="lab-title"><h2>From noise to picture</h2><p data-title></p></div>
      <div class="lab-trajectory-body"><div class="lab-trajectory-main">
      <div class="lab-frames">${SLOTS.map((kind, slot) => `
        <figure data-kind="${kind}">
          <div class="lab-picture" tabindex="0" role="application"><canvas width="1" height="1"></canvas><i class="lab-marked" hidden></i></div>
          <figcaption>
            <select aria-label="Picture ${slot + 1} shows"></select>
            <p class="lab-trajectory-why">${Object.entries(WHY).map(([key, why]) => `<span data-why="${key}" hidden>${why}</span>`).join("")}<span data-channel></span></p>
            <div class="lab-bar"><span></span><i></i><span></span></div>
            <p class="lab-trajectory-scale"></p>
          </figcaption>
        </figure>`).join("")}
      </div>
      <div class="lab-trajectory-samples" role="group" aria-label="Samples of this batch" hidden></div>
      <div class="lab-scrub">
        <div class="lab-trajectory-buttons">
          <button type="button" data-go="first" aria-label="First step">${icon("first")}</button>
          <button type="button" data-go="back" aria-label="Step back">${icon("back")}</button>
          <button type="button" data-play aria-label="Play">${icon("play")}</button>
          <button type="button" data-go="next" aria-label="Step on">${icon("next")}</button>
          <button type="button" data-go="last" aria-label="Last step">${icon("last")}</button>
        </div>
        <div class="lab-track">
          <input type="range" min="0" max="0" value="0" data-range aria-label="Step" />
          <progress max="1" value="0" data-progress aria-label="Sampling" hidden></progress>
          <div class="lab-ends"><span>noise</span><span>picture</span></div>
        </div>
        <div class="lab-trajectory-pace">
          <output data-when></output>
          <label><input type="checkbox" data-loop /> loop</label>
          <label>speed <select data-speed><option value="0.25">¼ ×</option><option value="0.5">½ ×</option><option value="1" selected>1 ×</option><option value="2">2 ×</option><option value="4">4 ×</option></select></label>
        </div>
      </div>
      <p class="lab-told" role="status" data-told></p>
      </div>
      <div class="lab-trajectory-charts">
        <div class="lab-trajectory-chart" data-curve>
          <div class="lab-trajectory-head"><label>Curve <select></select></label><small></small></div>
          <div class="lab-trajectory-legend"></div><svg role="img"></svg><p></p>
        </div>
        <div class="lab-trajectory-chart" data-spectra>
          <div class="lab-trajectory-head"><b>${term("spectrum", "Spectra")} at this step</b><small>power, log scale</small></div>
          <div class="lab-trajectory-legend"></div><svg role="img"></svg>
          <p>Noise is flat, a picture falls off to the right: it rises out of the noise at the coarse end first.</p>
        </div>
      </div>
      <div class="lab-trajectory-files" role="group" aria-label="Download"><span>Download</span>
        <button type="button" data-file="gif">GIF</button><button type="button" data-file="mp4">MP4</button>
        <button type="button" data-file="strip">PNG strip</button><button type="button" data-file="svg">SVG figure</button>
        <button type="button" data-file="trajectory">trajectory file</button>
      </div></div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]"), card = element.querySelector("section");
  const range = find("range"), figures = [...element.querySelectorAll("figure")];
  const curves = createChart(find("curve"), lab), spectra = createChart(find("spectra"), lab);
  const curveChoice = find("curve").querySelector("select");
  for (const canvas of element.querySelectorAll("canvas")) canvas.getContext("2d", { willReadFrequently: true });
  let given = data, kinds = [...SLOTS], timer = null, live = null, shown = 0;
  let extras = {}, numbers = {}, asks = {}, finals = null, hovered = null;

  // ---- What is said
  const says = (text, wrong = false) => {
    find("told").textContent = text;
    find("told").classList.toggle("lab-wrong", wrong);
  };
  // Ask once at a time for each kind of thing; of those waiting the last alone goes. `use` is not called for another run.
  const asking = async (name, words, request, use) => {
    const run = lab.run, asked = asks;
    asked[name] ??= lab.latest((request) => send(request, ({ done, total, told }) => lab.run === run && says(told + (total ? ": " + done + " of " + total : "") + " …")));
    says(words + " …");
    try {
      const answer = await asked[name](request);
      if (!answer || lab.run !== run) return;
      says("");
      await use(answer);
    } catch (error) {
      if (lab.run === run) says(error.message, true);
    }
  };

  // ---- Frames that are not the run's: channels apart and what guidance added, by sample
  const parts = (kind) => kind.split(".");
  const extra = (kind) => extras[lab.sample + "/" + kind];
  const colourful = () => !lab.run.latent && lab.run.channels === 3;
  const channelName = (channel) => (colourful() ? ["red", "green", "blue"][channel] : "channel " + channel);
  const keep = async ({ sample, frames, ...more }) => {
    await Promise.all(Object.entries(frames).map(async ([kind, atlas]) => {
      const image = Object.assign(new Image(), { src: atlas.uri });
      await image.decode();
      extras[sample + "/" + kind] = { ...atlas, ...more, image };
    }));
    refresh();
  };
  const wanted = (kind) => {
    if (!lab.run || live) return;
    const [base, channel] = parts(kind), sample = lab.sample;
    if (base === "guidance" && !extra("guidance")) asking("guidance", "Asking with the label and without", { sample, guidance: true }, (answer) => {
      const { shape: _, values: norm } = lab.unpack(answer.norm);
      numbers[sample] = { ...numbers[sample], guidance: [norm], angle: [lab.unpack(answer.angle).values] };
      return keep(answer);
    });
    else if (channel !== undefined && base !== "guidance" && !colourful() && !extra(kind)) asking("channels " + base, "Fetching the channels", { sample, channels: base }, keep);
  };
  const focus = (sample) => asking("frames", "Fetching sample " + (sample + 1), { sample }, async (answer) => {
    numbers[sample] = { ...numbers[sample], ...told(answer.numbers) };
    await lab.addFrames(sample, answer.frames);
    lab.set({ sample });
  });

  // ---- Pictures
  const draw = (kind, canvas) => {
    const [base, channel] = parts(kind), there = base !== "guidance" && (channel === undefined || colourful());
    if (there) {
      if (!lab.draw(base, lab.step, canvas)) return blank(canvas);
      if (channel !== undefined) recolour(canvas, (pixels, i) => [pixels[i + Number(channel)]]);
      return;
    }
    const atlas = extra(kind);
    if (!atlas) return blank(canvas);
    const { width: w, height: h, columns } = atlas;
    Object.assign(canvas, { width: w, height: h });
    canvas.getContext("2d").drawImage(atlas.image, (lab.step % columns) * w, Math.floor(lab.step / columns) * h, w, h, 0, 0, w, h);
    if (base === "guidance") recolour(canvas, (pixels, i) => lab.colour("signed", pixels[i] / 255));
  };
  const caption = (figure, kind) => {
    const [base, channel] = parts(kind), run = lab.run, [low, bar, high] = figure.querySelector(".lab-bar").children;
    for (const why of figure.querySelectorAll("[data-why]")) why.hidden = why.dataset.why !== base;
    figure.querySelector("[data-channel]").textContent = channel === undefined ? "" : ", " + channelName(channel) + " alone";
    let ends = null, scale = "", map = "linear-gradient(to right, #000, #fff)";
    const grey = run && (run.channels === 1 || channel !== undefined), codec = given?.codec;
    if (base === "guidance") {
      const found = extra(kind), reach = found && (channel === undefined ? found.reach : found.channelReach);
      if (found) ends = [-reach, reach].map(said);
      map = lab.gradient("signed");
      scale = (run && run.channels > 1 && channel === undefined ? "the mean over " + run.channels + " channels; " : "") + "orange: noise seen because of the label, so taken away";
    } else if (run?.latent && channel === undefined) {
      scale = base !== "x0" || codec === "false" ? "latents in false colours, not a picture" : codec === "vae" ? "decoded by the VAE" : codec ? "latents in approximate colours, not decoded" : "…";
    } else if (run) {
      ends = base === "x0" && !run.latent ? ["−1", "1"] : ["−" + REACH, String(REACH)];
      scale = grey ? "black " + ends[0] + ", white " + ends[1] : "each colour from " + ends[0] + " (none) to " + ends[1] + " (full)";
    }
    figure.querySelector(".lab-bar").hidden = !ends;
    if (ends) [low.textContent, high.textContent, bar.style.background] = [...ends, map];
    figure.querySelector(".lab-trajectory-scale").textContent = scale;
  };
  const frames = () => {
    if (!lab.run || live) return;
    figures.forEach((figure, slot) => {
      draw(kinds[slot], figure.querySelector("canvas"));
      label(figure, kinds[slot]);
    });
    range.value = lab.step;
    range.setAttribute("aria-valuetext", lab.when());
    find("when").textContent = lab.when();
  };
  const label = (figure, kind) => {
    const [base, channel] = parts(kind), place = lab.patch === null ? "no patch chosen" : "patch " + lab.place(lab.patch);
    const name = NAMES[base] + (channel === undefined ? "" : ", " + channelName(channel));
    figure.querySelector(".lab-picture").setAttribute("aria-label", name + ", " + lab.when() + ", " + place + ". Arrows step, with Shift they move the patch.");
  };
  const mark = () => {
    for (const figure of figures) {
      const box = figure.querySelector(".lab-marked");
      box.hidden = lab.patch === null || !lab.run;
      if (!lab.run) continue;
      if (!live) label(figure, figure.dataset.choice || figure.dataset.kind);
      if (box.hidden) continue;
      const [rows, columns] = lab.run.grid, row = Math.floor(lab.patch / columns), column = lab.patch % columns;
      // Around a small token, not over it.
      box.classList.toggle("lab-fine", box.parentElement.clientWidth / columns < 14);
      Object.assign(box.style, { left: (100 * column) / columns + "%", top: (100 * row) / rows + "%", width: 100 / columns + "%", height: 100 / rows + "%" });
    }
  };
  // Choosers, captions, frames and marks anew.
  const refresh = () => {
    const run = lab.run;
    if (run) {
      const bases = run.halves.length > 1 ? [...SLOTS, "guidance"] : SLOTS, choices = bases.map((base) => [base, NAMES[base]]);
      if (run.channels > 1) for (const base of bases) for (let channel = 0; channel < run.channels; channel++)
        choices.push([base + "." + channel, SHORT[base] + ", " + channelName(channel), NAMES[base] + ", one channel"]);
      kinds = kinds.map((kind, slot) => (choices.some(([value]) => value === kind) ? kind : SLOTS[slot]));
      figures.forEach((figure) => lab.fill(figure.querySelector("select"), choices));
    }
    figures.forEach((figure, slot) => {
      const kind = live ? SLOTS[slot] : kinds[slot], base = parts(kind)[0];
      const size = run && !live ? run.frames[lab.sample]?.[base]?.width || 0 : figure.querySelector("canvas").width;
      Object.assign(figure.dataset, { kind: base, choice: kind });
      figure.classList.toggle("lab-smooth", size > 64);
      if (run && !live) figure.querySelector(".lab-picture").style.aspectRatio = run.size[1] + " / " + run.size[0];
      const select = figure.querySelector("select");
      [select.value, select.disabled] = [kind, Boolean(live) || !run];
      caption(figure, kind);
    });
    if (run && !live) range.max = run.t.length - 1;
    frames();
    mark();
    thumbs();
    charts();
  };
  const show = () => {
    const run = lab.run;
    find("title").textContent = run ? run.title : "";
    for (const control of element.querySelectorAll(".lab-scrub button, .lab-scrub input, .lab-trajectory-files button")) control.disabled = !run || Boolean(live);
    if (!run && !live) return says("No run is open yet.");
    if (run && !live && !run.images[lab.sample]) focus(lab.sample);
    refresh();
    new Set(kinds).forEach(wanted);
  };

  // ---- The samples of a batch
  const samples = element.querySelector(".lab-trajectory-samples");
  const thumbs = () => {
    const run = lab.run, count = Math.min(run?.labels.length || 0, 64);
    samples.hidden = count < 2;
    if (samples.hidden) return;
    if (samples.dataset.run !== run.id || samples.children.length !== count) {
      samples.dataset.run = run.id;
      samples.replaceChildren(...run.labels.slice(0, count).map((name, sample) => {
        const button = lab.make("button"), label = (name ? name + ", " : "") + "sample " + (sample + 1);
        Object.assign(button, { type: "button", title: label });
        button.setAttribute("aria-label", label);
        button.append(lab.make("canvas"), lab.make("span", "", name || String(sample + 1)));
        button.addEventListener("click", () => (run.images[sample] ? lab.set({ sample }) : focus(sample)));
        return button;
      }));
    }
    [...samples.children].forEach((button, sample) => {
      button.setAttribute("aria-pressed", sample === lab.sample);
      button.classList.toggle("lab-on", sample === lab.sample);
      button.disabled = Boolean(live);
      const canvas = button.firstChild;
      if (finals?.run !== run || canvas.dataset.drawn) return;
      const { width: w, height: h, columns, image } = finals;
      Object.assign(canvas, { width: w, height: h });
      canvas.dataset.drawn = "";
      canvas.getContext("2d").drawImage(image, (sample % columns) * w, Math.floor(sample / columns) * h, w, h, 0, 0, w, h);
    });
  };
  const ended = async (atlas) => {
    const run = lab.run, image = Object.assign(new Image(), { src: atlas.uri });
    await image.decode();
    if (lab.run !== run) return;
    finals = { ...atlas, image, run };
    thumbs();
  };

  // ---- Curves
  const told = ({ norms, change, snr, spectra }) => {
    const { shape: [, steps], values } = lab.unpack(norms), row = (k) => values.slice(k * steps, (k + 1) * steps);
    const power = spectra && Object.fromEntries(Object.entries(spectra).map(([name, packed]) => [name, lab.unpack(packed).values]));
    return { norms: [row(0), row(1), row(2)], change: [[NaN, ...lab.unpack(change).values]], snr: snr && [lab.unpack(snr).values], spectra: power };
  };
  const charts = () => {
    const run = lab.run;
    find("curve").parentElement.hidden = !run;
    if (!run) return;
    const offered = Object.keys(CURVES).filter((name) => run.halves.length > 1 || !["guidance", "angle"].includes(name));
    if (curveChoice.options.length !== offered.length) lab.fill(curveChoice, offered.map((name) => [name, CURVES[name].title]));
    const mine = numbers[lab.sample], curve = CURVES[curveChoice.value], lines = mine?.[curveChoice.value], last = run.t.length - 1;
    const [unit, why] = [find("curve").querySelector("small"), find("curve").querySelector("p")];
    unit.textContent = curve.unit;
    why.textContent = lines ? curve.why : lines === null ? "The run walked a process that its file does not name, so this is not known." : mine ? "From one doubled forward a step." : "…";
    curves.draw({
      lines: lines && lines.map((values, i) => ({ name: curve.lines[i], values, look: lines.length > 1 ? i : 3 })), log: curve.log, level: curve.level,
      at: (i) => (last ? i / last : 0.5), ticks: [...new Set([0, Math.round(last / 3), Math.round((2 * last) / 3), last])].map((i) => [i, "t = " + run.t[i]]),
      name: curve.title + " by step", told: (i) => lab.when(i), pick: (step) => (pause(), lab.set({ step })),
    }, lab.step);
    const power = mine?.spectra;
    find("spectra").hidden = power === null;
    const f = power?.frequency.length, at = (values) => values.slice(lab.step * f, (lab.step + 1) * f);
    spectra.draw({
      lines: power && [{ name: "xₜ", values: at(power.x), look: 0 }, { name: "x₀", values: at(power.x0), look: 1 }, { name: "noise", values: Array(f).fill(power.noise[lab.step]), look: 2 }],
      extent: power && [...power.x, ...power.x0, ...power.noise], log: true,
      at: (i) => (f > 1 ? Math.log(i + 1) / Math.log(f) : 0.5), ticks: power && octaves(power.frequency[0]), axis: "cycles per pixel, log scale", name: "Power by frequency at " + lab.when(),
      told: (i) => "1 cycle in " + said(1 / power.frequency[i]) + " pixels",
    }, 0);
  };

  // ---- Play
  const setIcon = (name) => {
    find("play").querySelector("path").setAttribute("d", ICONS[name]);
    find("play").setAttribute("aria-label", name === "play" ? "Play" : "Pause");
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    setIcon("play");
  };
  const start = () => {
    if (!lab.run || live) return;
    const last = lab.run.t.length - 1, speed = Number(find("speed").value), pace = 4000 / (last + 1) / speed;
    // About four seconds from end to end, whatever the number of steps; the end is held before it begins again.
    const stride = Math.max(1, Math.round(40 / pace));
    let held = 0;
    if (lab.step === last) lab.set({ step: 0 });
    timer = setInterval(() => {
      if (lab.step < last) return lab.set({ step: lab.step + stride });
      if (!find("loop").checked) return pause();
      if (++held * Math.max(40, pace) >= 40 * HOLD) held = lab.set({ step: 0 }) || 0;
    }, Math.max(40, pace));
    setIcon("pause");
  };
  const toggle = () => (timer ? pause() : start());
  const go = { first: () => 0, back: () => lab.step - 1, next: () => lab.step + 1, last: () => Infinity };
  const walk = (name) => lab.run && !live && (pause(), lab.set({ step: Math.min(go[name](), lab.run.t.length - 1) }));
  range.addEventListener("input", () => (pause(), lab.set({ step: Number(range.value) })));
  find("play").addEventListener("click", toggle);
  find("speed").addEventListener("change", () => timer && (pause(), start()));
  for (const button of element.querySelectorAll("[data-go]")) button.addEventListener("click", () => walk(button.dataset.go));
  range.addEventListener("keydown", (event) => event.key === " " && (event.preventDefault(), toggle()));
  figures.forEach((figure, slot) => {
    const box = figure.querySelector(".lab-picture");
    box.addEventListener("click", (event) => {
      if (!lab.run || live) return;
      const { left, top, width, height } = box.getBoundingClientRect(), [rows, columns] = lab.run.grid;
      const place = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor((at / size) * count)));
      pause();
      lab.set({ patch: place(event.clientY - top, height, rows) * columns + place(event.clientX - left, width, columns) });
    });
    box.addEventListener("keydown", (event) => {
      if (!lab.run || live || event.ctrlKey || event.metaKey || event.altKey) return;
      const [rows, columns] = lab.run.grid, way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const middle = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
      if (way && event.shiftKey) {
        const row = Math.floor(lab.patch / columns) + way[0], column = (lab.patch % columns) + way[1];
        lab.set({ patch: lab.patch === null ? middle : Math.min(rows - 1, Math.max(0, row)) * columns + Math.min(columns - 1, Math.max(0, column)) });
      } else if (way) walk(way[0] + way[1] > 0 ? "next" : "back");
      else if (event.key === "Home" || event.key === "End") walk(event.key === "Home" ? "first" : "last");
      else if (event.key === " ") toggle();
      else if (event.key === "Enter" && lab.patch === null) lab.set({ patch: middle });
      else if (event.key === "Escape") lab.set({ patch: null });
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    figure.querySelector("select").addEventListener("change", (event) => {
      kinds[slot] = event.target.value;
      refresh();
      wanted(kinds[slot]);
    });
  });
  curveChoice.addEventListener("change", () => {
    charts();
    if (["guidance", "angle"].includes(curveChoice.value)) wanted("guidance");
  });

  // ---- While a run goes: its pictures in the same places, and how far it is
  const preview = async ({ pictures, step, steps, t, left }) => {
    const mine = ++shown;
    if (!live) pause();
    const entered = !live;
    live = { step, steps };
    card.setAttribute("aria-busy", "true");
    Object.assign(find("progress"), { max: steps, value: step + 1, hidden: false });
    range.hidden = true;
    find("when").textContent = "step " + (step + 1) + " of " + steps + (t == null ? "" : ", t = " + t);
    says("Sampling: step " + (step + 1) + " of " + steps + (left == null ? "" : ", about " + seconds(left) + " left") + ". Curves are those of the run before.");
    if (entered) show();
    const drawn = await Promise.all(SLOTS.map(async (kind) => {
      if (!pictures?.[kind]) return null;
      const image = Object.assign(new Image(), { src: pictures[kind] });
      await image.decode().catch(() => {});
      return image;
    }));
    if (!live || mine !== shown) return;
    figures.forEach((figure, slot) => {
      const image = drawn[slot], canvas = figure.querySelector("canvas");
      if (!image?.naturalWidth) return;
      Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
      canvas.getContext("2d").drawImage(image, 0, 0);
      figure.classList.toggle("lab-smooth", image.naturalWidth > 64);
      figure.querySelector(".lab-picture").style.aspectRatio = image.naturalWidth + " / " + image.naturalHeight;
      figure.querySelector(".lab-picture").setAttribute("aria-label", NAMES[SLOTS[slot]] + ", step " + (step + 1) + " of " + steps + " of the run that goes on");
    });
  };
  const leave = () => {
    if (!live) return;
    live = null;
    shown++;
    card.removeAttribute("aria-busy");
    find("progress").hidden = true;
    range.hidden = false;
    find("when").textContent = "";
    says("");
  };
  const stopped = ({ step, steps }) => {
    const at = step ?? (live ? live.step + 1 : null), of = steps ?? live?.steps;
    leave();
    show();
    says(at == null ? "Stopped." : "Stopped after step " + at + (of ? " of " + of : "") + ".");
  };

  // ---- Files
  const strip = () => {
    const run = lab.run, last = run.t.length - 1, count = Math.min(STRIP, run.t.length), before = lab.step;
    const steps = Array.from({ length: count }, (_, i) => (count > 1 ? Math.round((i * last) / (count - 1)) : 0));
    const high = Math.round((CELL * run.size[0]) / run.size[1]), margin = 132, top = 46;
    const sheet = Object.assign(lab.make("canvas"), { width: margin + count * (CELL + 6), height: top + 3 * (high + 6) });
    const context = sheet.getContext("2d"), frame = lab.make("canvas");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, sheet.width, sheet.height);
    context.fillStyle = "#222";
    context.font = "13px system-ui, sans-serif";
    context.fillText(run.title, 6, 16, sheet.width - 12);
    kinds.forEach((kind, row) => {
      const [base, channel] = parts(kind), y = top + row * (high + 6);
      context.fillText(NAMES[base], 6, y + high / 2, margin - 12);
      if (channel !== undefined) context.fillText(channelName(channel), 6, y + high / 2 + 18);
      steps.forEach((step, i) => {
        lab.step = step; // drawn here alone, without a word to anybody
        draw(kind, frame);
        context.imageSmoothingEnabled = frame.width > 64;
        context.drawImage(frame, margin + i * (CELL + 6), y, CELL, high);
        if (!row) context.fillText("t = " + run.t[step], margin + i * (CELL + 6), top - 8);
      });
    });
    lab.step = before;
    lab.hand("trajectory-strip.png", sheet.toDataURL("image/png"));
  };
  for (const button of element.querySelectorAll("[data-file]")) button.addEventListener("click", async () => {
    const kind = button.dataset.file, run = lab.run;
    if (!run || live) return;
    if (kind === "strip") return strip();
    says("Making the " + button.textContent + " …");
    button.disabled = true;
    try {
      const { name, mime, data } = await send({ sample: lab.sample, download: kind }, ({ told }) => says(told + " …"));
      lab.hand(name, "data:" + mime + ";base64," + data);
      says(name + " is made.");
    } catch (error) {
      says(lab.live ? error.message : "The " + button.textContent + " was not put into this page: open the run in the app or in a notebook to make it. The PNG strip is made here.", true);
    }
    button.disabled = false;
  });

  // ---- What is given, and what changes
  const take = (next) => {
    given = next;
    if (!given?.numbers) return;
    numbers[given.numbers.sample] = { ...numbers[given.numbers.sample], ...told(given.numbers) };
    if (given.finals) ended(given.finals);
    else if (lab.run?.labels.length > 1 && finals?.run !== lab.run) (lab.live ? asking : quietly)("finals", "Decoding the samples of the batch", { finals: true }, (answer) => ended(answer.finals));
  };
  const quietly = (name, words, request, use) => send(request).then(use, () => {});
  const off = lab.on((changed) => {
    if (changed.has("run")) {
      [extras, numbers, asks] = [{}, {}, {}];
      leave();
      says("");
      take(given?.run === lab.run?.id ? given : null);
    }
    if (changed.has("run") || changed.has("sample")) show();
    else if (changed.has("frames")) refresh();
    else if (changed.has("step")) (frames(), charts());
    if (changed.has("patch")) mark();
  });
  const sized = new ResizeObserver(() => (mark(), charts()));
  sized.observe(card);
  if (lab.run) take(given);
  show();
  const update = (next) => (next?.kind === "preview" ? void preview(next) : next?.kind === "stopped" ? stopped(next) : (take(next), show()));
  return { update, destroy: () => (pause(), sized.disconnect(), off()) };
}

const said = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : value > 0 ? "∞" : "not defined");
const seconds = (count) => (count < 1 ? "under a second" : count < 90 ? Math.round(count) + " s" : Math.round(count / 60) + " min");
const blank = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
// Every pixel anew: one value is a grey.
const recolour = (canvas, colour) => {
  const context = canvas.getContext("2d"), image = context.getImageData(0, 0, canvas.width, canvas.height), pixels = image.data;
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g = r, b = r] = colour(pixels, i);
    [pixels[i], pixels[i + 1], pixels[i + 2]] = [r, g, b];
  }
  context.putImageData(image, 0, 0);
};
// The frequencies 1/2, 1/4, 1/8 … of a spectrum whose lowest is given, and where they lie among its own: [index, text].
const octaves = (lowest) => [128, 64, 32, 16, 8, 4, 2].filter((n) => 1 / n >= lowest * 0.99).map((n) => [1 / n / lowest - 1, "1/" + n]);

// A line chart with a cursor: lines have a legend with their numbers under the cursor, or at `at` where there is none.
function createChart(element, lab) {
  const svg = element.querySelector("svg"), legend = element.querySelector(".lab-trajectory-legend");
  const H = 150, L = 46, R = 10, T = 6, B = 34;
  let spec = null, cursor = 0, hovered = null, width = 300;
  const make = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const x = (i) => L + spec.at(i) * (width - L - R);
  const numbers = () => {
    const i = hovered ?? cursor, line = svg.querySelector(".lab-trajectory-cursor");
    legend.replaceChildren(...(spec.lines || []).map(({ name, values, look }) => {
      const item = lab.make("span", "lab-trajectory-item"), key = lab.make("i", "lab-trajectory-key lab-trajectory-line-" + look);
      item.append(key, name + " ", lab.make("b", "", said(values[i])));
      return item;
    }), lab.make("span", "lab-trajectory-where", spec.lines ? spec.told(i) : ""));
    if (line) for (const end of ["x1", "x2"]) line.setAttribute(end, x(i));
  };
  const draw = (next, at) => {
    [spec, cursor] = [next, at];
    width = Math.max(220, element.clientWidth);
    svg.setAttribute("viewBox", "0 0 " + width + " " + H);
    svg.setAttribute("aria-label", next.name);
    svg.replaceChildren();
    if (!next.lines) return numbers();
    const scale = next.log ? Math.log10 : (v) => v, fits = (v) => Number.isFinite(scale(v));
    const all = [...(next.extent || next.lines.flatMap(({ values }) => [...values]))].filter(fits).map(scale);
    if (next.level !== undefined) all.push(scale(next.level));
    let low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!next.log) low = Math.min(low, 0);
    if (!(high > low)) [low, high] = all.length ? [low - 1, high + 1] : [0, 1];
    const y = (v) => T + (1 - (scale(v) - low) / (high - low)) * (H - T - B);
    for (const tick of next.log ? decades(low, high) : steps(low, high)) {
      svg.append(make("line", { class: "lab-trajectory-grid", x1: L, x2: width - R, y1: y(tick), y2: y(tick) }), make("text", { x: L - 6, y: y(tick) + 4, "text-anchor": "end" }, said(tick)));
    }
    next.ticks.forEach(([i, text], n) => svg.append(make("text", { x: x(i), y: H - B + 16, "text-anchor": x(i) < L + 20 ? "start" : n && x(i) > width - R - 20 ? "end" : "middle" }, text)));
    svg.append(make("text", { x: (L + width - R) / 2, y: H - 3, "text-anchor": "middle" }, next.axis || "timestep t, noisiest first"));
    if (next.level !== undefined) svg.append(make("line", { class: "lab-trajectory-level", x1: L, x2: width - R, y1: y(next.level), y2: y(next.level) }));
    for (const { values, look } of next.lines) {
      let d = "", pen = "M", one = 0;
      Array.from(values).forEach((v, i) => {
        if (!fits(v)) return void (pen = "M");
        d += pen + x(i).toFixed(1) + " " + y(v).toFixed(1);
        [pen, one] = ["L", one + 1];
      });
      svg.append(make("path", { class: "lab-trajectory-line-" + look, d: one === 1 ? d + "h0.1" : d }));
    }
    svg.append(make("line", { class: "lab-trajectory-cursor", x1: 0, x2: 0, y1: T, y2: H - B }));
    numbers();
  };
  const under = (event) => {
    const { left, width: wide } = svg.getBoundingClientRect(), at = (((event.clientX - left) / wide) * width - L) / (width - L - R);
    const count = spec.lines[0].values.length;
    return Array.from({ length: count }, (_, i) => i).reduce((best, i) => (Math.abs(spec.at(i) - at) < Math.abs(spec.at(best) - at) ? i : best), 0);
  };
  svg.addEventListener("pointermove", (event) => spec?.lines && ((hovered = under(event)), numbers()));
  svg.addEventListener("pointerleave", () => spec && ((hovered = null), numbers()));
  svg.addEventListener("click", (event) => spec?.lines && spec.pick?.(under(event)));
  return { draw };
}

// Some round numbers of a linear axis, and of one that is drawn by powers of ten.
const steps = (low, high) => {
  const rough = (high - low) / 3, ten = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= rough);
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step);
};
const decades = (low, high) => {
  const every = Math.max(1, Math.ceil((high - low) / 4)), few = high - low < 1.5 ? [1, 2, 5] : [1];
  return Array.from({ length: Math.floor(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i)
    .filter((n) => n % every === 0).flatMap((n) => few.map((m) => m * 10 ** n)).filter((v) => Math.log10(v) >= low - 1e-9 && Math.log10(v) <= high + 1e-9);
};
