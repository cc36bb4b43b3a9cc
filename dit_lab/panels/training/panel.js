// A small DiT in training: states come one after the other (`Watching.state`) and are kept by run, look by look.
const FIELDS = { block: "conditioning", depth: "blocks", patch_size: "patch", lr: "learning rate", steps: "steps", seed: "seed" };
const SVG = "http://www.w3.org/2000/svg", PERIOD = 160, MOST = 6; // ms a look of playing; runs that are kept in view
const HTML = `
  <section class="lab-card lab-training" aria-label="Training">
    <div class="lab-title"><h2>Train, watched</h2><p data-about>A small diffusion transformer learns 1,498 handwritten digits of 8 × 8 pixels, from nothing, while you look.</p></div>
    <form class="lab-training-form" data-form novalidate>
      <label>Conditioning <select data-name="block"></select><small>how time and class <abbr data-term="adaln">get in</abbr></small></label>
      <label><span><abbr data-term="block">Blocks</abbr></span> <input data-name="depth" type="number" step="1" /><small data-bound="depth"></small></label>
      <label><span><abbr data-term="patch">Patch</abbr></span> <select data-name="patch_size"></select><small>pixels along a <abbr data-term="token">token</abbr>'s side</small></label>
      <label><span><abbr data-term="learning_rate">Learning rate</abbr></span> <input data-name="lr" type="number" step="any" /><small data-bound="lr"></small></label>
      <label>Steps <input data-name="steps" type="number" step="1" /><small data-bound="steps"></small></label>
      <label>Seed <input data-name="seed" type="number" step="1" /><small>weights, order and noise</small></label>
      <p data-cost role="status"></p>
    </form>
    <div class="lab-training-does" data-does>
      <button type="button" class="lab-main" data-start>Start</button>
      <button type="button" data-stop disabled>Stop</button>
      <div class="lab-training-keep"><label>Keep as <input data-keep-name maxlength="40" spellcheck="false" autocomplete="off" /></label><button type="button" data-keep disabled>Keep</button></div>
    </div>
    <progress data-progress max="1" value="0" aria-label="Steps done" hidden></progress>
    <p class="lab-told" role="status" data-told></p>
    <p class="lab-told lab-wrong" role="alert" data-wrong hidden></p>
    <div data-seen hidden>
      <div class="lab-training-choose" data-beside-row hidden><label>Beside the newest run <select data-beside></select></label></div>
      <ul class="lab-training-runs" data-runs></ul>
      <p data-differs></p>
      <div class="lab-training-views">
        <figure class="lab-training-wide">
          <h3>Samples, always from the same noise</h3>
          <div class="lab-training-time"><button type="button" data-play>Play</button><input type="range" min="0" max="0" value="0" data-range aria-label="Training time" /><output data-when></output></div>
          <div data-rows></div>
          <figcaption>One sample a class, drawn with the <abbr data-term="ema">averaged weights</abbr> as they were then, with <abbr data-term="guidance">guidance</abbr> 2. The noise never changes: what changes in the pictures was learned. Under each, the class that was asked for<span data-read-told>, and in another colour, after an arrow, what the nearest training picture makes of it where that is another</span>.</figcaption>
        </figure>
        <figure>
          <h3><abbr data-term="loss">Loss</abbr></h3>
          <svg class="lab-training-chart" data-loss role="img"></svg>
          <figcaption>Mean squared error of a batch by step, on a logarithmic axis; thin: single steps, thick: smoothed over 20. It falls fast, then hardly at all, while the samples still get better: most of it is noise that nobody can foretell.</figcaption>
        </figure>
        <figure>
          <h3 data-gauge-title>Gates</h3>
          <div class="lab-training-choose"><label>Show <select data-gauge></select></label></div>
          <svg class="lab-training-chart" data-gates role="img"></svg>
          <figcaption><span data-gauge-told></span> One curve a block, its number at the right end.</figcaption>
        </figure>
        <figure class="lab-training-wide">
          <h3>Where one head looks</h3>
          <div class="lab-training-choose"><label>Block <select data-block></select></label><label><span><abbr data-term="head">Head</abbr></span> <select data-head></select></label></div>
          <div class="lab-training-maps" data-maps></div>
          <figcaption><abbr data-term="attention">Attention</abbr> of the outlined patch, on a picture that is the same in all runs: a digit of which noise has left half. Brighter: the patch takes more from there; each map has its own scale, from 0 to its largest share.</figcaption>
        </figure>
      </div>
    </div>
  </section>`;

