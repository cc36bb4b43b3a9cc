// One thing in the network changed, beside the same change at random other places.
const KINDS = [
  ["head", "A head, off or scaled", ["attention", "block", "head", "factor"]],
  ["branch", "A whole branch, off or scaled", ["block", "branch", "factor"]],
  ["part", "A gate, shift or scale", ["block", "part", "factor"]],
  ["cut", "Attention, cut", ["block", "anyhead", "way", "reach"]],
  ["temperature", "Attention, warmed or cooled", ["attention", "block", "anyhead", "warmth"]],
  ["label", "The class, swapped", ["label"]],
];
const WARMTH = [0.1, 0.25, 0.5, 2, 4, 10];
const SVG = "http://www.w3.org/2000/svg";
const H = 210, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 24; // of the curves

export function mount({ element, data, send, lab }) {
  const picture = (key) => `<figure data-picture="${key}"><canvas width="1" height="1" role="img"></canvas></figure>`;
  const heads = (group) => ["untouched", "edited", "control"].map((name) => `<b data-head="${group}-${name}">${name}</b>`).join("");
  const scale = (group) => `<div class="lab-whatif-scale"><i style="background: ${lab.gradient("signed")}"></i><span data-scale="${group}"></span><small data-mean="${group}"></small></div>`;
  element.innerHTML = `
    <section class="lab-card lab-whatif" aria-label="What if">
      <div class="lab-title"><h2>What if</h2><p>One thing in the network is changed and the same noise is walked again.
        Any change moves the picture: whether this place matters, its <abbr data-term="control">controls</abbr> say,
        the same kind and size of change at random other places.</p></div>
      <p class="lab-note" data-why hidden></p>
      <form data-form>
        <fieldset data-fields>
          <div class="lab-choosers">
            <label>Change <select data-kind></select></label>
            <label data-of="attention">Of <select data-attention></select></label>
            <label data-of="block">Block <select data-block></select></label>
            <label data-of="head"><abbr data-term="head">Head</abbr> <select data-head-number></select></label>
            <label data-of="anyhead"><abbr data-term="head">Head</abbr> <select data-anyhead></select></label>
            <label data-of="branch">Branch <select data-branch></select></label>
            <label data-of="part">Which <select data-part></select></label>
            <label data-of="factor">Times <span class="lab-whatif-slide"><input type="range" min="0" max="4" step="0.25" value="0" data-factor /><output data-factor-told></output></span></label>
            <label data-of="warmth">Temperature <select data-warmth></select></label>
            <label data-of="way">Of the clicked <abbr data-term="patch">patch</abbr>, cut <select data-way></select></label>
            <label data-of="reach">Patch <select data-reach></select></label>
            <label data-of="label">Class <select data-label></select></label>
          </div>
          <div class="lab-whatif-range">
            <span>While</span>
            <div class="lab-whatif-handles" role="group" aria-label="Steps with the change"><i data-bar></i>
              <input type="range" min="0" value="0" data-first aria-label="First step with the change" />
              <input type="range" min="0" value="0" data-last aria-label="Last step with the change" /></div>
            <output data-steps></output>
          </div>
          <div class="lab-choosers">
            <label>Measured in <select data-region></select></label>
            <label>Controls <input type="number" data-controls /></label>
            <div class="lab-whatif-go"><button class="lab-main" data-try>Try it</button><small data-cost></small></div>
          </div>
        </fieldset>
      </form>
      <p class="lab-told" role="status" data-told></p>
      <progress data-progress hidden aria-label="Samplings done"></progress>
      <div data-found hidden>
        <p class="lab-whatif-verdict" data-verdict></p>
        <p class="lab-note" data-other hidden></p>
        <div class="lab-whatif-groups" data-groups>
          <div class="lab-whatif-group" role="group" aria-label="On the way"><h3>Predicted <abbr data-term="x0">x<sub>0</sub></abbr> <span data-when></span></h3>
            ${heads("way")}${picture("0-x0")}${picture("1-x0")}${picture("2-x0")}
            <p>What the change has added to it (orange) and taken from it (blue)</p>${scale("way")}${picture("1-change")}${picture("2-change")}</div>
          <div class="lab-whatif-group" role="group" aria-label="At the end"><h3>Final picture</h3>
            ${heads("end")}${picture("0-end")}${picture("1-end")}${picture("2-end")}
            <p>What the change has added to it (orange) and taken from it (blue)</p>${scale("end")}${picture("1-endchange")}${picture("2-endchange")}</div>
        </div>
        <div class="lab-whatif-groups">
          <div><h3>How far each moved the picture</h3><p data-unit></p><ol class="lab-whatif-ranks" data-ranks></ol></div>
          <div><h3>How far x<sub>0</sub> is moved at each step</h3><p data-curve-told></p>
            <svg height="${H}" role="img" data-curve></svg><p data-here></p></div>
        </div>
      </div>
      <div data-tries hidden><h3>Tried on this run</h3><ul class="lab-whatif-tries" data-tried></ul></div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]");
  const figures = Object.fromEntries([...element.querySelectorAll("[data-picture]")].map((each) => [each.dataset.picture, each]));
  let built = null, found = null, images = null, control = 1, pace = 0, tries = [], wanted = null;
  const questions = lab.questions(send, () => ready() && !data.why && form());

  // The form ---------------------------------------------------------------------------------------------------------
  const ready = () => lab.run && data && data.run === lab.run.id;
  const number = (name) => Number(find(name).value);
  const fields = () => KINDS.find(([kind]) => kind === find("kind").value)?.[2] || [];
  const stepTold = (step) => step + 1 + " (t = " + lab.run.t[step] + ")";
  function build() {
    const blocked = !ready() || data.why;
    find("why").hidden = !blocked;
    find("why").textContent = !lab.run ? "Sample a picture first, then change what made it." : !ready() ? "…" : data.why;
    find("form").hidden = Boolean(blocked);
    tries = ready() ? [...data.tried] : [];
    listTries();
    built = blocked ? null : data.run;
    if (blocked) return;
    const last = lab.run.t.length - 1, labels = new Set(lab.run.labelNumbers);
    const there = { part: data.parts.length, label: data.labels.length > 1 };
    lab.fill(find("kind"), KINDS.filter(([kind]) => there[kind] ?? true).map(([kind, name]) => [kind, name]));
    lab.fill(find("attention"), data.attention);
    lab.fill(find("block"), lab.blockChoices());
    const each = Array.from({ length: lab.run.heads }, (_, head) => [head, "head " + head]);
    lab.fill(find("head-number"), each);
    lab.fill(find("anyhead"), [["", "all heads"], ...each]);
    lab.fill(find("branch"), data.branches);
    lab.fill(find("part"), data.parts);
    lab.fill(find("way"), data.ways);
    lab.fill(find("warmth"), WARMTH.map((each) => [each, "× " + each + (each > 1 ? ", flatter" : ", sharper")]));
    lab.fill(find("reach"), data.reaches.map((side) => [side, side === 1 ? "it alone" : side + " × " + side + " around it"]));
    lab.fill(find("label"), data.labels.filter(([label]) => labels.size > 1 || !labels.has(label)));
    lab.fill(find("region"), [["", "the whole picture"], ...data.reaches.map((side) => [side, side === 1 ? "the clicked patch" : side + " × " + side + " patches around it"])]);
    if (data.parts.some(([part]) => part === "gate_attn")) find("part").value = "gate_attn";
    Object.assign(find("controls"), { min: data.controls[0], max: data.controls[1], value: find("controls").value || data.controls[2] });
    Object.assign(find("first"), { max: last, value: 0 });
    Object.assign(find("last"), { max: last, value: last });
    follow();
  }
  function follow() {
    if (!ready() || data.why) return;
    find("block").value = lab.block;
    if (lab.head !== "mean") find("head-number").value = find("anyhead").value = lab.head;
    form();
  }
  function form() {
    const shown = fields(), clicked = lab.patch !== null, single = data.attention.length < 2;
    for (const each of element.querySelectorAll("[data-of]")) {
      each.hidden = !shown.includes(each.dataset.of) || (each.dataset.of === "attention" && single);
    }
    const factor = number("factor");
    find("factor-told").textContent = factor === 0 ? "0, off" : factor === 1 ? "1, no change" : String(factor);
    find("factor").setAttribute("aria-valuetext", find("factor-told").textContent);
    const [first, last] = [number("first"), number("last")], end = Math.max(1, lab.run.t.length - 1);
    Object.assign(find("bar").style, { left: (100 * first) / end + "%", right: 100 - (100 * last) / end + "%" });
    find("steps").textContent = "steps " + stepTold(first) + " to " + stepTold(last);
    find("first").setAttribute("aria-valuetext", "step " + stepTold(first));
    find("last").setAttribute("aria-valuetext", "step " + stepTold(last));
    for (const option of find("region").options) option.disabled = option.value !== "" && !clicked;
    if (!clicked) find("region").value = "";
    const runs = 1 + number("controls"), forwards = runs * data.passes, batch = lab.run.labels.length;
    const needs = shown.includes("way") && !clicked;
    find("try").disabled = questions.busy || needs;
    find("cost").textContent = needs ? "Click a patch on the picture first: its attention is cut."
      : runs + " samplings, " + forwards + " forwards of " + (batch > 1 ? batch + " pictures" : "a picture") + (pace ? ", about " + lab.time(pace * runs) : "");
  }
  function request() {
    const shown = fields(), edit = { kind: find("kind").value }, region = find("region").value;
    if (shown.includes("attention")) edit.attention = find("attention").value;
    if (shown.includes("block")) edit.block = number("block");
    if (shown.includes("head")) edit.head = number("head-number");
    if (shown.includes("anyhead") && find("anyhead").value !== "") edit.head = number("anyhead");
    for (const name of ["branch", "part", "way"]) if (shown.includes(name)) edit[name] = find(name).value;
    if (shown.includes("way")) Object.assign(edit, { patch: lab.patch, reach: number("reach") });
    if (shown.includes("label")) edit.label = number("label");
    if (shown.includes("factor")) edit.factor = number("factor");
    if (shown.includes("warmth")) edit.factor = number("warmth");
    return {
      edit, steps: [number("first"), number("last")], controls: number("controls"),
      region: region === "" ? null : { patch: lab.patch, reach: Number(region) }, sample: lab.sample,
    };
  }
  // The form as it was when something was asked.
  function recall({ edit, steps, controls, region }) {
    const fill = (name, value) => value !== undefined && value !== null && (find(name).value = value);
    for (const name of ["kind", "attention", "branch", "part", "way", "label", "reach", "controls"]) fill(name, { ...edit, controls }[name]);
    fill(edit.kind === "temperature" ? "warmth" : "factor", edit.factor);
    [find("first").value, find("last").value] = steps;
    const place = edit.patch ?? region?.patch;
    lab.set(Object.fromEntries(Object.entries({ block: edit.block, head: edit.head, patch: place }).filter(([, value]) => value !== undefined)));
    find("anyhead").value = edit.head ?? "";
    find("region").value = region ? region.reach : "";
    form();
  }
  // Ask again what the lab says was asked: of a link, or of the browser's way back.
  function again() {
    if (!ready() || data.why || !lab.edit || questions.busy || JSON.stringify(lab.edit) === JSON.stringify(wanted)) return;
    try {
      recall(lab.edit);
    } catch {
      return tell("The edit in this link cannot be read.", true);
    }
    ask(lab.edit);
  }
  function tell(text, wrong = false) {
    find("told").textContent = text;
    find("told").classList.toggle("lab-wrong", wrong);
  }
  async function ask(question) {
    wanted = question;
    lab.set({ edit: question });
    const told = (answer) => show(answer).then(() => "Done: " + answer.said[0] + ".");
    await questions.ask(question, { bar: find("progress"), tell, show: told });
  }

  // What was found ---------------------------------------------------------------------------------------------------
  async function show(answer) {
    const decode = async (atlas) => {
      const image = Object.assign(new Image(), { src: atlas.uri });
      await image.decode();
      return { ...atlas, image };
    };
    const decoded = {};
    for (const [sample, { runs }] of Object.entries(answer.shown)) {
      decoded[sample] = await Promise.all(runs.map(async ({ steps, x0, change }) =>
        ({ steps, x0: await decode(x0), change: change && (await decode(change)) })));
    }
    [found, images, control, pace] = [answer, decoded, 1, answer.seconds];
    const line = { request: answer.request, said: answer.said[0], picture: answer.picture[0], rank: answer.rank, of: answer.said.length };
    tries = [line, ...tries.filter((each) => JSON.stringify(each.request) !== JSON.stringify(line.request))];
    listTries();
    verdict();
    draw();
  }
  const others = (answer) => answer.said.length - 1;
  function verdict() {
    const beaten = others(found) + 1 - found.rank, count = others(found), where = found.region ? " around the clicked patch" : "";
    find("verdict").textContent = found.said[0][0].toUpperCase() + found.said[0].slice(1) + ", steps " + (found.steps[0] + 1) + " to " + (found.steps[1] + 1)
      + ": moved the picture" + where + " by " + round(found.picture[0]) + ", further than " + beaten + " of " + count + " random others. "
      + (found.rank === 1 ? "A place like any other would come first in 1 of " + (count + 1) + " cases." : (found.rank > 2 ? found.rank - 1 + " of them" : "One of them") + " moved it as far or further: that it moved says little of this place.");
    find("unit").textContent = "Root mean square over " + (lab.run.latent ? "the latents" : "pixels from −1 to 1") + where + (lab.run.labels.length > 1 ? ", all pictures of the batch together" : "") + ". Choose a control to see it.";
    find("curve-told").textContent = "The edit thick, its controls thin; the band is when they are on. Log scale; the line is the scrubbed step.";
  }
  const round = (value) => (value === 0 ? "0" : value >= 1e-4 && value < 1000 ? String(Number(value.toPrecision(3))) : value.toExponential(1));
  function draw() {
    find("found").hidden = !found;
    if (!found) return;
    const here = images[lab.sample];
    find("groups").hidden = !here;
    find("other").hidden = Boolean(here);
    find("other").textContent = here ? "" : "The pictures shown were of another one of the batch: try it again to see this one's.";
    if (here) pictures(here);
    ranks();
    curve();
  }
  function pictures(runs) {
    const shown = [runs[0], runs[1], runs[1 + control]], names = ["untouched", found.said[0], found.said[control]];
    const near = (steps) => steps.reduce((best, step, i) => (Math.abs(step - lab.step) < Math.abs(steps[best] - lab.step) ? i : best), 0);
    const at = shown.map(({ steps }) => near(steps)), step = runs[0].steps[at[0]];
    find("when").textContent = "at " + lab.when(step) + (step === lab.step ? "" : ", the nearest that was decoded");
    for (const group of ["way", "end"]) {
      find("head=" + group + "-edited").title = names[1];
      find("head=" + group + "-control").textContent = "control " + control;
      find("head=" + group + "-control").title = names[2];
    }
    shown.forEach((run, i) => {
      const frames = { x0: [run.x0, at[i]], end: [run.x0, run.steps.length], change: [run.change, at[i]], endchange: [run.change, run.steps.length] };
      for (const [kind, [atlas, index]] of Object.entries(frames)) {
        const figure = figures[i + "-" + kind];
        if (!figure) continue;
        const canvas = figure.firstElementChild, way = kind === "x0" || kind === "change";
        figure.classList.toggle("lab-smooth", atlas.width > 64 && !kind.includes("change"));
        figure.classList.toggle("lab-whatif-none", way && !run.steps.length);
        canvas.setAttribute("aria-label", names[i] + (kind.includes("change") ? ", what changed, " : ", ") + (way ? "predicted x0 " + find("when").textContent : "final picture"));
        frame(canvas, atlas, index, kind.includes("change"));
      }
    });
    const { reach } = found.shown[lab.sample];
    for (const [group, far] of [["way", reach[at[0]]], ["end", reach.at(-1)]]) {
      find("scale=" + group).textContent = "−" + round(far) + " to " + round(far);
      find("mean=" + group).textContent = found.channels > 1 ? "mean of " + found.channels + " channels" : "";
    }
  }
  function frame(canvas, { image, width, height, columns }, index, signed) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: signed });
    context.drawImage(image, (index % columns) * width, Math.floor(index / columns) * height, width, height, 0, 0, width, height);
    if (!signed) return;
    const pixels = context.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(lab.colour("signed", pixels.data[i] === 128 ? 0.5 : pixels.data[i] / 255), i);
    context.putImageData(pixels, 0, 0);
  }
  function ranks() {
    const order = found.picture.map((far, i) => [far, i]).sort((a, b) => b[0] - a[0] || b[1] - a[1]), most = order[0][0] || 1;
    const focused = document.activeElement?.closest?.("[data-control]")?.dataset.control;
    find("ranks").replaceChildren(...order.map(([far, i]) => {
      const row = lab.make("li", i ? "" : "lab-whatif-mine"), box = row.appendChild(lab.make(i ? "button" : "div", "lab-whatif-rank" + (i === control ? " lab-on" : "")));
      if (i) {
        Object.assign(box, { type: "button" }).dataset.control = i;
        box.setAttribute("aria-pressed", String(i === control));
        box.addEventListener("click", () => ((control = i), draw()));
      }
      const bar = lab.make("i");
      bar.style.width = (100 * far) / most + "%";
      box.append(lab.make("span", "", (i ? "control " + i + ": " : "") + found.said[i]), lab.make("b", "", round(far)), bar);
      return row;
    }));
    if (focused) find("ranks").querySelector("[data-control='" + focused + "']")?.focus();
  }
  function curve() {
    const plot = find("curve"), W = plot.clientWidth || 480, steps = lab.run.t.length, all = found.x0.flat().filter((value) => value > 0);
    const low = Math.log10(Math.min(...all, 1)), high = Math.max(Math.log10(Math.max(...all, 1e-9)), low + 0.5);
    const x = (step) => LEFT + ((W - LEFT - RIGHT) * step) / Math.max(1, steps - 1), y = (value) => H - BOTTOM - ((H - TOP - BOTTOM) * (Math.log10(value) - low)) / (high - low);
    const add = (tag, values, text) => {
      const node = plot.appendChild(document.createElementNS(SVG, tag));
      for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
      if (text !== undefined) node.textContent = text;
    };
    plot.replaceChildren();
    const [first, last] = found.steps;
    add("rect", { x: Math.max(LEFT, x(first - 0.5)), y: TOP, width: Math.max(3, Math.min(W - RIGHT, x(last + 0.5)) - Math.max(LEFT, x(first - 0.5))), height: H - TOP - BOTTOM, class: "lab-whatif-band" });
    const decades = Array.from({ length: 12 }, (_, i) => 10 ** (i - 8)), fine = high - low < 1.7 ? [1, 2, 5] : [1];
    for (const value of decades.flatMap((decade) => fine.map((each) => each * decade)).filter((each) => Math.log10(each) >= low && Math.log10(each) <= high)) {
      add("line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), class: "lab-whatif-grid" });
      add("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, round(value));
    }
    found.x0.map((line, i) => [line, i]).reverse().forEach(([line, i]) => {
      const points = line.map((value, step) => (value > 0 ? x(step) + "," + y(value) : "")).filter(Boolean);
      add("polyline", { points: points.join(" "), class: i === 0 ? "lab-whatif-edit" : i === control ? "lab-whatif-chosen" : "lab-whatif-control" });
    });
    add("line", { x1: x(lab.step), x2: x(lab.step), y1: TOP, y2: H - BOTTOM, class: "lab-whatif-cursor" });
    add("text", { x: LEFT, y: H - 6 }, "t = " + lab.run.t[0]);
    add("text", { x: W - RIGHT, y: H - 6, "text-anchor": "end" }, "t = " + lab.run.t[steps - 1]);
    const mine = found.x0.map((line) => line[lab.step]);
    find("here").textContent = "At " + lab.when() + ": the edit " + round(mine[0]) + ", controls " + round(Math.min(...mine.slice(1))) + " to " + round(Math.max(...mine.slice(1))) + ".";
    plot.setAttribute("aria-label", "At " + lab.when() + " the edit has moved x0 by " + round(mine[0]) + ", its controls by " + mine.slice(1).map(round).join(", "));
  }
  function listTries() {
    find("tries").hidden = !tries.length;
    find("tried").replaceChildren(...tries.map(({ request, said, picture, rank, of }) => {
      const row = lab.make("li"), button = row.appendChild(lab.make("button", "", said));
      button.type = "button";
      button.append(lab.make("small", "", "steps " + (request.steps[0] + 1) + " to " + (request.steps[1] + 1) + (request.region ? ", around a patch" : "") + ": moved " + round(picture) + ", further than " + (of - rank) + " of " + (of - 1)));
      button.addEventListener("click", () => (recall(request), ask({ ...request, sample: lab.live ? lab.sample : request.sample })));
      return row;
    }));
  }

  find("form").addEventListener("submit", (event) => (event.preventDefault(), find("try").disabled || ask(request())));
  find("form").addEventListener("input", ({ target }) => {
    if (target === find("first")) find("last").value = Math.max(number("first"), number("last"));
    if (target === find("last")) find("first").value = Math.min(number("first"), number("last"));
    if (target === find("block")) return lab.set({ block: number("block") });
    if (target === find("head-number")) return lab.set({ head: number("head-number") });
    form();
  });
  const off = lab.on((changed) => {
    if (changed.has("run")) {
      questions.drop();
      [found, images, wanted] = [null, null, null];
      find("progress").hidden = true;
      tell("");
      build();
      draw();
      again();
    } else if (changed.has("block") || changed.has("head") || changed.has("patch")) follow();
    if (changed.has("edit") && !changed.has("run")) again();
    if (found && (changed.has("step") || changed.has("sample"))) draw();
  });
  const wide = new ResizeObserver(() => found && curve());
  wide.observe(find("curve"));
  build();
  const update = (next) => {
    data = next;
    if (!ready() || data.run !== built) build();
    again();
  };
  return { update, destroy: () => (off(), wide.disconnect()) };
}
