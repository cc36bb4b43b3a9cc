// How the condition comes in: shift, scale and gate by block and step, or attention on the condition; then the tokens.
const MEANINGS = {
  shift: "is added to every token behind the norm", scale: "stretches every token behind the norm; 0 leaves it as it is",
  gate: "is how much of the branch's answer counts; 0 shuts it",
};
const TOKEN_VIEWS = ["norms", "likeness", "colours"];
const OVER = 0.6; // how opaque a map is over the picture
const WIDEST = 30; // classes that a plain list is good for

export function mount({ element, data, send, lab }) {
  const tab = (name, words) => `<button type="button" data-tab="${name}" aria-pressed="false">${words}</button>`;
  element.innerHTML = `
    <section class="lab-card lab-conditioning" aria-label="How the condition comes in">
      <div class="lab-title"><h2>How the condition comes in</h2><p data-enters></p></div>
      <p class="lab-note" data-why hidden></p>
      <div data-body hidden>
        <div class="lab-conditioning-tabs" role="group" aria-label="What to see">
          ${tab("modulation", "Shift, scale, gate")}${tab("shares", "Attention on the condition")}${tab("norms", "Token norms")}
          ${tab("likeness", "Tokens that are alike")}${tab("colours", "Features as colours")}
        </div>
        <div class="lab-choosers">
          <label data-for="norms likeness colours">Block <select data-block></select></label>
          <label data-for="shares">Share on <select data-token></select></label>
          <label data-for="shares"><abbr data-term="head">Head</abbr> <select data-head></select></label>
          <label data-pass>Pass <select data-half></select></label>
          <label data-for="modulation" data-classes>Beside another class <select data-other></select><input data-search placeholder="type a name" autocomplete="off" /><small data-search-told></small></label>
          <label data-for="norms">Colour scale <select data-scale><option value="own">each block its own</option><option value="one">one for all blocks</option></select></label>
          <label data-for="norms likeness" class="lab-conditioning-check"><span><input type="checkbox" data-over /> Lay the map over the picture</span></label>
        </div>
        <datalist data-names></datalist>
        <p class="lab-told" role="status" data-told></p>
        <progress data-progress hidden aria-label="Steps looked at"></progress>
        <button type="button" class="lab-main" data-start hidden></button>

        <p class="lab-conditioning-read" data-read></p>
        <div data-view="modulation" hidden>
          <p>The size of what each block is told: the root mean square of a vector over its features. Blocks go down, time goes
            from noise on the left to the picture on the right; the line is the scrubbed step. Click a cell to go to its step and block.</p>
          <div class="lab-conditioning-heats" data-parts></div>
          <div data-beside hidden><h3 data-beside-title></h3>
            <p>Two vectors may be of one size and still be others: the last map is the root mean square of their difference.</p>
            <div class="lab-conditioning-heats" data-compared></div></div>
        </div>
        <div data-view="shares" hidden>
          <p data-shares-told></p><div class="lab-conditioning-heats" data-shares></div></div>

        <div data-tokens hidden>
          <p data-view="norms" hidden>The <abbr data-term="token_norm">length</abbr> of every <abbr data-term="token">token</abbr> after a block. A single bright one is a
            <abbr data-term="sink">sink</abbr> or register; a picture that shows through means that lengths follow what is drawn there.</p>
          <p data-view="likeness" hidden>How alike the features of the outlined <abbr data-term="patch">patch</abbr> are to those of every other, after a block: the cosine, 1 where they point
            the same way. Where all are bright, tokens have much in common, and the differences are what to read.</p>
          <p data-view="colours" hidden>Red, green and blue are the three directions in which tokens differ most, fitted once to all steps and blocks of
            <span data-fitted></span>: tokens of one colour are alike, wherever and whenever they are. <span data-hold></span></p>
          <div class="lab-conditioning-pair">
            <figure data-place="picture"><div class="lab-conditioning-box" tabindex="0" role="application"><canvas width="1" height="1"></canvas><i class="lab-conditioning-mark"></i><i class="lab-conditioning-hover" hidden></i></div>
              <figcaption>Predicted <abbr data-term="x0">x<sub>0</sub></abbr> <span data-when></span></figcaption></figure>
            <figure data-place="map"><div class="lab-conditioning-box" tabindex="0" role="application"><canvas width="1" height="1" class="lab-conditioning-under"></canvas><canvas width="1" height="1" data-map></canvas><i class="lab-conditioning-mark"></i><i class="lab-conditioning-hover" hidden></i></div>
              <figcaption data-map-told></figcaption></figure>
            <div><div class="lab-bar" data-bar><span></span><i><u></u></i><span></span></div><p data-cell></p><ul data-largest></ul></div>
          </div>
          <h3 data-many-title></h3>
          <div class="lab-conditioning-many" data-many></div>
          <div data-view="colours" hidden><div class="lab-conditioning-heats lab-conditioning-wide" data-matrix></div></div>
        </div>
      </div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]");
  const all = (name) => [...element.querySelectorAll("[data-" + name + "]")];
  const boxes = all("place").map((figure) => figure.firstElementChild), mapBox = boxes[1];
  const one = lab.latest(send);
  find("names").id = "lab-conditioning-names-" + Math.random().toString(36).slice(2);
  find("search").setAttribute("list", find("names").id);
  let view = null, built = null, found = null, part = null, beside = null, heats = [], hovered = null;

  // Words ------------------------------------------------------------------------------------------------------------
  const ready = () => lab.run && data && data.run === lab.run.id;
  const round = (value) => (value === 0 ? "0" : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(1)).replace("-", "−");
  const className = (label) => data.classes.find(([number]) => number === label)?.[1] || "";
  const partName = (name) => {
    const [kind, branch] = name.split("_");
    return kind + (branch ? ", " + ({ attn: "attention", mlp: "MLP" }[branch] || branch) : "");
  };
  function tell(text, wrong = false) {
    find("told").textContent = text;
    find("told").classList.toggle("lab-wrong", wrong);
  }
  const stageAt = (block) => lab.run.stages.findLastIndex((stage) => stage.first <= block);
  const gridAt = (block) => lab.run.stages[stageAt(block)].grid;
  // The token of a block's grid that covers a patch of the finest one; and back, the patch in its middle.
  function under(patch, [rows, columns]) {
    const [fine, wide] = lab.run.grid, row = Math.floor(patch / wide), column = patch % wide;
    return Math.floor(((row + 0.5) * rows) / fine) * columns + Math.floor(((column + 0.5) * columns) / wide);
  }
  function over(token, [rows, columns]) {
    const [fine, wide] = lab.run.grid, row = Math.floor(token / columns), column = token % columns;
    return Math.floor(((row + 0.5) * fine) / rows) * wide + Math.floor(((column + 0.5) * wide) / columns);
  }

  // Heat maps, blocks by steps ---------------------------------------------------------------------------------------
  function makeHeat(host) {
    const box = host.appendChild(lab.make("figure", "lab-conditioning-heat")), caption = box.appendChild(lab.make("figcaption"));
    const grid = box.appendChild(lab.make("div", "lab-conditioning-grid"));
    const names = grid.appendChild(lab.make("div", "lab-conditioning-names")), map = grid.appendChild(lab.make("div", "lab-conditioning-map"));
    const canvas = map.appendChild(lab.make("canvas")), column = map.appendChild(lab.make("i", "lab-conditioning-column")), cell = map.appendChild(lab.make("i", "lab-conditioning-cell"));
    grid.append(lab.make("span"));
    const ends = grid.appendChild(lab.make("div", "lab-conditioning-ends"));
    ends.append(lab.make("span"), lab.make("span"));
    const bar = box.appendChild(lab.make("div", "lab-bar"));
    bar.append(lab.make("span"), lab.make("i"), lab.make("span"));
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    const { depth } = lab.run, every = Math.ceil(depth / 14);
    const named = lab.run.stages.length > 1;
    names.replaceChildren(...lab.run.stages.flatMap((stage) => {
      if (!named) return stage.blocks.map((_, b) => lab.make("span", "", b % every ? "" : String(b)));
      const label = lab.make("span", "lab-conditioning-stage", stage.name);
      label.style.gridRow = "span " + stage.blocks.length;
      return [label];
    }));
    for (const { first } of lab.run.stages.slice(1)) map.appendChild(lab.make("b")).style.top = (100 * first) / depth + "%";
    const heat = { box, caption, canvas, bar, steps: lab.run.t.map((_, step) => step), name: "", tell: null };
    const at = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      const where = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      return [where((event.clientY - top) / height, depth), heat.steps[where((event.clientX - left) / width, heat.steps.length)]];
    };
    const go = (block, step) => lab.set({ block, step, ...heat.part?.(block) });
    canvas.addEventListener("pointermove", (event) => heat.tell && read(heat.tell(...at(event))));
    canvas.addEventListener("pointerleave", () => read());
    canvas.addEventListener("click", (event) => heat.tell && go(...at(event)));
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move || !heat.tell) return;
      event.preventDefault();
      const shown = heat.near(), next = heat.steps[Math.max(0, Math.min(heat.steps.length - 1, shown + move[1]))];
      go(Math.max(0, Math.min(depth - 1, lab.block + move[0])), move[1] ? next : lab.step);
      read(heat.tell(lab.block, lab.step));
    });
    heat.near = () => heat.steps.reduce((best, step, i) => (Math.abs(step - lab.step) < Math.abs(heat.steps[best] - lab.step) ? i : best), 0);
    heat.place = () => {
      const left = (100 * heat.near()) / heat.steps.length, width = 100 / heat.steps.length;
      Object.assign(column.style, { left: left + "%", width: width + "%" });
      Object.assign(cell.style, { left: left + "%", width: width + "%", top: (100 * lab.block) / depth + "%", height: 100 / depth + "%" });
      if (heat.tell) canvas.setAttribute("aria-label", heat.name + ", blocks down and steps across, arrow keys move; " + heat.tell(lab.block, lab.step));
    };
    // `values: block step` in colours from low to high.
    heat.draw = ({ name, values, colours, low, high, unit = "" }) => {
      const steps = lab.run.t.length, context = canvas.getContext("2d"), pixels = ((canvas.width = steps), (canvas.height = depth), context.createImageData(steps, depth));
      values.forEach((value, i) => pixels.data.set([...lab.colour(colours, (value - low) / (high - low || 1)), 255], 4 * i));
      context.putImageData(pixels, 0, 0);
      map.style.height = Math.max(7, Math.min(22, 200 / depth)) * depth + "px";
      bar.children[1].style.background = lab.gradient(colours);
      bar.children[0].textContent = round(low);
      bar.children[2].textContent = round(high) + unit;
      heat.name = name;
      heat.tell = (block, step) => name + ", " + lab.blockName(block) + " at " + lab.when(step) + ": " + round(values[block * steps + step]) + unit;
      heat.ends();
      heat.place();
    };
    heat.ends = () => {
      ends.firstChild.textContent = "t = " + lab.run.t[0];
      ends.lastChild.textContent = "t = " + lab.run.t.at(-1);
    };
    heats.push(heat);
    return heat;
  }
  function read(text) {
    const heat = heats.find((each) => each.tell && each.box.isConnected && each.chosen?.()) || heats.find((each) => each.tell && each.box.isConnected);
    const told = text || (heat ? heat.tell(lab.block, lab.step) : "");
    find("read").textContent = told.replace(/^./, (letter) => letter.toUpperCase());
  }
  const most = (values) => values.reduce((high, value) => Math.max(high, Math.abs(value)), 0);
  function clearHeats() {
    heats = [];
    for (const name of ["parts", "compared", "shares", "matrix"]) find(name).replaceChildren();
  }

  // Shift, scale, gate -----------------------------------------------------------------------------------------------
  async function modulation() {
    const label = lab.half === "uncond" ? data.classes.at(-1)?.[0] : lab.run.labelNumbers[lab.sample];
    if (beside === null && data.modulation?.label === label) return showModulation(data.modulation);
    const answer = await asking({ look: "modulation", sample: lab.sample, half: lab.half, beside });
    if (answer) showModulation(answer);
  }
  function showModulation(answer) {
    found = answer;
    const names = Object.keys(answer.parts);
    if (!names.includes(part)) part = names.find((name) => name === "gate_attn") || names[0];
    clearHeats();
    for (const name of names) {
      const heat = makeHeat(find("parts")), button = lab.make("button", "lab-conditioning-part", partName(name));
      button.type = "button";
      button.dataset.part = name;
      button.addEventListener("click", () => ((part = name), choose()));
      heat.caption.append(button);
      heat.part = (block) => (choosePart(name), { part: "blocks." + block + ".modulation" });
      heat.chosen = () => part === name;
      const { values } = lab.unpack(answer.parts[name]);
      heat.draw({ name: partName(name), values, colours: "viridis", low: 0, high: most(values) });
    }
    find("parts").classList.toggle("lab-conditioning-two", names.length === 4);
    choose();
  }
  const choosePart = (name) => part !== name && ((part = name), setTimeout(choose));
  function choose() {
    for (const button of element.querySelectorAll("[data-part]")) button.setAttribute("aria-pressed", String(button.dataset.part === part));
    const other = found?.beside ?? null;
    find("beside").hidden = other === null;
    heats = heats.filter((heat) => !find("compared").contains(heat.box));
    find("compared").replaceChildren();
    if (other !== null) {
      const [a, b, far] = ["parts", "other", "apart"].map((name) => lab.unpack(found[name][part]).values), difference = b.map((value, i) => value - a[i]);
      const names = ["class " + className(found.label), "class " + className(other)].map((name) => name.replace("class no class", "no class"));
      find("beside-title").textContent = partName(part) + ": " + names.join(" beside ");
      const high = Math.max(most(a), most(b)), signed = most(difference);
      for (const [name, values, colours, low, top] of [
        [names[0], a, "viridis", 0, high], [names[1], b, "viridis", 0, high],
        [names[1] + " minus " + names[0], difference, "signed", -signed, signed], ["how far apart", far, "viridis", 0, most(far)],
      ]) {
        const heat = makeHeat(find("compared"));
        heat.caption.textContent = name;
        heat.part = (block) => ({ part: "blocks." + block + ".modulation" });
        heat.draw({ name: partName(part) + ", " + name, values, colours, low, high: top });
      }
    }
    tell(partName(part)[0].toUpperCase() + partName(part).slice(1) + " " + (MEANINGS[part.split("_")[0]] || "") + ". Each map has its own scale.");
    read();
  }

  // Attention on the condition ---------------------------------------------------------------------------------------
  function shares() {
    const request = { look: "shares", sample: lab.sample, half: lab.half }, answer = wholly(request, "Look at all " + lab.run.t.length + " steps", lab.run.t.length);
    clearHeats();
    if (!answer) return read();
    const time = lab.unpack(answer.time), label = lab.unpack(answer.label), [depth, count, steps] = time.shape, asked = find("token").value;
    const values = new Float32Array(depth * steps), heads = lab.head === "mean" ? [...Array(count).keys()] : [lab.head];
    for (let b = 0; b < depth; b++) for (let s = 0; s < steps; s++) {
      let sum = 0;
      for (const h of heads) {
        const i = (b * count + h) * steps + s;
        sum += (asked === "label" ? 0 : time.values[i]) + (asked === "time" ? 0 : label.values[i]);
      }
      values[b * steps + s] = (100 * sum) / heads.length;
    }
    const heat = makeHeat(find("shares")), cross = data.enters === "cross", tokens = { both: "both tokens of the condition", time: "the time token", label: "the label token" }[asked];
    heat.caption.textContent = "Share of " + (cross ? "cross-attention" : "attention") + " on " + tokens + ", " + (lab.head === "mean" ? "mean over heads" : "head " + lab.head);
    heat.part = (block) => ({ part: "blocks." + block + (cross ? ".cross" : ".attn") });
    heat.draw({ name: "share on " + tokens, values, colours: "viridis", low: 0, high: cross ? 100 : most(values), unit: " %" });
    read();
  }

  // Tokens -----------------------------------------------------------------------------------------------------------
  async function norms() {
    const { step } = lab, answer = await asking({ look: "norms", step, sample: lab.sample, half: lab.half });
    if (answer) (found = { ...answer, at: step, of: "norms", values: answer.stages.map((stage) => lab.unpack(stage.norms)) }), drawTokens();
  }
  async function likeness() {
    if (lab.patch === null) return tell("Click a patch on the picture, or move to one with the arrow keys: it is compared to all others."), clearTokens();
    const { step } = lab, answer = await asking({ look: "likeness", step, sample: lab.sample, half: lab.half, patch: lab.patch });
    if (answer) (found = { ...answer, at: step, of: "likeness", values: answer.stages.map((stage) => lab.unpack(stage.likeness)) }), drawTokens();
  }
  async function colours() {
    const steps = Math.min(lab.run.t.length, 50), request = { look: "colours", sample: lab.sample, half: lab.half };
    const answer = wholly(request, "Colour all " + steps + " steps (" + 2 * steps + " forwards)", 2 * steps);
    clearHeats();
    if (!answer) return clearTokens();
    answer.images ??= await Promise.all(answer.stages.map(async ({ atlas }) => {
      const image = Object.assign(new Image(), { src: atlas.uri });
      await image.decode();
      return image;
    }));
    if (view !== "colours") return;
    found = { ...answer, of: "colours", at: null };
    clearHeats();
    matrix();
    drawTokens();
  }
  const row = (block) => {
    const stage = stageAt(block), { shape: [, n], values } = found.values[stage], b = block - lab.run.stages[stage].first;
    return values.subarray(b * n, (b + 1) * n);
  };
  const median = (values) => {
    const sorted = Float32Array.from(values).sort();
    return sorted[Math.floor((sorted.length - 1) / 2)];
  };
  const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  // Low and high of a block's map, and whether its scale is logarithmic.
  function scaleOf(block) {
    const every = found.values.map(({ values }) => ends(values)), low = Math.min(...every.map(([a]) => a)), high = Math.max(...every.map(([, b]) => b));
    if (found.of === "likeness") return [low, 1, false];
    return find("scale").value === "own" ? [...ends(row(block)), false] : low > 0 && high > 5 * low ? [low, high, true] : [0, high, false];
  }
  function paint(canvas, block) {
    const [rows, columns] = gridAt(block);
    if (found.of === "colours") return stamp(canvas, block, nearest(lab.step));
    const values = row(block), [low, high, log] = scaleOf(block), context = canvas.getContext("2d");
    Object.assign(canvas, { width: columns, height: rows });
    const pixels = context.createImageData(columns, rows), span = log ? Math.log(high / low) : high - low;
    values.forEach((value, i) => pixels.data.set([...lab.colour("viridis", span ? (log ? Math.log(value / low) : value - low) / span : 0.5), 255], 4 * i));
    context.putImageData(pixels, 0, 0);
  }
  const shownStep = () => found.at ?? found.steps[nearest(lab.step)];
  const nearest = (step) => found.steps.reduce((best, each, i) => (Math.abs(each - step) < Math.abs(found.steps[best] - step) ? i : best), 0);
  function stamp(canvas, block, index, place) {
    const stage = stageAt(block), { blocks, first } = lab.run.stages[stage], { atlas: { width, height, columns } } = found.stages[stage];
    if (!place) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), frame = index * blocks.length + block - first;
    context.imageSmoothingEnabled = false;
    context.drawImage(found.images[stage], (frame % columns) * width, Math.floor(frame / columns) * height, width, height, ...(place || [0, 0, width, height]));
  }
  function drawTokens() {
    if (!found || found.of !== view) return;
    const { block } = lab, words = { norms: "Token norms", likeness: "Likeness to the outlined patch", colours: "Features as colours" }[view], coloured = view === "colours";
    find("tokens").classList.toggle("lab-conditioning-empty", false);
    drawPicture();
    paint(find("map"), block);
    const laid = find("over").checked && !coloured;
    find("map").style.opacity = laid ? OVER : 1;
    mapBox.firstElementChild.hidden = !laid;
    find("map-told").textContent = words + " after " + lab.blockName(block) + ", " + lab.when(shownStep()) + (coloured && shownStep() !== lab.step ? ", the nearest that was coloured" : "");
    find("bar").hidden = coloured;
    if (!coloured) {
      const [low, high, log] = scaleOf(block), [from, ramp, to] = find("bar").children;
      [from.textContent, to.textContent] = [round(low), round(high) + (log ? " (log)" : "")];
      ramp.firstElementChild.style.cssText = "background:" + lab.gradient("viridis") + ";opacity:" + (laid ? OVER : 1);
    }
    many();
    largest();
    marks();
    cell();
    if (view !== "colours") tell("");
  }
  function many() {
    const host = find("many"), blocks = [...Array(lab.run.depth).keys()], held = document.activeElement?.dataset?.block;
    find("many-title").textContent = "After every block at " + lab.when(shownStep());
    if (host.children.length !== blocks.length) {
      host.replaceChildren(...blocks.map((block) => {
        const button = lab.make("button");
        Object.assign(button, { type: "button" }).dataset.block = block;
        button.append(lab.make("canvas"), lab.make("span"), lab.make("small"));
        button.addEventListener("click", () => lab.set({ block }));
        return button;
      }));
      if (held !== undefined) host.querySelector("[data-block='" + held + "']")?.focus();
    }
    [...host.children].forEach((button, block) => {
      paint(button.firstChild, block);
      const values = view === "colours" ? null : row(block);
      button.children[1].textContent = lab.blockName(block);
      button.children[2].textContent = !values ? "" : view === "norms" ? round(ends(values)[1] / median(values)) + " × median" : "median " + round(median(values));
      button.classList.toggle("lab-on", block === lab.block);
      button.setAttribute("aria-pressed", String(block === lab.block));
    });
  }
  function largest() {
    const list = find("largest"), say = (text) => list.appendChild(lab.make("li", "", text)), stage = stageAt(lab.block), { first, grid } = lab.run.stages[stage];
    list.replaceChildren();
    if (view === "norms") {
      const values = row(lab.block), top = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 3);
      for (const token of top) say((token === top[0] ? "Longest: " : "then ") + lab.place(token, grid) + ", " + round(values[token]) + ", " + round(values[token] / median(values)) + " × the median");
      for (const [i, [feature, token, times]] of found.stages[stage].massive[lab.block - first].entries()) {
        say((i ? "then " : "Largest feature of any token: ") + "number " + feature + ", " + (times === null ? "" : round(times) + " × the median feature, ") + "at " + lab.place(token, grid));
      }
    }
    if (view === "likeness") {
      const values = row(lab.block), self = found.stages[stage].token, top = [...values.keys()].filter((token) => token !== self).sort((a, b) => values[b] - values[a]);
      say("Patch: " + lab.place(self, grid));
      for (const token of top.slice(0, 3)) say((token === top[0] ? "Most alike: " : "then ") + lab.place(token, grid) + ", " + round(values[token]));
      if (top.length) say("Least alike: " + lab.place(top.at(-1), grid) + ", " + round(values[top.at(-1)]));
    }
    if (view === "colours") {
      const { explained } = found.stages[stage];
      find("fitted").textContent = lab.run.stages.length > 1 ? "the stage " + lab.run.stages[stage].name : "the run";
      find("hold").textContent = "They hold " + explained.map((share) => lab.percent(share)).join(", ") + " of the variance; the rest is not seen, nor is how long a token is.";
    }
  }
  // All blocks by some steps, as pictures.
  function matrix() {
    const heat = makeHeat(find("matrix")), wide = Math.max(1, Math.floor((element.clientWidth - 110) / 30)), count = Math.min(found.steps.length, wide);
    const chosen = [...new Set(Array.from({ length: count }, (_, i) => Math.round((i * (found.steps.length - 1)) / Math.max(1, count - 1))))];
    const [h, w] = lab.run.size, side = 84, tall = Math.round((side * h) / w), gap = 4;
    heat.steps = chosen.map((i) => found.steps[i]);
    Object.assign(heat.canvas, { width: side * chosen.length, height: tall * lab.run.depth });
    for (let block = 0; block < lab.run.depth; block++) {
      chosen.forEach((index, i) => stamp(heat.canvas, block, index, [i * side + gap / 2, block * tall + gap / 2, side - gap, tall - gap]));
    }
    const across = Math.max(28, Math.min(56, 640 / lab.run.depth)) * chosen.length;
    for (const node of [heat.canvas.parentElement, heat.canvas.parentElement.parentElement.lastChild]) node.style.maxWidth = across + "px";
    heat.canvas.style.height = "auto";
    heat.bar.hidden = true;
    heat.name = "Features as colours";
    heat.caption.textContent = "Every block, down, by step, across" + (chosen.length < lab.run.t.length ? ": " + chosen.length + " of " + lab.run.t.length : "") + ". Click one to go there.";
    heat.tell = (block, step) => lab.blockName(block) + " at " + lab.when(step);
    heat.ends();
    heat.place();
  }
  function clearTokens() {
    found = null;
    find("tokens").classList.add("lab-conditioning-empty");
    find("many").replaceChildren();
    find("many-title").textContent = find("map-told").textContent = find("cell").textContent = find("hold").textContent = "";
    find("largest").replaceChildren();
    find("bar").hidden = true;
    Object.assign(find("map"), { width: 1, height: 1 });
    drawPicture();
    marks();
  }
  function drawPicture() {
    for (const box of boxes) if (!lab.draw("x0", lab.step, box.firstElementChild)) Object.assign(box.firstElementChild, { width: 1, height: 1 });
    const [h, w] = lab.run.size;
    for (const box of boxes) box.style.aspectRatio = w + " / " + h;
    find("when").textContent = "at " + lab.when();
  }
  // The chosen and the hovered token of the block's grid, on both.
  function marks() {
    const grid = gridAt(lab.block), [rows, columns] = grid;
    const put = (node, token) => {
      node.hidden = token === null;
      if (token !== null) Object.assign(node.style, { left: (100 * (token % columns)) / columns + "%", top: (100 * Math.floor(token / columns)) / rows + "%", width: 100 / columns + "%", height: 100 / rows + "%" });
    };
    for (const box of boxes) {
      put(box.querySelector(".lab-conditioning-mark"), lab.patch === null ? null : under(lab.patch, grid));
      put(box.querySelector(".lab-conditioning-hover"), hovered);
      box.setAttribute("aria-label", (box === mapBox ? find("map-told").textContent : "Predicted picture") + "; arrow keys move the patch. " + said(lab.patch === null ? null : under(lab.patch, grid)));
    }
  }
  function said(token) {
    if (token === null) return "No patch is chosen.";
    const grid = gridAt(lab.block), where = lab.place(token, grid), value = found?.values && found.of === view ? row(lab.block)[token] : null;
    if (value === null) return where[0].toUpperCase() + where.slice(1);
    return where[0].toUpperCase() + where.slice(1) + ": " + (view === "norms" ? "norm " + round(value) + ", " + round(value / median(row(lab.block))) + " × the median" : "cosine " + round(value));
  }
  function cell() {
    const token = hovered ?? (lab.patch === null ? null : under(lab.patch, gridAt(lab.block)));
    find("cell").textContent = token === null ? "Move over a picture for its numbers, click to choose a patch." : said(token);
  }
  for (const box of boxes) {
    const at = (event) => {
      const { left, top, width, height } = box.getBoundingClientRect(), [rows, columns] = gridAt(lab.block), where = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
      return where((event.clientY - top) / height, rows) * columns + where((event.clientX - left) / width, columns);
    };
    const hover = (token) => ((hovered = token), marks(), cell());
    box.addEventListener("pointermove", (event) => hover(at(event)));
    box.addEventListener("pointerleave", () => hover(null));
    box.addEventListener("click", (event) => lab.set({ patch: over(at(event), gridAt(lab.block)) }));
    box.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move) return;
      event.preventDefault();
      const grid = gridAt(lab.block), [rows, columns] = grid, token = lab.patch === null ? Math.floor(rows / 2) * columns + Math.floor(columns / 2) - move[1] - columns * move[0] : under(lab.patch, grid);
      const put = (value, count) => Math.max(0, Math.min(count - 1, value));
      lab.set({ patch: over(put(Math.floor(token / columns) + move[0], rows) * columns + put((token % columns) + move[1], columns), grid) });
    });
  }

  // Asking -----------------------------------------------------------------------------------------------------------
  async function asking(request) {
    const run = lab.run.id, wanted = view;
    tell("Asking the model …");
    try {
      const answer = await one(request);
      return run === lab.run?.id && wanted === view ? answer : undefined;
    } catch (error) {
      if (run === lab.run?.id && wanted === view) tell(error.message, true);
    }
  }
  const look = lab.lengthy({ send, start: find("start"), bar: find("progress"), tell, redraw: () => refresh() });
  const wholly = (request, words, forwards) => look(request, words, "This takes " + forwards + " forwards of the model.", data.light);

  // The whole --------------------------------------------------------------------------------------------------------
  function refresh() {
    if (!built || !sight.now) return;
    find("start").hidden = find("progress").hidden = true;
    ({ modulation, shares, norms, likeness, colours })[view]();
  }
  function open(name) {
    view = name;
    found = null;
    tell("");
    clearHeats();
    for (const button of all("tab")) button.setAttribute("aria-pressed", String(button.dataset.tab === view));
    for (const node of all("view")) node.hidden = node.dataset.view !== view;
    for (const node of all("for")) node.hidden = !node.dataset.for.split(" ").includes(view);
    find("classes").hidden = view !== "modulation" || data.classes.length < 2;
    find("tokens").hidden = !TOKEN_VIEWS.includes(view);
    find("read").hidden = TOKEN_VIEWS.includes(view);
    find("read").textContent = "";
    if (TOKEN_VIEWS.includes(view)) clearTokens();
    refresh();
  }
  function build() {
    const blocked = !ready() || data.why;
    find("why").hidden = !blocked;
    find("why").textContent = !lab.run ? "Sample a picture first: then its model is shown from the inside." : !ready() ? "…" : data.why;
    find("body").hidden = Boolean(blocked);
    built = blocked ? null : data.run;
    clearHeats();
    if (blocked) return enters();
    beside = null;
    const modulated = data.enters === "modulation", attends = data.enters === "attn" || data.enters === "cross";
    for (const button of all("tab")) button.hidden = (button.dataset.tab === "modulation" && !modulated) || (button.dataset.tab === "shares" && !attends);
    find("tab=modulation").textContent = lab.run.block === "adaln" ? "Shift and scale" : "Shift, scale, gate";
    lab.fill(find("block"), lab.blockChoices());
    lab.fill(find("head"), [["mean", "mean of all"], ...Array.from({ length: lab.run.heads }, (_, head) => [head, "head " + head])]);
    lab.fill(find("half"), [["cond", data.classes.length ? "with the label" : "the only one"], ["uncond", "without (null label)"]].slice(0, lab.run.halves.length));
    lab.fill(find("token"), data.enters === "cross" ? [["label", "the label token"], ["time", "the time token"]] : [["both", "both tokens"], ["label", "the label token"], ["time", "the time token"]]);
    find("pass").hidden = lab.run.halves.length < 2;
    const few = data.classes.length <= WIDEST;
    find("other").hidden = !few;
    find("search").hidden = find("search-told").hidden = few;
    find("search").value = find("search-told").textContent = "";
    lab.fill(find("other"), [["", "none"], ...(few ? data.classes : [])]);
    find("other").value = "";
    find("names").replaceChildren(...(few ? [] : data.classes.map(([, name]) => Object.assign(lab.make("option"), { value: name }))));
    if (data.enters === "attn") find("shares-told").textContent = "Time and label are two more tokens behind the image's. The map shows what share of its attention an image token gives them; a head that looks at all alike gives " + (100 * data.even[0]).toPrecision(2) + " %" + (new Set(data.even).size > 1 ? " in the first stage." : ".");
    if (data.enters === "cross") find("shares-told").textContent = "Each block has a second attention with two keys alone, time and label. Their shares are 100 % together: the map shows how it is divided.";
    enters();
    follow();
    open(view && !all("tab").find((button) => button.dataset.tab === view).hidden ? view : modulated ? "modulation" : attends ? "shares" : "norms");
  }
  function enters() {
    const host = find("enters"), word = (key, text) => {
      const node = lab.make("abbr", "", text);
      node.dataset.term = key;
      return node;
    };
    host.replaceChildren();
    if (!built) return;
    const told = data.classes.length ? "time and class" : "time", block = lab.run.block, title = lab.run.blockTitle;
    if (data.enters === "modulation") {
      const gated = block === "adaln_zero";
      host.append("In ", word(gated ? "adaln_zero" : "adaln", title), " blocks " + told + " set a ", word("shift", "shift"), " and a ", word("scale", "scale"), " before attention and MLP",
        ...(gated ? [", and a ", word("gate", "gate"), " behind each."] : ["."]));
    } else if (data.enters === "attn") host.append("In ", word("in_context", title), " blocks there is no shift, scale or gate: " + told + " join the image as tokens, and come in where attention looks at them.");
    else if (data.enters === "cross") host.append("In ", word("cross_attention", title), " blocks there is no shift, scale or gate: image tokens look at those of time and label in a second attention.");
    else host.append("In " + title + " blocks the condition enters by a way of their own, which this panel cannot draw.");
  }
  function follow() {
    if (!built) return;
    find("block").value = lab.block;
    find("head").value = lab.head;
    find("half").value = lab.half;
  }
  function search() {
    const text = find("search").value.trim(), hit = data.classes.find(([label, name]) => name.toLowerCase() === text.toLowerCase() || String(label) === text);
    find("search-told").textContent = text && !hit ? "No class has this name: choose one of the list." : "";
    if (!text || hit) choosing(hit ? hit[0] : null);
  }
  function choosing(label) {
    beside = label;
    refresh();
  }
  find("block").addEventListener("change", () => lab.set({ block: Number(find("block").value) }));
  find("head").addEventListener("change", () => lab.set({ head: find("head").value === "mean" ? "mean" : Number(find("head").value) }));
  find("half").addEventListener("change", () => lab.set({ half: find("half").value }));
  find("other").addEventListener("change", () => choosing(find("other").value === "" ? null : Number(find("other").value)));
  find("search").addEventListener("change", search);
  find("token").addEventListener("change", refresh);
  for (const name of ["scale", "over"]) find(name).addEventListener("change", drawTokens);
  for (const button of all("tab")) button.addEventListener("click", () => open(button.dataset.tab));

  const off = lab.on((changed) => {
    if (changed.has("run")) {
      hovered = found = null;
      return build();
    }
    if (!built) return;
    follow();
    const tokens = TOKEN_VIEWS.includes(view), has = (...names) => names.some((name) => changed.has(name));
    if (tokens && has("step", "sample", "frames", "patch")) drawPicture(), marks(), cell();
    if (has("sample", "half") || (has("step") && ["norms", "likeness"].includes(view)) || (has("patch") && view === "likeness") || (has("head") && view === "shares")) refresh();
    if (tokens && has("block", "step") && found) has("step") && view !== "colours" ? null : drawTokens();
    if (has("block", "step")) {
      for (const heat of heats) heat.place();
      if (!tokens) read();
    }
  });
  const sight = lab.near(element, () => refresh());
  build();
  const update = (next) => {
    data = next;
    if (!ready() || data.run !== built) build();
  };
  return { update, destroy: () => (off(), sight.stop()) };
}
