// What made this: a step's prediction in parts, ranked by their share of a region; all steps; and the lens.
const KINDS = [
  ["inner", "heads and MLPs", (kind, block) => block !== null],
  ["blocks", "blocks as a whole", null],
  ["heads", "heads alone", (kind, block, head) => head !== null],
  ["mlp", "MLPs alone", (kind) => kind === "mlp"],
  ["all", "all parts", () => true],
];
const HALVES = { guided: "the guided mix", cond: "with the label", uncond: "without (null label)" };
const LISTED = 16, NAMED = 64, SIDES = [1, 3, 5, 9];
const WITHIN = 0.995; // of the values in blocks: so much of them the scale holds, as in the library's figure

export function mount({ element, data, send, lab }) {
  const tab = (name, words) => `<button type="button" data-tab="${name}" aria-pressed="false">${words}</button>`;
  element.innerHTML = `
    <section class="lab-card lab-contributions" aria-label="What made this">
      <div class="lab-title"><h2>What made this</h2><p>All that heads and MLPs do is add to the <abbr data-term="residual_stream">stream</abbr>: what is predicted
        at a step is a sum of <abbr data-term="contribution">contributions</abbr>, and each part's can be told exactly.</p></div>
      <p class="lab-note" data-why hidden></p>
      <div data-body hidden>
        <div class="lab-contributions-tabs" role="group" aria-label="What to see">
          ${tab("parts", "Ranked, at this step")}${tab("steps", "Over all steps")}${tab("lens", "Block by block: the lens")}</div>
        <div class="lab-choosers">
          <label data-for="parts steps">Region <select data-region></select></label>
          <label data-for="parts steps">Parts <select data-kind></select></label>
          <label data-for="parts steps">Given to <select data-of><option value="x0">predicted x₀</option><option value="eps">predicted noise ε</option></select></label>
          <label data-pass>Pass <select data-half></select></label>
          <label data-channel-label>Drawn <select data-channel></select></label>
          <label data-for="steps">Colours <select data-shown><option value="norms">size of each part in ε</option><option value="shares">share of the region</option></select></label>
        </div>
        <p class="lab-told" role="status" data-told></p>
        <progress data-progress hidden aria-label="Steps split"></progress>
        <button type="button" class="lab-main" data-start hidden></button>

        <div data-view="parts" hidden>
          <div class="lab-contributions-where">
            <figure><div class="lab-contributions-box" data-box tabindex="0" role="application"><canvas width="1" height="1"></canvas><i class="lab-contributions-region" data-mark></i></div>
              <figcaption>Predicted <abbr data-term="x0">x<sub>0</sub></abbr> <span data-when></span>. Click a patch, drag a rectangle, or use the arrow keys.</figcaption></figure>
            <figure data-found><div class="lab-contributions-box"><canvas width="1" height="1" data-chosen role="img"></canvas><i class="lab-contributions-region" data-mark></i></div>
              <figcaption><b data-chosen-name></b> <span data-chosen-told></span></figcaption></figure>
            <figure data-found><div class="lab-contributions-box"><canvas width="1" height="1" data-sum role="img"></canvas><i class="lab-contributions-region" data-mark></i></div>
              <figcaption><label class="lab-contributions-slide"><span data-sum-told></span><input type="range" min="0" value="0" data-first /></label></figcaption></figure>
          </div>
          <div data-found data-ranked>
            <div class="lab-bar lab-contributions-scale"><span data-low></span><i></i><span data-high></span><small data-drawn></small></div>
            <p data-summary></p>
            <ol class="lab-contributions-list" data-list></ol>
            <button type="button" data-more hidden></button>
            <p class="lab-contributions-small">A part's share is the inner product of what it gave with the whole, over the region, divided by the whole's square: 100 % is the whole,
              a negative share works against it. All parts, without exception, add up to 100 %. <span data-error></span></p>
          </div>
        </div>
        <div data-view="steps" hidden>
          <p data-steps-told></p>
          <div data-steps-found hidden>
            <div class="lab-contributions-grid"><div class="lab-contributions-names" data-names></div>
              <div class="lab-contributions-map"><canvas width="1" height="1" tabindex="0" role="application" data-map></canvas><i class="lab-contributions-column" data-column></i><i class="lab-contributions-cell" data-cell></i><span data-lines></span></div>
              <span></span><div class="lab-contributions-ends"><span data-from></span><span data-to></span></div></div>
            <div class="lab-bar"><span data-least></span><i data-ramp></i><span data-most></span></div>
            <p class="lab-contributions-read" data-read></p>
          </div>
        </div>
        <div data-view="lens" hidden>
          <p>What would be predicted if the network ended after a block: the <abbr data-term="lens">lens</abbr> reads the stream there with the model's own last layers. Under each is its
            correlation with the last, which is the prediction; look for the block after which the picture is there.</p>
          <div class="lab-contributions-lens" data-lens></div>
          <p data-lens-told></p>
        </div>
      </div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]");
  const all = (name) => [...element.querySelectorAll("[data-" + name + "]")];
  const one = lab.latest((request) => send(request, ({ told }) => view !== "steps" && tell(told + " …")));
  let view = "parts", built = null, found = null, entries = [], chosen = null, first = null, dragged = null, drag = null, more = false, grid = null;
  const round = (value) => (value === 0 ? "0" : Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(1)).replace("-", "−");
  const share = (value) => {
    const far = Math.abs(value), text = far >= 0.0995 ? (100 * value).toFixed(0) : far >= 9.5e-4 ? (100 * value).toFixed(1) : far >= 1e-6 ? String(Number((100 * value).toPrecision(1))) : "0";
    return text.replace("-", "−") + " %";
  };
  const ready = () => lab.run && data && data.run === lab.run.id;
  function tell(text, wrong = false) {
    find("told").textContent = text;
    find("told").classList.toggle("lab-wrong", wrong);
  }

  // The region, in patches of the finest grid: [row, column, rows, columns] --------------------------------------------
  function region() {
    const [rows, columns] = lab.run.grid, wanted = find("region").value;
    if (wanted === "drag" && dragged) return dragged;
    if (wanted === "" || lab.patch === null) return [0, 0, rows, columns];
    const far = (Number(wanted) - 1) / 2, row = Math.floor(lab.patch / columns), column = lab.patch % columns;
    const top = Math.max(0, row - far), left = Math.max(0, column - far);
    return [top, left, Math.min(rows, row + far + 1) - top, Math.min(columns, column + far + 1) - left];
  }
  const whole = ([, , rows, columns]) => rows === lab.run.grid[0] && columns === lab.run.grid[1];
  const regionName = (box = region()) => whole(box) ? "the whole picture" : (box[2] * box[3] === 1 ? "the patch in " : box[2] + " × " + box[3] + " patches from ") + lab.place(box[0] * lab.run.grid[1] + box[1]);
  function marks() {
    const [rows, columns] = lab.run.grid, box = region();
    for (const mark of all("mark")) {
      mark.hidden = whole(box);
      Object.assign(mark.style, { top: (100 * box[0]) / rows + "%", left: (100 * box[1]) / columns + "%", height: (100 * box[2]) / rows + "%", width: (100 * box[3]) / columns + "%" });
    }
    find("box").setAttribute("aria-label", "Predicted picture at " + lab.when() + "; arrow keys move the patch. The region is " + regionName(box) + ".");
  }
  function offer() {
    const select = find("region"), held = select.value, clicked = lab.patch !== null;
    const near = SIDES.filter((side) => side <= Math.max(...lab.run.grid));
    lab.fill(select, [["", "the whole picture"], ...(clicked ? near.map((side) => [side, side === 1 ? "the clicked patch" : side + " × " + side + " patches around it"]) : []), ...(dragged ? [["drag", "the dragged rectangle"]] : [])]);
    if (select.value !== held) select.value = "";
  }

  // Sums over the parts of a step --------------------------------------------------------------------------------------
  // Each line of the list: its name, block, head, and the parts that it is the sum of.
  function lines() {
    const kind = find("kind").value, name = ([, block, , within]) => (block === null ? within[0].toUpperCase() + within.slice(1) : lab.blockName(block) + ", " + within);
    if (kind === "blocks") return Array.from({ length: lab.run.depth }, (_, block) => ({ name: lab.blockName(block), within: null, block, head: null, kind: "block", parts: data.parts.flatMap((part, i) => (part[1] === block ? [i] : [])) }));
    const keep = KINDS.find(([each]) => each === kind)[2];
    return data.parts.flatMap((part, i) => (keep(...part) ? [{ name: name(part), within: part[3], block: part[1], head: part[2], kind: part[0], parts: [i] }] : []));
  }
  const outside = () => data.parts.filter(([, block]) => block === null).map(([, , , within]) => within).join(", ").replace(/, (?=[^,]*$)/, " and ");
  function sumOver(values, part, box) {
    const columns = lab.run.grid[1], base = part * lab.run.grid[0] * columns;
    let sum = 0;
    for (let r = box[0]; r < box[0] + box[2]; r++) for (let c = box[1]; c < box[1] + box[3]; c++) sum += values[base + r * columns + c];
    return sum;
  }
  // Add the pictures of some parts to a picture `c h w`.
  function add(picture, parts) {
    const size = picture.length;
    for (const part of parts) {
      const [inner, place] = found.places[part];
      if (inner) for (let i = 0, fine = found.fine[place]; i < size; i++) picture[i] += fine * found.inner[place * size + i];
      else for (let i = 0; i < size; i++) picture[i] += found.outer[place * size + i];
    }
    return picture;
  }
  const empty = () => new Float64Array(found.shape[0] * found.shape[1] * found.shape[2]);
  // One number a pixel: a channel, or their mean.
  function single(picture) {
    const [channels, h, w] = found.shape, channel = find("channel").value, size = h * w;
    if (channel !== "" && channels > 1) return picture.subarray(Number(channel) * size, (Number(channel) + 1) * size);
    return Float64Array.from({ length: size }, (_, i) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += picture[c * size + i];
      return sum / channels;
    });
  }
  function reachOf() {
    const values = [];
    for (const { picture, block } of entries) if (block !== null) for (const value of picture) values.push(Math.abs(value));
    const sorted = Float64Array.from(values).sort();
    return sorted[Math.floor(WITHIN * (sorted.length - 1))] || 1;
  }
  function signed(canvas, picture, reach) {
    const [, h, w] = found.shape, context = canvas.getContext("2d");
    Object.assign(canvas, { width: w, height: h });
    const pixels = context.createImageData(w, h);
    picture.forEach((value, i) => pixels.data.set([...lab.colour("signed", 0.5 + value / reach / 2), 255], 4 * i));
    context.putImageData(pixels, 0, 0);
  }
  // A sum of parts as a picture: x0 from -1 to 1, the noise from -3 to 3.
  function natural(canvas, picture) {
    const [channels, h, w] = found.shape, context = canvas.getContext("2d"), reach = found.of === "eps" ? 3 : 1;
    Object.assign(canvas, { width: w, height: h });
    const pixels = context.createImageData(w, h), size = h * w;
    for (let i = 0; i < size; i++) {
      const rgb = [0, 0, 0];
      for (let c = 0; c < channels; c++) for (let k = 0; k < 3; k++) rgb[k] += (picture[c * size + i] / reach) * data.mixing[c][k];
      pixels.data.set([...rgb.map((value) => Math.round(127.5 * (Math.max(-1, Math.min(1, value)) + 1))), 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }

  // Ranked, at this step -----------------------------------------------------------------------------------------------
  async function parts() {
    const request = { look: "parts", step: lab.step, sample: lab.sample, half: find("half").value, of: find("of").value };
    const answer = await asking(request);
    if (!answer) return;
    if (!answer.places) {
      let inner = 0, outer = 0;
      const bytes = Uint8Array.from(atob(answer.inner), (c) => c.charCodeAt(0)), unpack = (name) => lab.unpack(answer[name]).values;
      Object.assign(answer, {
        places: data.parts.map(([, block]) => (block === null ? [false, outer++] : [true, inner++])), inner: new Int8Array(bytes.buffer), fine: unpack("fine"),
        outer: unpack("outer"), given: unpack("given"), whole: unpack("whole"), sizes: unpack("sizes"),
      });
    }
    found = answer;
    entries = null;
    rank();
  }
  function rank() {
    if (!found || view !== "parts") return;
    const box = region(), total = sumOver(found.whole, 0, box);
    if (!entries) {
      entries = lines().map((line) => {
        const full = add(empty(), line.parts);
        return { ...line, picture: Float64Array.from(single(full)), key: line.name };
      });
      first = null;
    }
    for (const entry of entries) entry.share = total ? entry.parts.reduce((sum, part) => sum + sumOver(found.given, part, box), 0) / total : NaN;
    entries.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
    if (!entries.some((entry) => entry.key === chosen)) chosen = entries[0]?.key ?? null;
    for (const node of all("found")) node.hidden = false;
    find("ranked").classList.remove("lab-contributions-old");
    const reach = reachOf();
    find("low").textContent = "−" + round(reach);
    find("high").textContent = round(reach);
    find("drawn").textContent = "added to or taken from a pixel of " + (found.of === "eps" ? "the noise" : lab.run.latent ? "the latent x₀" : "x₀") + (found.shape[0] > 1 ? (find("channel").value === "" ? ", the mean over " + found.shape[0] + " channels" : ", one channel") : "")
      + "; what is beyond is drawn as the end" + (found.coarse > 1 ? "; " + found.coarse + " × " + found.coarse + " pixels are drawn as one" : "");
    const mine = entries.reduce((sum, entry) => sum + entry.share, 0), kind = find("kind").value;
    find("summary").textContent = "At " + lab.when(found.step) + ": " + (!total ? "what is predicted in this region is 0, so it has no shares." : (kind === "all" ? "all parts together gave " : KINDS.find(([each]) => each === kind)[1] + " together gave ") + share(mine) + " of " + regionName(box)
      + (kind === "all" ? "." : "; all else gave " + share(1 - mine) + (kind === "inner" || kind === "blocks" ? ", that is " + outside() + ". Those can be many times larger than their sum, and cancel each other." : ".")));
    find("error").textContent = "Here their sum misses what the network said by " + (found.error === 0 ? "nothing" : found.error.toExponential(0).replace("-", "−") + " of it") + ".";
    list(reach);
    showChosen(reach);
    running();
    marks();
    const asked = find("half").value;
    tell(found.half !== asked ? "This step was taken without guidance: it is split as it was taken, with the label." : "");
  }
  function list(reach) {
    const host = find("list"), shown = more ? entries : entries.slice(0, LISTED), most = Math.max(...entries.map((entry) => Math.abs(entry.share)), 1e-9);
    const held = document.activeElement?.closest?.("[data-entry]")?.dataset.entry;
    host.replaceChildren(...shown.map((entry) => {
      const row = lab.make("li"), button = row.appendChild(lab.make("button", entry.key === chosen ? "lab-on" : "")), canvas = button.appendChild(lab.make("canvas"));
      Object.assign(button, { type: "button" }).dataset.entry = entry.key;
      button.setAttribute("aria-pressed", String(entry.key === chosen));
      const bar = lab.make("span", "lab-contributions-bar"), fill = bar.appendChild(lab.make("i", entry.share < 0 ? "lab-contributions-less" : "")), wide = (50 * Math.abs(entry.share || 0)) / most;
      Object.assign(fill.style, { width: wide + "%", left: (entry.share < 0 ? 50 - wide : 50) + "%" });
      button.append(lab.make("span", "lab-contributions-name", entry.name), lab.make("b", "", Number.isFinite(entry.share) ? share(entry.share) : "–"), bar);
      signed(canvas, entry.picture, reach);
      button.addEventListener("click", () => choose(entry));
      return row;
    }));
    find("more").hidden = entries.length <= LISTED;
    find("more").textContent = more ? "Show the first " + LISTED : "Show all " + entries.length;
    if (held) [...host.querySelectorAll("[data-entry]")].find((button) => button.dataset.entry === held)?.focus();
  }
  function choose(entry) {
    chosen = entry.key;
    const branch = entry.kind.replace("_bias", "");
    rank();
    if (entry.block === null) return;
    lab.set({ block: entry.block, part: "blocks." + entry.block + (entry.kind === "block" ? "" : "." + branch), ...(entry.head === null ? {} : { head: entry.head }) });
  }
  function showChosen(reach) {
    const entry = entries.find((each) => each.key === chosen);
    if (!entry) return;
    signed(find("chosen"), entry.picture, reach);
    find("chosen-name").textContent = entry.name;
    const size = entry.parts.length === 1 ? ", root mean square " + round(found.sizes[entry.parts[0]]) + " over the picture" : "";
    find("chosen-told").textContent = "gave " + (Number.isFinite(entry.share) ? share(entry.share) : "no share") + " of " + regionName() + size + ". Orange adds, blue takes away.";
    find("chosen").setAttribute("aria-label", entry.name + ": what it gave, in signed colours from " + find("low").textContent + " to " + find("high").textContent);
  }
  // All that is not in the list, and the first of the list: at the end it is the prediction.
  function running() {
    const range = find("first"), count = entries.length, mine = new Set(entries.flatMap((entry) => entry.parts));
    if (first === null) first = count;
    Object.assign(range, { max: count, value: first });
    const rest = data.parts.map((_, i) => i).filter((i) => !mine.has(i)), parts = [...rest, ...entries.slice(0, first).flatMap((entry) => entry.parts)];
    natural(find("sum"), add(empty(), parts));
    const what = find("kind").value === "all" ? "" : "All else, and ";
    const told = (first === count ? (what + "all " + count + " of the list: the prediction itself") : first === 0 ? (what ? "All else alone, without the list" : "Nothing yet") : what + "the first " + first + " of the list");
    find("sum-told").textContent = told[0].toUpperCase() + told.slice(1) + (found.shape[0] === 1 || found.shape[0] === 3 ? "" : ", in false colours") + (found.of === "eps" ? ", from −3 to 3." : ".");
    range.setAttribute("aria-valuetext", find("sum-told").textContent);
    find("sum").setAttribute("aria-label", "The sum of parts as a picture. " + find("sum-told").textContent);
  }

  // Over all steps -----------------------------------------------------------------------------------------------------
  function steps() {
    const box = region(), request = { look: "steps", sample: lab.sample, half: find("half").value, of: find("of").value, region: whole(box) ? null : box }, count = lab.run.t.length;
    const answer = look(request, "Split all " + count + " steps", "This takes a forward of the model at every step, and more in a U-DiT.", data.light);
    find("steps-found").hidden = !answer;
    grid = null;
    if (!answer) return;
    const shown = find("shown").value, { values } = lab.unpack(answer[shown]), kind = find("kind").value;
    const rows = kind === "blocks" && shown === "norms" ? null : lines();
    find("steps-told").textContent = rows === null ? "The size of a sum does not follow from those of its parts: choose heads and MLPs, or the share of the region."
      : shown === "norms" ? "How large each part is in ε at every step, root mean square over the picture: colours are of the logarithm. Large parts can cancel, so sizes do not add up."
      : "What share of " + regionName(box) + " each part gave at every step, of " + (find("of").value === "eps" ? "the predicted noise" : "predicted x₀") + "; a column of all parts is 100 %. Beyond the ends it is drawn as the end.";
    find("steps-found").hidden = rows === null;
    if (rows === null) return;
    grid = rows.map((line) => ({ ...line, values: Float64Array.from({ length: count }, (_, s) => line.parts.reduce((sum, part) => sum + values[part * count + s], 0)) }));
    drawSteps(shown);
  }
  function drawSteps(shown) {
    const count = lab.run.t.length, map = find("map"), context = map.getContext("2d"), logs = shown === "norms", sizes = Float64Array.from(grid.filter((line) => logs || line.block !== null).flatMap((line) => [...line.values].map(Math.abs))).sort();
    const high = (logs ? sizes.at(-1) : sizes[Math.floor(WITHIN * (sizes.length - 1))]) || 1, low = high * 1e-4;
    Object.assign(map, { width: count, height: grid.length });
    const pixels = context.createImageData(count, grid.length);
    grid.forEach((line, r) => line.values.forEach((value, s) => {
      const place = logs ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : 0.5 + value / high / 2;
      pixels.data.set([...lab.colour(logs ? "viridis" : "signed", place), 255], 4 * (r * count + s));
    }));
    context.putImageData(pixels, 0, 0);
    const named = grid.length <= NAMED, tall = named ? Math.max(13, Math.min(22, 300 / grid.length)) : Math.max(2, 500 / grid.length);
    map.parentElement.style.height = tall * grid.length + "px";
    // A name a row where there is room, else one a block; lines between blocks.
    const groups = grid.map((line) => line.block);
    let free = 0;
    find("names").replaceChildren(...grid.flatMap((line, i) => {
      if (i * tall < free || (!named && i && line.block !== null && line.block === groups[i - 1])) return [];
      const span = lab.make("span"), fresh = !i || line.block !== groups[i - 1] || line.block === null;
      if (line.block !== null && (fresh || line.within === null)) span.append(lab.make("u", "", lab.blockName(line.block) + (named && line.within ? "," : "")));
      if (line.within && (named || line.block === null)) span.append(lab.make("em", "", line.within));
      span.style.top = (100 * i) / grid.length + "%";
      free = i * tall + 13;
      return [span];
    }));
    const longest = Math.max(...[...find("names").children].map((span) => span.textContent.length));
    find("names").style.width = "min(" + (0.56 * longest + 1).toFixed(1) + "em, 38vw)";
    find("lines").replaceChildren(...groups.flatMap((block, i) => (i && block !== groups[i - 1] && find("kind").value !== "blocks" ? [Object.assign(lab.make("b"), { style: "top:" + (100 * i) / grid.length + "%" })] : [])));
    find("least").textContent = logs ? "≤ " + round(low) : "−" + share(high);
    find("most").textContent = logs ? round(high) : share(high);
    find("ramp").style.background = lab.gradient(logs ? "viridis" : "signed");
    find("from").textContent = "t = " + lab.run.t[0] + ", noise";
    find("to").textContent = "t = " + lab.run.t.at(-1) + ", picture";
    placeSteps();
  }
  const row = () => Math.max(0, grid.findIndex((line) => line.name === chosen));
  const say = (r, s) => grid[r].name + " at " + lab.when(s) + ": " + (find("shown").value === "norms" ? round(grid[r].values[s]) : share(grid[r].values[s]));
  function placeSteps() {
    if (!grid) return;
    const count = lab.run.t.length, left = (100 * lab.step) / count + "%", width = 100 / count + "%";
    Object.assign(find("column").style, { left, width });
    Object.assign(find("cell").style, { left, width, top: (100 * row()) / grid.length + "%", height: 100 / grid.length + "%" });
    find("read").textContent = say(row(), lab.step);
    find("map").setAttribute("aria-label", "Parts down and steps across, arrow keys move; " + say(row(), lab.step));
  }
  const at = (event) => {
    const { left, top, width, height } = find("map").getBoundingClientRect(), where = (part, count) => Math.max(0, Math.min(count - 1, Math.floor(part * count)));
    return [where((event.clientY - top) / height, grid.length), where((event.clientX - left) / width, lab.run.t.length)];
  };
  function go(r, s) {
    const line = grid[r], branch = line.kind === "block" ? "" : "." + line.kind.replace("_bias", "");
    chosen = line.name;
    lab.set({ step: s, ...(line.block === null ? {} : { block: line.block, part: "blocks." + line.block + branch }), ...(line.head === null ? {} : { head: line.head }) });
    placeSteps();
  }
  find("map").addEventListener("pointermove", (event) => grid && (find("read").textContent = say(...at(event))));
  find("map").addEventListener("pointerleave", placeSteps);
  find("map").addEventListener("click", (event) => grid && go(...at(event)));
  find("map").addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move || !grid) return;
    event.preventDefault();
    go(Math.max(0, Math.min(grid.length - 1, row() + move[0])), Math.max(0, Math.min(lab.run.t.length - 1, lab.step + move[1])));
  });

  // The lens -----------------------------------------------------------------------------------------------------------
  async function lens() {
    const answer = await asking({ look: "lens", step: lab.step, sample: lab.sample, half: find("half").value });
    if (!answer) return;
    if (!answer.image) {
      const image = Object.assign(new Image(), { src: answer.atlas.uri });
      await image.decode();
      answer.image = image;
    }
    if (view !== "lens" || answer.step !== lab.step) return;
    const { atlas: { width, height, columns }, blocks, alike, image } = answer, held = document.activeElement?.dataset?.block, last = lab.run.depth - 1;
    find("lens").replaceChildren(...blocks.map((block, i) => {
      const button = lab.make("button"), canvas = button.appendChild(lab.make("canvas"));
      Object.assign(button, { type: "button" }).dataset.block = block;
      Object.assign(canvas, { width, height });
      canvas.classList.toggle("lab-contributions-soft", width > 64);
      canvas.getContext("2d").drawImage(image, (i % columns) * width, Math.floor(i / columns) * height, width, height, 0, 0, width, height);
      button.append(lab.make("span", "", lab.blockName(block)), lab.make("small", "", block === last ? "the prediction" : alike[block] === null ? "the same everywhere" : alike[block].toFixed(2).replace("-", "−")));
      button.addEventListener("click", () => lab.set({ block, part: "blocks." + block }));
      return button;
    }));
    if (held !== undefined) find("lens").querySelector("[data-block='" + held + "']")?.focus();
    find("lens-told").textContent = "At " + lab.when() + ", " + { guided: "as the step was taken, with guidance", cond: "with the label", uncond: "without the label" }[answer.half]
      + (blocks.length < lab.run.depth ? "; " + blocks.length + " of " + lab.run.depth + " blocks, for each takes a decoder" : "") + ".";
    tell("");
    lit();
  }
  function lit() {
    for (const button of find("lens").children) {
      button.classList.toggle("lab-on", Number(button.dataset.block) === lab.block);
      button.setAttribute("aria-pressed", String(Number(button.dataset.block) === lab.block));
    }
  }

  // Asking -------------------------------------------------------------------------------------------------------------
  async function asking(request) {
    const run = lab.run.id, wanted = view, current = () => run === lab.run?.id && wanted === view;
    tell("Asking the model …");
    try {
      const answer = await one(request);
      return current() ? answer : undefined;
    } catch (error) {
      if (!current()) return;
      tell(error.message, true);
      find("ranked").classList.add("lab-contributions-old");
    }
  }
  const look = lab.lengthy({ send, start: find("start"), bar: find("progress"), tell, redraw: () => view === "steps" && refresh() });

  // The whole ----------------------------------------------------------------------------------------------------------
  function refresh() {
    if (!built || !sight.now) return;
    find("start").hidden = find("progress").hidden = true;
    ({ parts, steps, lens })[view]();
  }
  function open(name) {
    view = name;
    tell("");
    for (const button of all("tab")) button.setAttribute("aria-pressed", String(button.dataset.tab === view));
    for (const node of all("view")) node.hidden = node.dataset.view !== view;
    for (const node of all("for")) node.hidden = !node.dataset.for.split(" ").includes(view);
    find("channel-label").hidden = view !== "parts" || lab.run.channels === 1;
    refresh();
  }
  function picture() {
    const canvas = find("box").firstElementChild, [h, w] = lab.run.size;
    for (const box of element.querySelectorAll(".lab-contributions-box")) box.style.aspectRatio = w + " / " + h;
    if (!lab.draw("x0", lab.step, canvas)) Object.assign(canvas, { width: 1, height: 1 });
    canvas.classList.toggle("lab-contributions-soft", canvas.width > 64);
    find("when").textContent = "at " + lab.when();
    marks();
  }
  function build() {
    const blocked = !ready() || data.why;
    find("why").hidden = !blocked;
    find("why").textContent = !lab.run ? "Sample a picture first, then see which parts of the network made it." : !ready() ? "…" : data.why;
    find("body").hidden = Boolean(blocked);
    built = blocked ? null : data.run;
    [found, entries, chosen, first, dragged, grid, more] = [null, null, null, null, null, null, false];
    for (const node of all("found")) node.hidden = true;
    find("lens").replaceChildren();
    find("lens-told").textContent = "";
    if (blocked) return;
    lab.fill(find("kind"), KINDS.map(([kind, name]) => [kind, name]));
    lab.fill(find("half"), data.halves.map((half) => [half, HALVES[half]]));
    find("pass").hidden = data.halves.length < 2;
    lab.fill(find("channel"), [["", "mean over channels"], ...Array.from({ length: lab.run.channels }, (_, c) => [c, lab.run.channels === 3 && !lab.run.latent ? ["red", "green", "blue"][c] : "channel " + c])]);
    offer();
    picture();
    open(view);
  }
  const box = find("box");
  const patchAt = (event) => {
    const { left, top, width, height } = box.getBoundingClientRect(), [rows, columns] = lab.run.grid, where = (part, count) => Math.max(0, Math.min(count - 1, Math.floor(part * count)));
    return [where((event.clientY - top) / height, rows), where((event.clientX - left) / width, columns)];
  };
  // A click chooses a patch, a drag a rectangle.
  box.addEventListener("pointerdown", (event) => {
    drag = { from: patchAt(event), moved: false };
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const to = patchAt(event), { from } = drag;
    if (!drag.moved && String(to) === String(from)) return;
    drag.moved = true;
    dragged = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(from[0] - to[0]) + 1, Math.abs(from[1] - to[1]) + 1];
    offer();
    find("region").value = "drag";
    marks();
  });
  box.addEventListener("pointerup", () => {
    if (!drag) return;
    const { from, moved } = drag;
    drag = null;
    if (moved) return rank();
    pick(from[0] * lab.run.grid[1] + from[1]);
  });
  box.addEventListener("pointercancel", () => {
    if (drag?.moved) rank();
    drag = null;
  });
  function pick(patch) {
    const wanted = SIDES.includes(Number(find("region").value)) ? find("region").value : "1";
    lab.set({ patch });
    offer();
    find("region").value = wanted;
    rank();
    marks();
  }
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [rows, columns] = lab.run.grid, put = (value, count) => Math.max(0, Math.min(count - 1, value));
    const [row, column] = lab.patch === null ? [Math.floor(rows / 2) - move[0], Math.floor(columns / 2) - move[1]] : [Math.floor(lab.patch / columns), lab.patch % columns];
    pick(put(row + move[0], rows) * columns + put(column + move[1], columns));
  });
  find("region").addEventListener("change", () => (marks(), view === "steps" ? refresh() : rank()));
  for (const name of ["kind", "channel"]) find(name).addEventListener("change", () => ((entries = found ? null : entries), (more = false), view === "steps" ? refresh() : rank()));
  find("of").addEventListener("change", refresh);
  find("half").addEventListener("change", () => (find("half").value === "guided" ? refresh() : lab.half === find("half").value ? refresh() : lab.set({ half: find("half").value })));
  find("shown").addEventListener("change", refresh);
  find("more").addEventListener("click", () => ((more = !more), rank()));
  find("first").addEventListener("input", () => ((first = Number(find("first").value)), running()));
  for (const button of all("tab")) button.addEventListener("click", () => open(button.dataset.tab));

  const off = lab.on((changed) => {
    const has = (...names) => names.some((name) => changed.has(name));
    if (has("run")) return build();
    if (!built) return;
    if (has("half") && find("half").value !== "guided") find("half").value = lab.half;
    if (has("patch")) {
      offer();
      marks();
      if (view === "parts") rank();
    }
    if (has("step", "sample", "frames")) picture();
    if (has("step", "block")) placeSteps(), lit();
    if (has("sample", "half") || (has("step") && view !== "steps") || (has("patch") && view === "steps")) refresh();
  });
  const sight = lab.near(element, () => refresh());
  build();
  const update = (next) => {
    data = next;
    if (!ready() || data.run !== built) build();
  };
  return { update, destroy: () => (off(), sight.stop()) };
}
