// Settings that differ in one thing, from the same noise, under one scrubber.
const SVG = "http://www.w3.org/2000/svg", SLOTS = ["A", "B", "C", "D"];
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]; // told apart by colour-blind eyes; those of inside.plots
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const H = 230, LEFT = 50, RIGHT = 14, TOP = 10, BOTTOM = 40; // of the charts

export function mount({ element, data, send, lab }) {
  element.innerHTML = `
    <section class="lab-card lab-compare" aria-label="Compare">
      <div class="lab-title"><h2>Compare</h2><p>Settings that differ in one thing, sampled from the same noise, all under the one time bar.</p></div>
      <p class="lab-note" data-why hidden></p>
      <form data-form>
        <p class="lab-compare-one"><button type="button" data-four>The four blocks of the paper</button>
          <span><abbr data-term="in_context">in-context</abbr>, <abbr data-term="cross_attention">cross-attention</abbr>,
          <abbr data-term="adaln">adaLN</abbr> and <abbr data-term="adaln_zero">adaLN-Zero</abbr>, trained alike on MNIST</span></p>
        <div class="lab-choosers">
          <label>What differs <select data-factor></select></label>
          <span class="lab-compare-slots" data-slots></span>
          <div class="lab-compare-go"><button class="lab-main" data-go>Compare</button><small data-cost></small></div>
        </div>
      </form>
      <p class="lab-told" role="status" data-told></p>
      <progress data-told-progress hidden aria-label="Steps done"></progress>
      <div data-found hidden>
        <p class="lab-compare-said" data-said></p>
        <p class="lab-note" data-other hidden></p>
        <div class="lab-compare-runs" data-runs></div>
        <div class="lab-compare-groups">
          <div><h3>What differs</h3><div class="lab-compare-wide" tabindex="0" role="group" aria-label="Table of what differs"><table data-table></table></div><p data-same></p></div>
          <div><h3>How far apart they are</h3><p data-unit></p><div class="lab-compare-pair" data-distances></div></div>
        </div>
      </div>
      <div data-curves hidden>
        <h3>The four blocks as they trained</h3><p data-curves-told></p>
        <ul class="lab-compare-legend" data-legend></ul>
        <div class="lab-compare-groups" data-charts></div>
      </div>
      <div class="lab-compare-near">
        <h3>Is it a training picture?</h3>
        <p class="lab-compare-one"><button type="button" data-near>Find the nearest training pictures</button> <span data-near-why></span></p>
        <p class="lab-told" role="status" data-near-told></p>
        <progress data-near-told-progress hidden aria-label="Training pictures read"></progress>
        <div data-near-found hidden><p class="lab-compare-said" data-near-said></p><ol data-neighbours></ol>
          <p data-near-unit></p><svg height="${H}" role="img" data-histogram></svg></div>
      </div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]");
  let built = null, found = null, images = null, near = null;
  const questions = lab.questions(send, () => ready() && cost());
  const ready = () => lab.run && data && data.run === lab.run.id;
  const round = (value) => (value === 0 ? "0" : value >= 1e-4 && value < 1000 ? String(Number(value.toPrecision(3))) : value.toExponential(1));

  // The form ---------------------------------------------------------------------------------------------------------
  function build() {
    find("why").hidden = ready();
    find("why").textContent = lab.run ? "…" : "Sample a picture first, then compare it with others.";
    find("form").hidden = find("near").parentElement.parentElement.hidden = !ready();
    find("curves").hidden = true;
    built = ready() ? data.run : null;
    if (!built) return;
    lab.fill(find("factor"), Object.entries(data.factors).map(([key, { name }]) => [key, name]));
    find("four").parentElement.hidden = !data.factors.block;
    find("near").disabled = !data.pictures;
    find("near-why").textContent = data.pictures
      ? "of the final picture in focus, beside how near real unseen pictures come to theirs"
      : "No training pictures are open here: start the app with --data and the folder of those the model was trained on.";
    slots();
  }
  function slots(values) {
    const factor = find("factor").value, how = data.factors[factor];
    values ||= how.first;
    find("slots").replaceChildren(...SLOTS.map((slot, i) => {
      const label = lab.make("label", "", slot), field = label.appendChild(lab.make(how.choices ? "select" : "input"));
      if (how.choices) lab.fill(field, [...(i > 1 ? [["", "none"]] : []), ...how.choices]);
      else Object.assign(field, { type: "number", min: how.bounds[0], max: how.bounds[1], step: how.bounds[2], required: i < 2, placeholder: "none" });
      field.value = values[i] ?? "";
      return label;
    }));
    cost();
  }
  const values = () => [...find("slots").querySelectorAll("select, input")].map((each) => each.value).filter((each) => each !== "")
    .map((each) => (data.factors[find("factor").value].choices ? each : Number(each)));
  function cost() {
    const factor = find("factor").value, chosen = values(), own = lab.run.t.length;
    const steps = factor === "steps" ? chosen.reduce((sum, each) => sum + each, 0) : own * chosen.length;
    const batch = lab.run.labels.length;
    find("cost").textContent = chosen.length + " samplings, " + steps + " steps in all" + (batch > 1 ? ", " + batch + " pictures each" : "");
    for (const button of [find("go"), find("four")]) button.disabled = questions.busy;
    find("near").disabled = questions.busy || !data.pictures;
  }
  function say(where, text, wrong = false) {
    find(where).textContent = text;
    find(where).classList.toggle("lab-wrong", wrong);
  }
  const ask = (request, show, done, where = "told") =>
    questions.ask(request, { bar: find(where + "-progress"), tell: (...said) => say(where, ...said), show: async (answer) => (await show(answer), done) });
  const compare = () => {
    const factor = find("factor").value;
    ask({ factor, values: values(), sample: lab.sample }, show, "Done: " + data.factors[factor].name + " compared.");
  };

  // What was found ---------------------------------------------------------------------------------------------------
  const decode = async (atlas) => {
    const image = Object.assign(new Image(), { src: atlas.uri });
    await image.decode();
    return { ...atlas, image };
  };
  async function show(answer) {
    const decoded = await Promise.all(answer.runs.map(async ({ shown }) => {
      const samples = {};
      for (const [sample, { steps, x0 }] of Object.entries(shown)) samples[sample] = { steps, x0: await decode(x0) };
      return samples;
    }));
    [found, images] = [{ ...answer, distances: lab.unpack(answer.distances) }, decoded];
    if (answer.request.factor === "block") trained();
    else find("curves").hidden = true;
    const classes = [...new Set(answer.labels)].filter(Boolean);
    find("said").textContent = (answer.same_noise ? "All start from the same noise" : "Each seed is a noise of its own") + (classes.length ? ", asked for " + classes.join(", ") : "") + "."
      + (answer.other_labels ? " The run's own class is none of theirs, so that these were asked for another." : "")
      + (answer.other_noise ? " The open run's noise was given and is not kept: this is seed 0's." : "");
    find("unit").textContent = "Root mean square of the difference, over all values that the models denoise; 0 is the same picture.";
    find("same").textContent = answer.same ? "The same in all: " + answer.same + "." : "";
    const head = lab.make("thead"), body = lab.make("tbody"), top = head.appendChild(lab.make("tr"));
    top.append(lab.make("td"), ...answer.runs.map(({ name }, i) => Object.assign(lab.make("th", "", SLOTS[i]), { scope: "col", title: name })));
    const spent = ["seconds taken", ...answer.runs.map(({ seconds }) => (seconds === null ? "the open run" : round(seconds)))];
    for (const [name, ...cells] of [...answer.table, spent]) {
      const row = body.appendChild(lab.make("tr"));
      row.append(Object.assign(lab.make("th", "", name), { scope: "row" }), ...cells.map((cell) => lab.make("td", "", cell)));
    }
    find("table").replaceChildren(head, body);
    find("runs").style.setProperty("--runs", answer.runs.length);
    find("runs").replaceChildren(...answer.runs.map(({ name }, i) => {
      const column = lab.make("div"), heading = column.appendChild(lab.make("h3", "", SLOTS[i] + " " + name));
      heading.title = name;
      for (const kind of ["way", "end"]) {
        const figure = column.appendChild(lab.make("figure")), canvas = figure.appendChild(lab.make("canvas"));
        Object.assign(figure.dataset, { kind, run: i });
        canvas.setAttribute("role", "img");
        figure.append(lab.make("figcaption", "", kind === "end" ? "final picture" : ""));
      }
      return column;
    }));
    draw();
  }
  function draw() {
    find("found").hidden = !found;
    if (!found) return;
    const t = lab.run.t[lab.step], here = images[0][lab.sample];
    find("runs").hidden = !here;
    find("other").hidden = Boolean(here);
    find("other").textContent = here ? "" : "The pictures shown were of another one of the batch: press Compare again to see this one's.";
    if (here) found.runs.forEach((run, i) => {
      const { steps, x0 } = images[i][lab.sample];
      const index = steps.reduce((best, step, at) => (Math.abs(run.t[step] - t) < Math.abs(run.t[steps[best]] - t) ? at : best), 0), step = steps[index];
      const when = "step " + (step + 1) + " of " + run.t.length + ", t = " + run.t[step];
      for (const [kind, at] of [["way", index], ["end", steps.length]]) {
        const figure = find("runs").querySelector("[data-kind=" + kind + "][data-run='" + i + "']"), canvas = figure.firstElementChild;
        frame(canvas, x0, at);
        figure.classList.toggle("lab-smooth", x0.width > 64);
        canvas.setAttribute("aria-label", run.name + ", " + (kind === "way" ? "predicted x0 at " + when : "final picture"));
        if (kind === "way") figure.lastElementChild.replaceChildren(lab.make("b", "", "x0"), " " + when);
      }
    });
    distances();
  }
  function frame(canvas, { image, width, height, columns }, index) {
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(image, (index % columns) * width, Math.floor(index / columns) * height, width, height, 0, 0, width, height);
  }
  function distances() {
    const { values, shape: [frames, count] } = found.distances, at = (frame, i, j) => values[(frame * count + i) * count + j];
    const slots = SLOTS.slice(0, count);
    find("distances").replaceChildren(...[["x0 at t = " + lab.run.t[lab.step], lab.step], ["final pictures", frames - 1]].map(([name, frame]) => {
      const table = lab.make("table"), top = lab.make("tr");
      top.append(lab.make("td"), ...slots.map((slot) => Object.assign(lab.make("th", "", slot), { scope: "col" })));
      table.append(lab.make("caption", "", name), top, ...slots.map((slot, i) => {
        const row = lab.make("tr");
        row.append(Object.assign(lab.make("th", "", slot), { scope: "row" }), ...slots.map((_, j) => lab.make("td", "", i === j ? "·" : round(at(frame, i, j)))));
        return row;
      }));
      return table;
    }));
  }

  // Charts -----------------------------------------------------------------------------------------------------------
  function add(plot, tag, values, text) {
    const node = plot.appendChild(document.createElementNS(SVG, tag));
    for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
  }
  function trained() {
    const { steps, seeds, blocks, judged, titles, real, batch } = data.curves, names = Object.keys(blocks);
    find("curves").hidden = false;
    find("curves-told").textContent = "From docs/results/blocks.md: " + seeds + " seeds each, in batches of " + batch + "; a line is their mean, the band from the least to the greatest. Between real training and test pictures the Fréchet distance is " + round(real) + ".";
    find("legend").replaceChildren(...names.map((name, i) => {
      const item = lab.make("li"), line = document.createElementNS(SVG, "svg"), last = blocks[name];
      Object.entries({ width: 30, height: 8, "aria-hidden": true }).forEach(([key, value]) => line.setAttribute(key, value));
      add(line, "line", { x1: 0, x2: 30, y1: 4, y2: 4, stroke: COLOURS[i], "stroke-width": 3, "stroke-dasharray": DASHES[i] });
      item.append(line, lab.make("b", "", titles[name]), ": " + last.parameters.toLocaleString("en") + " parameters, Fréchet " + last.frechet.at(-1)[1].toFixed(1) + ", loss " + last.test_mse.at(-1)[1].toFixed(4) + ", " + Math.round(100 * last.agreement.at(-1)[1]) + " % as asked");
      return item;
    }));
    find("charts").replaceChildren(...judged.map(([field, name, why]) => {
      const box = lab.make("div"), plot = document.createElementNS(SVG, "svg");
      box.append(lab.make("h4", "", name), lab.make("p", "", why), plot);
      Object.entries({ height: H, role: "img" }).forEach(([key, value]) => plot.setAttribute(key, value));
      plot.setAttribute("aria-label", name + " after " + steps.at(-1) + " steps: " + names.map((each) => titles[each] + " " + round(blocks[each][field].at(-1)[1])).join(", "));
      plot.dataset.field = field;
      return box;
    }));
    charts();
  }
  function charts() {
    const { steps, blocks } = data.curves, names = Object.keys(blocks);
    for (const plot of find("charts").querySelectorAll("svg")) {
      const field = plot.dataset.field, W = plot.clientWidth || 400, all = names.flatMap((name) => blocks[name][field].flat());
      const share = field === "agreement", log = (value) => (share ? value : Math.log10(value)), low = share ? 0 : log(Math.min(...all)), high = share ? 1 : log(Math.max(...all));
      const x = (step) => LEFT + ((W - LEFT - RIGHT) * Math.log2(step / steps[0])) / Math.log2(steps.at(-1) / steps[0]), y = (value) => H - BOTTOM - ((H - TOP - BOTTOM) * (log(value) - low)) / (high - low);
      plot.replaceChildren();
      const ticks = share ? [0, 0.25, 0.5, 0.75, 1] : [0.16, 0.18, 0.2, 0.24, 0.28, 100, 200, 300, 400, 600].filter((each) => log(each) >= low && log(each) <= high);
      for (const value of ticks) {
        add(plot, "line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), class: "lab-compare-grid" });
        add(plot, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, share ? 100 * value + " %" : value);
      }
      steps.forEach((step, i) => add(plot, "text", { x: x(step), y: H - 22, "text-anchor": i === steps.length - 1 ? "end" : "middle" }, step));
      add(plot, "text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, "training steps" + (share ? "" : " (both axes logarithmic)"));
      names.forEach((name, i) => {
        const points = blocks[name][field], line = (part) => points.map((each, at) => x(steps[at]) + "," + y(each[part]));
        add(plot, "polygon", { points: [...line(0), ...line(2).reverse()].join(" "), fill: COLOURS[i], opacity: 0.2 });
        add(plot, "polyline", { points: line(1).join(" "), fill: "none", stroke: COLOURS[i], "stroke-width": 2.5, "stroke-dasharray": DASHES[i] });
      });
    }
  }
  async function showNear(answer) {
    near = { ...answer, pictures: await decode(answer.pictures) };
    find("near-found").hidden = false;
    const share = near.share, of = near.test.length;
    find("near-said").textContent = "The nearest of " + near.searched.toLocaleString("en") + " training pictures is " + round(near.distances[0]) + " away; " + lab.percent(share) + " of " + of + " unseen real pictures are nearer to theirs. "
      + (share < 0.01 ? "That near real unseen pictures hardly come: it may be memorised." : share > 0.99 ? "It is farther from them than real pictures are: no copy, nor quite like them." : "Unseen pictures come as near: nothing says that it was learnt by heart.");
    find("near-unit").textContent = "Distances are root mean squares over pixels from −1 to 1. Below: how far unseen real pictures are from their nearest training picture; the line is this sample.";
    find("neighbours").replaceChildren(...["this sample", ...near.distances].map((far, i) => {
      const item = lab.make("li"), figure = item.appendChild(lab.make("figure")), canvas = figure.appendChild(lab.make("canvas"));
      frame(canvas, near.pictures, i);
      const words = i ? (near.labels[i - 1] ? near.labels[i - 1] + ", " : "") + round(far) : far;
      Object.entries({ role: "img", "aria-label": i ? "training picture, " + words : far }).forEach(([key, value]) => canvas.setAttribute(key, value));
      figure.append(lab.make("figcaption", "", words));
      return item;
    }));
    histogram();
  }
  function histogram() {
    const plot = find("histogram"), W = plot.clientWidth || 400, far = near.test, mine = near.distances[0], bins = 30;
    const most = 1.05 * Math.max(...far, mine), counts = Array(bins).fill(0);
    for (const each of far) counts[Math.min(bins - 1, Math.floor((each / most) * bins))]++;
    const high = Math.max(...counts), x = (value) => LEFT + ((W - LEFT - RIGHT) * value) / most, y = (value) => H - BOTTOM - ((H - TOP - BOTTOM) * value) / high;
    plot.replaceChildren();
    counts.forEach((count, i) => add(plot, "rect", { x: x((i * most) / bins) + 0.5, y: y(count), width: Math.max(1, (W - LEFT - RIGHT) / bins - 1), height: H - BOTTOM - y(count), class: "lab-compare-bin" }));
    add(plot, "line", { x1: x(mine), x2: x(mine), y1: TOP, y2: H - BOTTOM, class: "lab-compare-mine" });
    for (const value of [0, most / 2, most]) add(plot, "text", { x: x(value), y: H - 22, "text-anchor": value === most ? "end" : value ? "middle" : "start" }, round(value));
    add(plot, "text", { x: LEFT - 6, y: TOP + 10, "text-anchor": "end" }, high);
    add(plot, "text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, "distance to the nearest training picture");
    plot.setAttribute("aria-label", "Distances of unseen pictures to their nearest training picture, from " + round(Math.min(...far)) + " to " + round(Math.max(...far)) + "; this sample's is " + round(mine));
  }

  find("form").addEventListener("submit", (event) => (event.preventDefault(), questions.busy || compare()));
  find("form").addEventListener("input", ({ target }) => (target === find("factor") ? slots() : cost()));
  find("four").addEventListener("click", () => {
    find("factor").value = "block";
    slots();
    compare();
  });
  find("near").addEventListener("click", () => ask({ nearest: lab.sample }, showNear, "Done.", "near-told"));
  const off = lab.on((changed) => {
    if (changed.has("run")) {
      questions.drop();
      [found, images, near] = [null, null, null];
      for (const name of ["told-progress", "near-told-progress", "near-found"]) find(name).hidden = true;
      for (const name of ["told", "near-told"]) say(name, "");
      build();
      draw();
    } else if (changed.has("sample")) find("near-found").hidden = !near || near.sample !== lab.sample;
    if (found && (changed.has("step") || changed.has("sample"))) draw();
  });
  const wide = new ResizeObserver(() => {
    if (!find("curves").hidden) charts();
    if (near && !find("near-found").hidden) histogram();
  });
  wide.observe(element);
  build();
  const update = (next) => {
    data = next;
    if (!ready() || data.run !== built) build();
  };
  return { update, destroy: () => (off(), wide.disconnect()) };
}