export function mount({ element, data, send, lab }) {
  element.innerHTML = HTML;
  const find = (name) => element.querySelector("[data-" + name + "]");
  const field = Object.fromEntries([...element.querySelectorAll("[data-name]")].map((node) => [node.dataset.name, node]));
  const range = find("range"), runs = new Map();
  let beside = null, chosen = null, timer = null, waiting = "", asking = 0, pricing = null, gaugeChosen = false, came = 0;

  // The runs in view: the newest, and one beside it; numbered by when they came.
  const newest = () => [...runs.values()].at(-1);
  const shown = () => [runs.get(beside), newest()].filter((run, i, all) => run && all.indexOf(run) === i);
  const times = () => [...new Set(shown().flatMap((run) => [...run.looks.values()].map((look) => look.step)))].sort((a, b) => a - b);
  const now = () => (chosen === null ? times().at(-1) ?? 0 : chosen);
  const lookAt = (run) => [...run.looks.values()].filter((look) => look.step <= now() && look.image).sort((a, b) => a.step - b.step).at(-1);
  const plain = (value) => Number(value.toPrecision(3)).toString();
  const seconds = (s) => (s < 100 ? (s < 9.95 ? s.toFixed(1) : s.toFixed(0)) + " s" : (s / 60).toFixed(1) + " min");
  const say = (text) => (find("told").textContent = text);
  const wrong = (text) => ((find("wrong").textContent = text), (find("wrong").hidden = !text));

  // Charts.
  const put = (parent, tag, attributes, text) => {
    const node = parent.appendChild(document.createElementNS(SVG, tag));
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const ticks = (low, high, log) => {
    if (!log) {
      const unit = 10 ** Math.floor(Math.log10((high - low) / 3 || 1)), step = [1, 2, 5, 10].map((n) => n * unit).find((n) => (high - low) / n <= 4);
      return Array.from({ length: Math.floor((high - low) / step + 1e-9) + 1 }, (_, i) => low + i * step);
    }
    const all = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const n of [1, 1.5, 2, 3, 5, 7]) all.push(n * 10 ** e);
    return all.filter((value) => value >= low && value <= high);
  };
  // `lines`: [{ run, x, y, kind, name }], drawn in the box; `unit` names the vertical axis.
  const chart = (svg, lines, { log, unit, most }) => {
    svg.replaceChildren();
    const width = svg.clientWidth || 330, height = svg.clientHeight || 230, left = 46, right = width - 26, top = 20, bottom = height - 34;
    const values = lines.flatMap((line) => line.y).filter((v) => Number.isFinite(v) && (!log || v > 0));
    const high = Math.max(...values, log ? 1e-9 : 1e-6) * 1.05, low = log ? Math.min(...values, high / 2) / 1.05 : 0;
    const of = log ? Math.log : (v) => v;
    const px = (x) => left + ((right - left) * x) / Math.max(1, most), py = (y) => bottom - ((bottom - top) * (of(Math.max(y, log ? low : 0)) - of(low))) / (of(high) - of(low) || 1);
    for (const value of ticks(low, high, log)) {
      put(svg, "line", { x1: left, x2: right, y1: py(value), y2: py(value), class: "lab-training-axis" });
      put(svg, "text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, plain(value));
    }
    for (const value of ticks(0, most, false)) put(svg, "text", { x: px(value), y: bottom + 16, "text-anchor": "middle" }, plain(value));
    put(svg, "text", { x: left - 40, y: 10 }, unit);
    put(svg, "text", { x: right, y: height - 2, "text-anchor": "end" }, "training step");
    for (const { run, x, y, kind } of lines) {
      const path = x.map((step, i) => [step, y[i]]).filter(([, v]) => Number.isFinite(v)).map(([step, v]) => px(step).toFixed(1) + " " + py(v).toFixed(1));
      if (path.length) put(svg, "path", { d: "M" + path.join("L"), class: "lab-training-" + run + " lab-training-" + kind });
    }
    // Names at the right ends, pushed apart.
    let last = Infinity;
    for (const line of lines.filter((each) => each.name !== undefined && each.y.length).sort((a, b) => b.y.at(-1) < a.y.at(-1) ? 1 : -1)) {
      last = Math.min(py(line.y.at(-1)) + 4, last - 11);
      put(svg, "text", { x: px(line.x.at(-1)) + 5, y: last, "data-run": line.run }, line.name);
    }
    put(svg, "line", { x1: px(now()), x2: px(now()), y1: top, y2: bottom, class: "lab-training-now" });
  };
  const drawLoss = () => {
    const all = shown(), most = Math.max(...all.map((run) => run.steps));
    const lines = all.flatMap(({ colour, loss }) => [
      { run: colour, x: loss.step, y: loss.raw, kind: "raw" }, { run: colour, x: loss.step, y: loss.smooth, kind: "line" },
    ]);
    chart(find("loss"), lines, { log: true, unit: "mean squared error", most });
    const told = all.map((run) => run.loss.step.length ? `run ${run.number}: ${plain(run.loss.smooth[0])} at first, ${plain(run.loss.smooth.at(-1))} after step ${run.loss.step.at(-1)}` : "").filter(Boolean);
    find("loss").setAttribute("aria-label", "Smoothed loss, " + told.join("; "));
  };
  const drawGauge = () => {
    const all = shown(), key = find("gauge").value, most = Math.max(...all.map((run) => run.steps));
    const one = (run) => run.gauges.find((gauge) => gauge.key === key);
    const lines = all.filter(one).flatMap((run) => run.blocks.map((_, block) => (
      { run: run.colour, x: run.looked, y: one(run).values.map((row) => row[block]), kind: "line", name: String(block) })));
    chart(find("gates"), lines, { log: false, unit: key === "gate" ? "rms of the gates" : "added / came in", most });
    const known = all.map(one).find(Boolean), without = all.filter((run) => !one(run));
    find("gauge-title").textContent = known?.title ?? "";
    find("gauge-told").textContent = (known ? known.told[0].toUpperCase() + known.told.slice(1) + "." : "") + (without.length ? " Run " + without.map((run) => run.number).join(", ") + " has no gates; see what its blocks add." : "");
    find("gates").setAttribute("aria-label", (known?.title ?? "") + " by block; " + all.filter(one).map((run) => `run ${run.number} after step ${run.looked.at(-1)}: ${(one(run).values.at(-1) || []).map(plain).join(", ")}`).join("; "));
  };

  // Samples and maps at the scrubbed time.
  const drawRows = () => {
    find("read-told").hidden = !shown().some((run) => lookAt(run)?.read);
    for (const run of shown()) {
      const look = lookAt(run), row = run.row, canvas = row.querySelector("canvas");
      if (!look) continue;
      const { width: w, height: h, columns } = look.samples, count = run.fixed.names.length;
      Object.assign(canvas, { width: count * (w + 1) - 1, height: h });
      for (let i = 0; i < count; i++) canvas.getContext("2d").drawImage(look.image, (i % columns) * w, Math.floor(i / columns) * h, w, h, i * (w + 1), 0, w, h);
      const right = look.read?.filter((label, i) => label === i).length;
      const told = `run ${run.number} after step ${look.step}` + (look.read ? `: ${right} of ${count} read as asked` : "");
      row.querySelector("b").textContent = told[0].toUpperCase() + told.slice(1);
      canvas.setAttribute("aria-label", "Samples of " + told);
      row.querySelector(".lab-training-read").replaceChildren(...run.fixed.names.map((name, i) => {
        const cell = lab.make("span", "", name);
        if (look.read && look.read[i] !== i) cell.append(lab.make("i", "", "→" + (run.fixed.names[look.read[i]] ?? look.read[i])));
        return cell;
      }));
    }
  };
  const drawMaps = () => {
    const block = Number(find("block").value) || 0, head = find("head").value, found = [];
    for (const run of shown()) {
      const look = lookAt(run), packed = look?.maps[Math.min(block, run.blocks.length - 1)];
      if (!packed) continue;
      const { shape: [heads, keys], values } = lab.unpack(packed), at = Math.min(block, run.blocks.length - 1);
      const pick = Number(head), row = Array.from({ length: keys }, (_, j) => head === "mean" ? Array.from({ length: heads }, (_, i) => values[i * keys + j]).reduce((a, b) => a + b) / heads : values[Math.min(pick, heads - 1) * keys + j]);
      found.push({ run, look, row, grid: run.fixed.grids[at], query: run.fixed.queries[at], at });
    }
    find("maps").replaceChildren(...found.flatMap((each, i) => [...(i ? [] : [picture(each)]), drawnMap(each)]));
  };
  const SIDE = 160;
  const outline = (context, [rows, columns], query) => {
    const h = SIDE / rows, w = SIDE / columns, x = (query % columns) * w, y = Math.floor(query / columns) * h;
    context.lineWidth = 6; context.strokeStyle = "#000"; context.strokeRect(x + 3, y + 3, w - 6, h - 6);
    context.lineWidth = 3; context.strokeStyle = "#22d3ee"; context.strokeRect(x + 3, y + 3, w - 6, h - 6);
  };
  const framed = (label, title, text, draw) => {
    const figure = lab.make("figure"), canvas = figure.appendChild(lab.make("canvas")), caption = figure.appendChild(lab.make("figcaption"));
    Object.assign(canvas, { width: SIDE, height: SIDE });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    caption.append(lab.make("b", "", title), document.createTextNode(text));
    draw(canvas.getContext("2d"));
    return figure;
  };
  const picture = ({ run, grid, query }) => framed("The noised " + run.fixed.focus, "What it is given", run.fixed.focus ? `a ${run.fixed.focus}, half noise` : "a picture, half noise", (context) => {
    context.imageSmoothingEnabled = false;
    if (run.picture) context.drawImage(run.picture, 0, 0, SIDE, SIDE);
    outline(context, grid, query);
  });
  const drawnMap = ({ run, look, row, grid, query, at }) => {
    const count = grid[0] * grid[1], image = row.slice(0, count), most = Math.max(...image), top = image.indexOf(most), rest = row.slice(count).reduce((a, b) => a + b, 0);
    const text = `${run.blocks[at]}, after step ${look.step}: most at ${lab.place(top, grid)} (${lab.percent(image[top])})` + (row.length > count ? `; ${lab.percent(rest)} on time and class` : "");
    const figure = framed(`Run ${run.number}, ${text}`, "Run " + run.number, text, (context) => {
      image.forEach((value, token) => {
        const h = SIDE / grid[0], w = SIDE / grid[1];
        context.fillStyle = "rgb(" + lab.colour("inferno", value / most) + ")";
        context.fillRect((token % grid[1]) * w, Math.floor(token / grid[1]) * h, w + 1, h + 1);
      });
      outline(context, grid, query);
    });
    figure.querySelector("b").dataset.run = run.colour;
    const bar = lab.make("div", "lab-bar"), colours = lab.make("i");
    colours.style.background = lab.gradient("inferno");
    bar.append(lab.make("span", "", "0"), colours, lab.make("span", "", lab.percent(most)));
    figure.querySelector("canvas").after(bar);
    return figure;
  };

  // Who is in view, and what differs.
  const line = (run) => {
    const item = lab.make("li"), svg = put(item, "svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
    put(svg, "path", { d: "M0 5H30", class: "lab-training-" + run.colour + " lab-training-line" });
    const text = item.appendChild(lab.make("span")), b = text.appendChild(lab.make("b", "", "Run " + run.number));
    b.dataset.run = run.colour;
    const how = { running: `step ${run.step} of ${run.steps}`, done: `done, ${run.steps} steps in ${seconds(run.seconds)}`, stopped: `stopped after step ${run.step}`, failed: `failed after step ${run.step}` }[run.state];
    text.append(document.createTextNode(" " + run.name), lab.make("small", "", how + (run.loss.smooth.length ? `; loss ${plain(run.loss.smooth.at(-1))}` : "")));
    return item;
  };
  const drawRuns = () => {
    const all = shown();
    all.forEach((run, i) => (run.colour = all.length > 1 ? i : 0));
    find("seen").hidden = !all.length;
    find("beside-row").hidden = runs.size < 2;
    find("runs").replaceChildren(...all.map(line));
    const [a, b] = all, names = b ? Object.keys(b.settings).filter((name) => a.settings[name] !== b.settings[name]) : [];
    find("differs").textContent = b ? (names.length ? "What differs: " + names.map((name) => `${name} ${a.settings[name]} and ${b.settings[name]}`).join("; ") + "." : "Nothing differs between the two.") : "";
    if (all.some((run) => run.row.parentElement !== find("rows")) || find("rows").children.length !== all.length) find("rows").replaceChildren(...all.map((run) => run.row));
    for (const run of all) run.row.querySelector("b").dataset.run = run.colour;
  };
  const choosers = () => {
    const all = shown(), depth = Math.max(...all.map((run) => run.blocks.length)), heads = Math.max(...all.map((run) => run.fixed.heads));
    lab.fill(find("block"), Array.from({ length: depth }, (_, i) => [i, "block " + i]));
    lab.fill(find("head"), [["mean", "mean of all"], ...Array.from({ length: heads }, (_, i) => [i, "head " + i])]);
    const gauges = new Map(all.flatMap((run) => run.gauges.map((gauge) => [gauge.key, gauge.title])));
    lab.fill(find("gauge"), [...gauges]);
    // Where a run has no gates, what both have, unless somebody chose.
    if (!gaugeChosen) find("gauge").value = [...gauges.keys()].find((key) => all.every((run) => run.gauges.some((gauge) => gauge.key === key))) ?? find("gauge").value;
    lab.fill(find("beside"), [["", "nothing"], ...[...runs.values()].slice(0, -1).map((run) => [run.run, `Run ${run.number}: ${run.name}`])]);
    find("beside").value = beside ?? "";
  };
  const draw = () => {
    if (!runs.size) return;
    const steps = times(), at = chosen === null ? steps.length - 1 : Math.max(0, steps.findLastIndex((step) => step <= chosen));
    range.max = Math.max(0, steps.length - 1);
    range.value = at;
    find("when").textContent = "after step " + (steps[at] ?? 0);
    range.setAttribute("aria-valuetext", find("when").textContent);
    drawRuns(), drawRows(), drawLoss(), drawGauge(), drawMaps();
  };
  const status = () => {
    const run = newest(), going = run?.state === "running" || waiting;
    find("stop").disabled = !going;
    find("start").textContent = going ? "Stop this, start anew" : "Start";
    find("keep").disabled = !run || !run.step;
    find("progress").hidden = !run || run.state !== "running" || Boolean(waiting);
    if (waiting) return say(waiting);
    if (!run) return say(lab.live ? "Nothing was trained yet: choose, and press Start." : "No training was recorded in this page.");
    find("progress").value = run.step / run.steps;
    const gone = seconds(run.seconds);
    say({ running: `Run ${run.number}: step ${run.step} of ${run.steps}, ${gone} gone` + (run.left === null ? "." : `, about ${seconds(run.left)} left.`), done: `Run ${run.number} is done: ${run.steps} steps in ${gone}.`, stopped: `Run ${run.number} was stopped after step ${run.step}; what it learnt stays.`, failed: `Run ${run.number}: ${run.told || "it failed."}` }[run.state] ?? "");
  };

  // States.
  const decoded = async (uri) => {
    const image = Object.assign(new Image(), { src: uri });
    await image.decode();
    return image;
  };
  const take = async (state) => {
    const known = runs.get(state.run);
    const run = known || { number: ++came, looks: new Map(), colour: 0, row: lab.make("div", "lab-training-row") };
    if (!known) {
      const before = newest();
      run.row.append(lab.make("b"), lab.make("canvas"), lab.make("div", "lab-training-read"));
      run.row.querySelector("canvas").setAttribute("role", "img");
      if (before) beside = before.run;
      chosen = null;
      runs.set(state.run, run);
      for (const id of [...runs.keys()].slice(0, -MOST)) if (id !== beside) runs.delete(id);
    }
    const { looks = [], look, ...rest } = state;
    Object.assign(run, rest, { blocks: state.fixed.blocks });
    if (!known) decoded(state.fixed.picture.uri).then((image) => ((run.picture = image), draw()));
    const fresh = [...looks, ...(look ? [look] : [])].filter((each) => !run.looks.has(each.number));
    for (const each of fresh) run.looks.set(each.number, { ...each });
    await Promise.all(fresh.map(async (each) => (run.looks.get(each.number).image = await decoded(each.samples.uri))));
    choosers();
  };
  const receive = async (news) => {
    if (!news) return;
    if (news.form) fillForm(news.form);
    if (news.about) find("about").textContent = news.about;
    if (news.off) off(news.off);
    if (news.state) waiting = news.state === "queued" ? news.told || "Waiting to begin…" : "";
    if (news.state === "failed" && !news.run) wrong(news.told || "The training failed.");
    const states = [...(news.states || []), ...(news.run && news.fixed ? [news] : [])];
    if (states.length) await Promise.all(states.map(take));
    status(), draw();
  };

  // The form.
  const off = (text) => {
    for (const name of ["form", "does"]) find(name).hidden = true;
    say(text);
  };
  let bounds = null;
  const fillForm = (form) => {
    if (bounds) return;
    bounds = form.bounds;
    lab.fill(field.block, form.blocks.map(({ name, title }) => [name, title]));
    lab.fill(field.patch_size, form.patches.map((side) => [side, side + " × " + side]));
    for (const [name, value] of Object.entries(form.defaults)) field[name].value = value;
    for (const [name, [low, high]] of Object.entries(bounds)) {
      Object.assign(field[name], { min: low, max: high });
      if (find(`bound="${name}"`)) find(`bound="${name}"`).textContent = `${low} to ${high.toLocaleString("en")}`;
    }
    price();
  };
  const settings = () => {
    const read = { block: field.block.value, patch_size: Number(field.patch_size.value) };
    for (const [name, [low, high]] of Object.entries(bounds)) {
      const value = field[name].value.trim() === "" ? NaN : Number(field[name].value);
      if (!(value >= low && value <= high) || (name !== "lr" && !Number.isInteger(value))) throw new Error(`The ${FIELDS[name]} must be ${name === "lr" ? "a number" : "a whole number"} from ${low} to ${high}.`);
      read[name] = value;
    }
    return read;
  };
  const price = () => {
    clearTimeout(pricing);
    if (!lab.live) return;
    pricing = setTimeout(async () => {
      const mine = ++asking;
      let asked;
      try {
        asked = settings();
      } catch (error) {
        return (find("cost").textContent = error.message);
      }
      find("cost").textContent = "Measuring what a step takes…";
      try {
        const told = await send({ cost: asked });
        if (mine === asking) find("cost").textContent = `About ${seconds(told.seconds)}: ${asked.steps} steps of ${(1000 * told.perStep).toFixed(0)} ms, 64 digits each, and the looks between. ${(told.parameters / 1000).toFixed(0)} thousand parameters, ${(told.macs / 1e6).toFixed(1)} million multiply-accumulates a picture.`;
      } catch (error) {
        if (mine === asking) find("cost").textContent = "What it takes is known after its first steps. " + (error?.message ?? "");
      }
    }, 300);
  };
  const does = async (request, before, after) => {
    wrong("");
    if (before) (waiting = before), status();
    try {
      const answer = await send(request);
      if (after) after(answer);
    } catch (error) {
      waiting = "";
      wrong(error.message);
    }
    status();
  };
  const start = () => {
    let asked;
    try {
      asked = settings();
    } catch (error) {
      return wrong(error.message);
    }
    does({ start: asked }, "Waiting to begin…");
  };

  const pause = () => ((timer = clearInterval(timer)), (find("play").textContent = "Play"));
  const play = () => {
    if (timer) return pause();
    let at = Number(range.value) >= Number(range.max) ? 0 : Number(range.value);
    find("play").textContent = "Pause";
    timer = setInterval(() => {
      const steps = times();
      chosen = at >= steps.length - 1 ? null : steps[at];
      draw();
      if (at++ >= steps.length - 1) pause();
    }, PERIOD);
  };
  find("form").addEventListener("submit", (event) => (event.preventDefault(), start()));
  find("form").addEventListener("keydown", (event) => event.key === "Enter" && event.target.tagName !== "SELECT" && (event.preventDefault(), start()));
  find("form").addEventListener("input", () => (wrong(""), price()));
  find("start").addEventListener("click", start);
  find("stop").addEventListener("click", () => does({ stop: true }, "Stopping after this step…", () => (waiting = "")));
  const keep = () => does({ keep: find("keep-name").value.trim(), run: newest()?.run }, "", (answer) => (find("kept")?.remove(), keptAs(answer?.name ?? find("keep-name").value)));
  const keptAs = (name) => {
    const said = lab.make("p", "lab-note", `Run ${newest().number} is kept as “${name}”, as it was after step ${newest().step}: choose it among the checkpoints to open it in all panels.`);
    said.dataset.kept = "";
    find("wrong").after(said);
  };
  find("keep").addEventListener("click", keep);
  find("keep-name").addEventListener("keydown", (event) => event.key === "Enter" && !find("keep").disabled && keep());
  find("play").addEventListener("click", play);
  range.addEventListener("input", () => {
    pause();
    chosen = Number(range.value) >= Number(range.max) ? null : times()[Number(range.value)];
    draw();
  });
  find("beside").addEventListener("change", (event) => ((beside = event.target.value || null), choosers(), draw()));
  find("gauge").addEventListener("change", () => ((gaugeChosen = true), drawGauge()));
  for (const name of ["block", "head"]) find(name).addEventListener("change", drawMaps);
  const resized = new ResizeObserver(() => runs.size && (drawLoss(), drawGauge()));
  resized.observe(element);
  if (!lab.live) for (const name of ["form", "does"]) find(name).hidden = true;
  status();
  receive(data);
  return { update: receive, destroy: () => (pause(), clearTimeout(pricing), resized.disconnect()) };
}
