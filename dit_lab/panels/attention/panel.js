// Attention: a patch's map in a block and head, all heads side by side, and every head of the model in numbers.
const LOOKS = {
  rows: ["Where the patch looks", "each weight is how much of the patch's attention goes there; all together are 100 %"],
  attended: ["Who looks at the patch", "each weight is how much of that place's attention goes to the patch"],
  received: ["What every patch receives", "each weight is the mean over all patches that look; a bright one is a sink"],
  rollout: ["What reaches the patch (rollout)", "through all blocks, if attention alone moved things; heads averaged"],
  time: ["Who looks at the time token", "each weight is how much of that place's attention goes to the time token"],
  label: ["Who looks at the class token", "each weight is how much of that place's attention goes to the class token"],
};
// Of a head, the mean over the picture's queries: name, unit, what it says; their order is that of the answers.
const NUMBERS = ["entropy", "distance", "itself", "time", "label"];
const MEASURES = {
  entropy: ["spread (entropy)", "nats", "High: it takes a little from everywhere; 0: it looks at one place."],
  distance: ["how far it looks", "patches", "The mean distance between a patch and what it looks at, in patches of the finest grid."],
  itself: ["share on itself", "share", "How much of its attention a patch keeps for itself."],
  time: ["share on the time token", "share", "How much goes to the token that says how noisy the picture is."],
  label: ["share on the class token", "share", "How much goes to the token that says which class it is to be."],
};
// A share in percent; the sign stays on the number's line.
const share = (value) => (!(value > 0) ? "0" : value < 1e-5 ? "<\u00a00.001" : Number((100 * value).toPrecision(3))) + "\u00a0%";
const short = (value, unit) => (unit === "share" ? share(value) : Number(value.toPrecision(3)) + " " + unit);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const largest = (values) => values.reduce((most, value) => (value > most ? value : most), 0);
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function mount({ element, data, send, lab }) {
  const keys = "lab-attention-keys-" + Math.random().toString(36).slice(2);
  const gradient = (map) => `<i style="background: ${lab.gradient(map)}"></i>`;
  const stack = (name, label) => `
    <div class="lab-attention-stack" data-stack="${name}" tabindex="0" role="application" aria-label="${label}" aria-describedby="${keys}">
      <canvas width="1" height="1" data-under="${name}"></canvas><canvas width="1" height="1" data-over="${name}"></canvas>
      <i class="lab-attention-query" hidden></i><i class="lab-attention-there" hidden></i><b data-badge hidden></b><span data-empty hidden></span></div>`;
  element.innerHTML = `
    <section class="lab-card lab-attention" aria-label="Attention">
      <div class="lab-title"><h2><abbr data-term="attention">Attention</abbr></h2><p data-what></p></div>
      <p class="lab-note" data-why hidden></p>
      <div data-body>
        <div class="lab-choosers lab-attention-choosers">
          <label class="lab-attention-first">Show <select data-look></select><small data-meaning></small><small data-rolled hidden>of <abbr data-term="rollout">attention rollout</abbr></small></label>
          <label>Block <select data-block></select><small data-where></small></label>
          <label><abbr data-term="head">Head</abbr> <select data-head></select><small>each looks in a way of its own</small></label>
          <label data-passes><abbr data-term="guidance">Pass</abbr> <select data-half></select><small data-pass></small></label>
          <label data-views hidden>View <select data-view><option value="own">the token's own grid</option><option value="picture">on the picture</option></select><small data-drawn></small></label>
        </div>
        <p class="lab-told" role="status" data-told></p>
        <div class="lab-attention-main">
          <div class="lab-attention-left">
            <div class="lab-attention-pair">
              <figure>${stack("picture", "Predicted picture")}<figcaption><b>Predicted <abbr data-term="x0">x<sub>0</sub></abbr></b> <span data-at></span></figcaption></figure>
              <figure>${stack("map", "Attention map")}<figcaption><b>Attention</b> <span data-mapped></span></figcaption></figure>
            </div>
            <div class="lab-bar lab-attention-legend"><span>0 %</span><div>${gradient("inferno").replace("<i", "<i data-legend")}</div><span data-top></span></div>
            <label class="lab-attention-slide">The picture through the map
              <input type="range" min="0" max="80" value="0" step="5" data-through /><output data-through-told></output></label>
            <div class="lab-attention-tokens" data-tokens hidden></div>
            <p class="lab-attention-readout" aria-live="polite" data-readout></p>
            <small id="${keys}">Click a <abbr data-term="patch">patch</abbr>, or move it by the arrow keys; point anywhere, or hold Shift with the arrows, to read a weight.</small>
          </div>
          <div class="lab-attention-heads" data-heads>
            <h3>All heads <span data-of></span></h3>
            <div class="lab-attention-grid" data-grid></div>
            <div class="lab-bar"><span>0 %</span>${gradient("inferno")}<span data-all-top></span></div>
            <p data-even></p><p data-interleaved hidden>In this <abbr data-term="u_dit">U-DiT</abbr> tokens attend on four
              <abbr data-term="downsampling">interleaved grids</abbr>, of every other row and column: each sees its own grid only.</p>
            <div data-crossing hidden><h3>What the patch takes from time and class <span data-cross-of></span></h3>
              <p>Its <abbr data-term="cross_attention">cross-attention</abbr>, which has these two tokens to look at.</p>
              <table class="lab-attention-cross"><thead><tr><th scope="col">head</th><th scope="col">time</th><th scope="col" class="lab-attention-wide"><span class="lab-attention-sr">both, as a bar</span></th><th scope="col">class</th></tr></thead><tbody data-cross></tbody></table></div>
          </div>
        </div>
        <div class="lab-attention-numbers">
          <div class="lab-attention-left">
            <h3>Every block and head <span data-now></span></h3>
            <div class="lab-choosers"><label>Number <select data-measure></select></label></div><p data-says></p>
            <div class="lab-attention-glance" data-glance role="group" aria-label="Blocks and heads; arrow keys move"></div>
            <div class="lab-bar"><span>0</span>${gradient("viridis")}<span data-most></span></div>
            <p class="lab-attention-cellsaid" data-cell></p><p class="lab-told" role="status" data-counted></p>
          </div>
          <div class="lab-attention-run">
            <h3>Over the run <span data-run-of></span></h3>
            <p data-run-told></p>
            <button type="button" data-measure-all></button> <progress data-progress hidden aria-label="Steps measured"></progress>
            <div data-run hidden><div class="lab-attention-stack lab-attention-steps" data-stack="run" tabindex="0" role="application"><canvas width="1" height="1" data-over="run"></canvas><i class="lab-attention-query"></i></div>
              <div class="lab-attention-ends"><span>noise</span><span data-run-at></span><span>picture</span></div></div>
          </div>
        </div>
      </div>
    </section>`;
  const find = (name) => element.querySelector("[data-" + name + "]");
  const stacks = { picture: element.querySelector("[data-stack=picture]"), map: element.querySelector("[data-stack=map]"), run: element.querySelector("[data-stack=run]") };
  const canvases = (kind, ...names) => Object.fromEntries(names.map((name) => [name, element.querySelector(`[data-${kind}=${name}]`)]));
  const layers = { under: canvases("under", "picture", "map"), over: canvases("over", "map", "run") };
  // What a host says while an answer is on its way, such as the place in its queue, stands in its line.
  const asking = (line) => lab.latest((request) => send(request, ({ told }) => told && tell(line, told)));
  const askMap = asking("told"), askNumbers = asking("counted");
  let seen = null, counted = null, whole = null, there = null, measuring = null, turn = 0, width = 0;

  // What is looked at -------------------------------------------------------------------------------------------------
  const ready = () => Boolean(lab.run && data && data.run === lab.run.id && !data.why);
  const look = () => find("look").value || "rows";
  const stage = (block = lab.block) => lab.stageOf(block);
  const stride = () => data.stages[lab.run.stages.indexOf(stage())].stride;
  const tokens = ([rows, columns]) => rows * columns;
  const labelled = () => lab.run.labelNumbers[lab.sample] !== lab.run.classes;
  const ofPatch = (name = look()) => ["rows", "attended", "rollout"].includes(name);
  // The token of a stage's grid that a patch of the finest lies under.
  const under = (patch, { grid } = stage()) => {
    const [rows, columns] = lab.run.grid, at = [Math.floor(patch / columns), patch % columns];
    return Math.floor(((at[0] + 0.5) * grid[0]) / rows) * grid[1] + Math.floor(((at[1] + 0.5) * grid[1]) / columns);
  };
  const passName = (half = lab.half) => !lab.run.classes ? "" : half === "uncond" || !labelled() ? "the pass without a class" : "the pass with class " + lab.run.labels[lab.sample];
  const wanted = () => {
    if (!ready() || (ofPatch() && lab.patch === null)) return null;
    const request = { look: look(), step: lab.step, sample: lab.sample };
    if (ofPatch()) request.patch = lab.patch;
    if (look() !== "rows") request.block = stage().first;
    return { ...request, half: lab.half };
  };
  const unpack = (packed) => {
    if (!packed.half) return lab.unpack(packed);
    const bytes = Uint8Array.from(atob(packed.half), (c) => c.charCodeAt(0)), bits = new Uint16Array(bytes.buffer);
    return { shape: Array.from(packed.shape), values: Float32Array.from(bits, (b) => (b >> 10 ? 2 ** ((b >> 10) - 15) * (1 + (b & 1023) / 1024) : (b & 1023) * 2 ** -24)) };
  };
  const layer = (kind = "attn") => seen.stages.find((each) => each.first === stage().first)?.[kind];
  // The weights of a head, or the mean over heads: one a token, those of the condition (if any) last.
  const weights = (head, kind) => {
    const { shape: [blocks, heads, count], values } = layer(kind), block = blocks > 1 ? lab.block - stage().first : 0;
    const of = (h) => values.subarray((block * heads + h) * count, (block * heads + h + 1) * count);
    if (head !== "mean" && heads > 1) return of(head);
    const mean = new Float32Array(count);
    for (let h = 0; h < heads; h++) of(h).forEach((weight, j) => (mean[j] += weight / heads));
    return mean;
  };
  // The end of a scale: the largest weight of a place, in a rollout of another place than the patch itself.
  const peak = (row) => {
    const own = seen.request.look === "rollout" ? under(seen.request.patch) : -1;
    return largest(row.subarray(0, tokens(stage().grid)).map((weight, j) => (j === own ? 0 : weight)));
  };
  // Tokens are drawn in squares of `span`, each for the token `row` below and `column` right of its corner.
  const layout = () => {
    const span = stride();
    if (span === 1 || find("view").value === "picture" || !shown() || !ofPatch(seen.request.look)) return { span: 1, row: 0, column: 0 };
    const query = under(seen.request.patch), columns = stage().grid[1];
    return { span, row: Math.floor(query / columns) % span, column: (query % columns) % span };
  };
  const drawnAt = (r, c) => {
    const { span, row, column } = layout();
    return (r - (r % span) + row) * stage().grid[1] + c - (c % span) + column;
  };
  const shown = () => seen && ready() && seen.run === lab.run.id && seen.request.sample === lab.sample && layer() !== undefined;

  // Asking ------------------------------------------------------------------------------------------------------------
  function tell(name, text, wrong = false) {
    find(name).textContent = text;
    find(name).classList.toggle("lab-wrong", wrong);
  }
  async function follow() {
    const mine = ++turn;
    await followMap();
    if (mine === turn) followNumbers();
  }
  async function followMap() {
    const request = wanted(), run = lab.run?.id;
    if (!request) return tell("told", ready() && lab.patch === null && ofPatch() ? "Click a patch on the picture to see where it looks." : "");
    if (shown() && same(seen.request, request)) return tell("told", "");
    tell("told", "Asking the model at " + lab.when() + " …");
    try {
      const answer = await askMap(request);
      if (!answer || run !== lab.run?.id || !same(request, wanted())) return;
      const stages = answer.stages.map((each) => Object.fromEntries(Object.entries(each).map(([kind, value]) => [kind, kind === "first" ? value : unpack(value)])));
      seen = { request, run, stages };
      tell("told", "");
    } catch (error) {
      if (run === lab.run?.id && same(request, wanted())) tell("told", error.message, true);
    }
    draw();
  }
  const wantedNumbers = () => ({ look: "numbers", step: lab.step, sample: lab.sample, half: lab.half });
  const ofRun = () => (ready() && whole?.run === lab.run.id && whole.sample === lab.sample && whole.half === lab.half ? whole : null);
  async function followNumbers() {
    if (!ready() || !sight.now) return;
    if (ofRun()) return drawNumbers();
    const request = wantedNumbers(), run = lab.run.id;
    if (counted?.run === run && same(counted.request, request)) return drawNumbers();
    tell("counted", "Measuring all heads at " + lab.when() + " …");
    try {
      const answer = await askNumbers(request);
      if (!answer || run !== lab.run?.id || !same(request, wantedNumbers())) return;
      counted = { request, run, kinds: unpacked(answer) };
      tell("counted", "");
    } catch (error) {
      if (run === lab.run?.id && same(request, wantedNumbers())) tell("counted", error.message, true);
    }
    drawNumbers();
  }
  const unpacked = (answer) => Object.fromEntries(data.kinds.map((kind) => [kind, lab.unpack(answer[kind])]));
  async function measureAll() {
    const mine = (measuring = { run: lab.run.id, sample: lab.sample, half: lab.half }), bar = find("progress");
    drawRun();
    const told = ({ done, total, told }) => mine === measuring && (tell("counted", told || ""), total && Object.assign(bar, { max: total, value: done }));
    try {
      const answer = await lab.stoppable(bar, send({ look: "run", sample: mine.sample, half: mine.half }, told));
      if (mine !== measuring || mine.run !== lab.run?.id) return;
      whole = { ...mine, kinds: unpacked(answer) };
      tell("counted", "");
    } catch (error) {
      if (mine === measuring && mine.run === lab.run?.id) tell("counted", error.message, error.name !== "AbortError");
    } finally {
      if (mine === measuring) measuring = null;
      drawNumbers();
    }
  }

  // The map and the heads ---------------------------------------------------------------------------------------------
  const mark = (box, token, grid, span = 1) => {
    box.hidden = token === null;
    if (box.hidden) return;
    const [rows, columns] = grid, at = [Math.floor(token / columns), token % columns].map((place) => place - (place % span));
    const fine = (box.parentElement.clientWidth * span) / columns < 14; // around a small token, not over it
    box.classList.toggle("lab-attention-fine", fine);
    Object.assign(box.style, { top: (100 * at[0]) / rows + "%", left: (100 * at[1]) / columns + "%", height: (100 * span) / rows + "%", width: (100 * span) / columns + "%" });
  };
  const paint = (canvas, row, top) => {
    const [rows, columns] = stage().grid, image = new ImageData(columns, rows);
    [canvas.width, canvas.height] = [columns, rows];
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
      image.data.set([...lab.colour("inferno", top ? row[drawnAt(r, c)] / top : 0), 255], 4 * (r * columns + c));
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  const queryMark = (box) => mark(box, shown() && ofPatch(seen.request.look) ? under(seen.request.patch) : null, stage().grid, layout().span);
  function draw() {
    if (!ready()) return;
    const [h, w] = lab.run.size, told = lab.blockName(lab.block), mapped = shown();
    for (const name of ["picture", "map"]) stacks[name].style.aspectRatio = w + " / " + h;
    lab.draw("x0", lab.step, layers.under.picture);
    lab.draw("x0", mapped ? seen.request.step : lab.step, layers.under.map);
    const over = layers.over.map;
    const empty = stacks.map.querySelector("[data-empty]"), unasked = ofPatch() && lab.patch === null;
    over.hidden = layers.under.map.hidden = !mapped;
    empty.hidden = mapped;
    empty.textContent = unasked ? "Click a patch of the picture" : "…";
    mark(stacks.picture.querySelector(".lab-attention-query"), lab.patch, lab.run.grid);
    queryMark(stacks.map.querySelector(".lab-attention-query"));
    const through = Number(find("through").value), solid = 1 - through / 100;
    over.style.opacity = find("legend").style.opacity = solid;
    find("through-told").textContent = through + " %";
    find("at").textContent = lab.when();
    const place = lab.patch === null ? "no patch chosen" : "chosen: " + lab.place(lab.patch);
    stacks.picture.setAttribute("aria-label", "Predicted picture, " + place);
    badge();
    const grid = stage().grid, span = stride(), parts = [LOOKS[look()][0].toLowerCase(), "at " + lab.when(), passName() && "in " + passName()];
    find("what").textContent = parts.filter(Boolean).join(", ");
    find("where").textContent = (stage().name ? stage().name + ": " : "") + grid.join(" × ") + " tokens" + (span > 1 ? " in four grids" : "");
    find("views").hidden = span === 1 || !ofPatch();
    find("interleaved").hidden = span === 1;
    find("drawn").textContent = find("view").value === "own" ? "each weight over its " + span + " × " + span + " tokens" : "tokens of the other grids stay dark";
    find("heads").hidden = !mapped || seen.request.look === "rollout";
    find("tokens").hidden = find("top").hidden = !mapped;
    find("mapped").textContent = !mapped ? "" : seen.request.look === "rollout" ? "through the blocks of " + (stage().name || "the whole model") : told + ", " + (lab.head === "mean" ? "mean over heads" : "head " + lab.head);
    if (mapped) {
      const row = weights(lab.head), top = peak(row);
      paint(over, row, top);
      const more = row.some((weight) => weight > top);
      find("top").textContent = share(top) + (more ? " and more" : "");
      stacks.map.setAttribute("aria-label", "Attention map of " + grid.map((side) => side / layout().span).join(" × ") + " weights, " + place);
      condition(row, top);
      heads();
      crossing();
    }
    readout();
  }
  // What in the map is not of the step, patch, pass and look that are asked for.
  function badge() {
    const request = shown() ? wanted() : null, of = seen?.request, badge = stacks.map.querySelector("[data-badge]");
    const old = request && !same(request, of) ? [
      of.step !== request.step && "step " + (of.step + 1), of.patch !== request.patch && of.patch !== undefined && lab.place(of.patch),
      of.half !== request.half && passName(of.half), of.look !== request.look && LOOKS[of.look][0].toLowerCase(),
    ].filter(Boolean) : [];
    badge.hidden = !old.length;
    badge.textContent = "of " + old.join(", ");
    stacks.map.classList.toggle("lab-attention-old", old.length > 0);
  }
  const tokenNames = () => ["the time token", lab.run.classes ? "the class token" : "the label token"];
  function condition(row, top) {
    const first = tokens(stage().grid), verb = { rows: "gets", received: "receives", rollout: "brings" }[seen.request.look] || "gives";
    find("tokens").hidden = row.length === first;
    find("tokens").replaceChildren(...tokenNames().slice(0, row.length - first).map((name, i) => {
      const chip = lab.make("span"), weight = row[first + i];
      chip.append(lab.make("i"), name + " " + verb + " ", lab.make("b", "", share(weight)));
      chip.firstChild.style.background = "rgb(" + lab.colour("inferno", top ? weight / top : 0) + ")";
      return chip;
    }));
  }
  function heads() {
    const { shape: [, count] } = layer(), choices = ["mean", ...Array(count).keys()], rows = choices.map((head) => weights(head)), top = Math.max(...rows.map(peak));
    const grid = find("grid"), focused = grid.contains(document.activeElement) ? [...grid.children].indexOf(document.activeElement) : -1;
    if (grid.children.length !== choices.length) grid.replaceChildren(...choices.map((head) => {
      const button = lab.make("button"), box = lab.make("span", "lab-attention-stack");
      button.type = "button";
      box.append(lab.make("canvas"), lab.make("i", "lab-attention-query"));
      button.append(box, lab.make("span"), lab.make("small"));
      button.addEventListener("click", () => lab.set({ head }));
      box.addEventListener("pointermove", (event) => point(event, box, head));
      box.addEventListener("pointerleave", () => point(null));
      return button;
    }));
    if (focused >= 0) grid.children[focused].focus();
    const n = tokens(stage().grid), extra = rows[0].length - n, span = stride(), conditioned = extra > 0 && ["rows", "received"].includes(seen.request.look);
    choices.forEach((head, i) => {
      const [box, name, most] = grid.children[i].children;
      box.style.aspectRatio = lab.run.size[1] + " / " + lab.run.size[0];
      paint(box.firstChild, rows[i], top);
      queryMark(box.lastChild);
      name.textContent = head === "mean" ? "mean" : "head " + head;
      most.textContent = "up to " + share(peak(rows[i])) + (conditioned ? ", condition " + share(rows[i].subarray(n).reduce((a, b) => a + b)) : "");
      grid.children[i].classList.toggle("lab-on", head === lab.head);
      grid.children[i].setAttribute("aria-pressed", head === lab.head);
    });
    find("of").textContent = "of " + lab.blockName(lab.block) + ", on one scale";
    find("all-top").textContent = share(top);
    find("even").textContent = ["rows", "attended", "received"].includes(seen.request.look) ? "Evenly spread, every place would have " + share((seen.request.look === "received" ? 1 : span ** 2) / (n + extra)) + "." : "";
  }
  function crossing() {
    const crossed = seen.request.look === "rows" && layer("cross");
    find("crossing").hidden = !crossed;
    if (!crossed) return;
    find("cross-of").textContent = "in " + lab.blockName(lab.block);
    find("cross").replaceChildren(...["mean", ...Array(layer("cross").shape[1]).keys()].map((head) => {
      const line = lab.make("tr", head === lab.head ? "lab-attention-chosen" : ""), [time, label] = weights(head, "cross"), bar = lab.make("td", "lab-attention-wide");
      bar.append(lab.make("i"));
      bar.firstChild.style.width = 100 * time + "%";
      line.append(lab.make("th", "", head === "mean" ? "mean" : String(head)), lab.make("td", "", share(time)), bar, lab.make("td", "", share(label)));
      return line;
    }));
  }
  // `there`: { row, column, head } of the stage's grid that is pointed at.
  function readout() {
    const spot = shown() ? there : null, grid = stage().grid, at = spot && spot.row * grid[1] + spot.column;
    for (const name of ["picture", "map"]) mark(stacks[name].querySelector(".lab-attention-there"), spot ? at : null, grid, spot ? layout().span : 1);
    if (!shown()) return (find("readout").textContent = "");
    const { look: kind, patch } = seen.request, head = spot?.head ?? lab.head, row = weights(head), query = ofPatch(kind) ? under(patch) : null;
    const say = (j) => lab.place(j, grid), who = kind === "rollout" ? "" : (head === "mean" ? "Mean over heads" : "Head " + head) + ": ";
    const drawn = spot ? drawnAt(spot.row, spot.column) : null;
    const sentence = (j) => ({
      rows: "it gives " + share(row[j]) + " to " + say(j), attended: say(j) + " gives it " + share(row[j]),
      received: share(row[j]) + " goes to " + say(j), rollout: share(row[j]) + " of it is from " + say(j),
    })[kind] || say(j) + " gives " + share(row[j]) + " to " + tokenNames()[kind === "time" ? 0 : 1];
    if (spot) {
      const [r, c] = [Math.floor(drawn / grid[1]), drawn % grid[1]], span = stride();
      const unseen = query !== null && ((r - Math.floor(query / grid[1])) % span || (c - (query % grid[1])) % span);
      find("readout").textContent = unseen ? "The patch cannot see " + say(drawn) + ", a token of another grid." : who + sentence(drawn) + ".";
      return;
    }
    const own = query === null ? -1 : query, best = row.subarray(0, tokens(grid)).reduce((most, weight, j) => (j !== own && (most < 0 || weight > row[most]) ? j : most), -1);
    const outlined = query === null ? "" : "Outlined: " + say(query) + (tokens(grid) === tokens(lab.run.grid) ? "" : ", the token over the patch") + ". " + who + (kind === "rollout" ? share(row[query]) + " of it stays there" : "it gives " + share(row[query]) + " to itself") + ". ";
    find("readout").textContent = outlined + (best < 0 ? "" : (query === null ? who + "most of all, " : "Of the others most: ") + sentence(best) + ".");
  }
  function point(event, box, head) {
    if (!event || !shown()) there = null;
    else {
      const { left, top, width, height } = box.getBoundingClientRect(), [rows, columns] = stage().grid;
      there = { head, row: clamp(Math.floor(((event.clientY - top) / height) * rows), 0, rows - 1), column: clamp(Math.floor(((event.clientX - left) / width) * columns), 0, columns - 1) };
    }
    if (ready()) readout();
  }
  function choose(event, box) {
    const { left, top, width, height } = box.getBoundingClientRect(), [rows, columns] = lab.run.grid;
    const at = [((event.clientY - top) / height) * rows, ((event.clientX - left) / width) * columns];
    lab.set({ patch: clamp(Math.floor(at[0]), 0, rows - 1) * columns + clamp(Math.floor(at[1]), 0, columns - 1) });
  }
  function press(event) {
    const way = STEPS[event.key], [rows, columns] = lab.run?.grid || [];
    if (event.key === "Escape" && there) return point(null);
    if (!way || !ready() || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.shiftKey && shown()) {
      const { grid } = stage(), from = under(lab.patch ?? 0), span = layout().span;
      const at = there && there.head === undefined ? there : { row: Math.floor(from / grid[1]), column: from % grid[1] };
      there = { row: clamp(at.row + span * way[0], 0, grid[0] - 1), column: clamp(at.column + span * way[1], 0, grid[1] - 1) };
      return readout();
    }
    there = null;
    if (lab.patch === null) return lab.set({ patch: (rows >> 1) * columns + (columns >> 1) });
    const at = [Math.floor(lab.patch / columns) + way[0], (lab.patch % columns) + way[1]];
    lab.set({ patch: clamp(at[0], 0, rows - 1) * columns + clamp(at[1], 0, columns - 1) });
  }

  // Every head in numbers ---------------------------------------------------------------------------------------------
  const measures = () => [
    ...["entropy", "distance", "itself", ...(data.joins ? ["time", "label"] : [])].map((name) => ["attn " + name, MEASURES[name][0]]),
    ...(data.kinds.includes("cross") ? ["label", "time", "entropy"].map((name) => ["cross " + name, MEASURES[name][0], "cross-attention, to time and class"]) : []),
  ];
  // Of the chosen number: what `(step, block, head)` has, and its largest, of all that is known.
  function numbers() {
    const [kind, name] = find("measure").value.split(" "), number = NUMBERS.indexOf(name), { depth, heads } = lab.run, run = ofRun();
    if (!run && counted?.run !== lab.run.id) return null;
    const { values } = (run || counted).kinds[kind], each = depth * heads, all = values.length / (NUMBERS.length * each);
    const at = (step, block, head) => values[((run ? step : 0) * NUMBERS.length + number) * each + block * heads + head];
    let most = 0;
    for (let step = 0; step < all; step++) most = Math.max(most, largest(values.subarray((step * NUMBERS.length + number) * each, (step * NUMBERS.length + number + 1) * each)));
    return { at, most, unit: MEASURES[name][1], name, kind, run: Boolean(run), step: run ? lab.step : counted.request.step, old: !run && !same(counted.request, wantedNumbers()) };
  }
  function buildGlance() {
    const { stages, heads } = lab.run, rows = [lab.make("span", "lab-attention-row", "block, head"), ...Array.from({ length: heads }, (_, head) => lab.make("span", "lab-attention-column", head))];
    for (const { name, first, blocks } of stages) {
      if (name) rows.push(lab.make("span", "lab-attention-stage", name));
      blocks.forEach((block, i) => {
        rows.push(lab.make("span", "lab-attention-row", block.replace("block ", "").replace(", pair ", "")));
        for (let head = 0; head < heads; head++) {
          const cell = lab.make("button", "lab-attention-cell");
          Object.assign(cell, { type: "button", tabIndex: -1 });
          Object.assign(cell.dataset, { cellBlock: first + i, cellHead: head });
          rows.push(cell);
        }
      });
    }
    find("glance").style.gridTemplateColumns = "auto repeat(" + heads + ", minmax(0, " + Math.max(26, Math.min(48, Math.round(420 / heads))) + "px))";
    find("glance").replaceChildren(...rows);
  }
  const cells = () => [...find("glance").querySelectorAll("button")];
  const cellName = (cell, found) => lab.blockName(Number(cell.dataset.cellBlock)) + ", head " + cell.dataset.cellHead + (found ? ": " + short(found.at(found.step, Number(cell.dataset.cellBlock), Number(cell.dataset.cellHead)), found.unit) : "");
  function drawNumbers() {
    if (!ready()) return;
    const found = numbers(), [kind, name] = find("measure").value.split(" "), focused = find("glance").contains(document.activeElement);
    find("says").textContent = MEASURES[name][2] + (name === "entropy" ? " Evenly over " + (kind === "cross" ? "both it is " + Math.log(2).toPrecision(3) : data.stages[lab.run.stages.indexOf(stage())].keys + " keys it is " + Number(Math.log(data.stages[lab.run.stages.indexOf(stage())].keys).toPrecision(3))) + " nats." : "");
    find("now").textContent = !found ? "" : (found.old ? "still of step " + (found.step + 1) : "at step " + (found.step + 1)) + (passName() && !found.old ? ", in " + passName() : "");
    find("most").textContent = found ? short(found.most, found.unit) + (found.run ? ", the largest of the run" : "") : "";
    if (found && !found.old) tell("counted", "");
    find("glance").classList.toggle("lab-attention-old", Boolean(found?.old));
    for (const cell of cells()) {
      const [block, head] = [Number(cell.dataset.cellBlock), Number(cell.dataset.cellHead)], chosen = block === lab.block && head === lab.head;
      cell.style.background = found ? "rgb(" + lab.colour("viridis", found.most ? found.at(found.step, block, head) / found.most : 0) + ")" : "";
      cell.setAttribute("aria-label", cellName(cell, found));
      cell.setAttribute("aria-pressed", chosen);
      cell.classList.toggle("lab-attention-mean", lab.head === "mean" && block === lab.block);
      cell.tabIndex = block === lab.block && head === (lab.head === "mean" ? 0 : lab.head) ? 0 : -1;
      if (focused && cell.tabIndex === 0 && document.activeElement !== cell) cell.focus();
    }
    cellTold();
    drawRun();
  }
  function cellTold(cell = find("glance").querySelector("[aria-pressed=true]")) {
    const found = numbers(), [kind] = find("measure").value.split(" ");
    const name = find("measure").selectedOptions[0]?.textContent + (kind === "cross" ? " in cross-attention" : "");
    find("cell").textContent = !found ? "" : cell ? cellName(cell, found) + ", " + name + "." : "Point at a cell for its number; click it to see its map.";
  }
  function pressGlance(event) {
    const way = STEPS[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    lab.set({ block: clamp(lab.block + way[0], 0, lab.run.depth - 1), head: lab.head === "mean" ? 0 : clamp(lab.head + way[1], 0, lab.run.heads - 1) });
  }
  function drawRun() {
    const run = ofRun(), steps = lab.run.t.length, button = find("measure-all"), found = run && numbers();
    find("run-of").textContent = run ? "heads of " + lab.blockName(lab.block) : "";
    find("run").hidden = !run;
    find("progress").hidden = !measuring;
    button.hidden = Boolean(run);
    button.disabled = Boolean(measuring);
    button.textContent = measuring ? "Measuring …" : "Measure all " + steps + " steps";
    const forwards = steps * data.kinds.length;
    find("run-told").textContent = run ? "Rows are heads, the first on top; columns are steps. Number and colours are those of every block and head. Click to go there." : "The same number at every step, " + (forwards > 1 ? "from " + forwards + " forwards of the network" : "from a forward of the network") + "; then it follows the scrubber without asking.";
    if (!run) return;
    const canvas = layers.over.run, { heads } = lab.run, image = new ImageData(steps, heads);
    for (let head = 0; head < heads; head++) for (let step = 0; step < steps; step++) {
      image.data.set([...lab.colour("viridis", found.most ? found.at(step, lab.block, head) / found.most : 0), 255], 4 * (head * steps + step));
    }
    [canvas.width, canvas.height] = [steps, heads];
    canvas.getContext("2d").putImageData(image, 0, 0);
    stacks.run.style.height = clamp(16 * heads, 64, 280) + "px";
    const box = stacks.run.querySelector("i"), head = lab.head === "mean" ? [0, heads] : [lab.head, 1];
    Object.assign(box.style, { left: (100 * lab.step) / steps + "%", width: 100 / steps + "%", top: (100 * head[0]) / heads + "%", height: (100 * head[1]) / heads + "%" });
    box.classList.toggle("lab-attention-fine", stacks.run.clientWidth / steps < 8);
    runTold(lab.step, lab.head);
  }
  function runTold(step, head) {
    const found = numbers(), mean = head === "mean" ? Array.from({ length: lab.run.heads }, (_, each) => found.at(step, lab.block, each)).reduce((a, b) => a + b) / lab.run.heads : found.at(step, lab.block, head);
    find("run-at").textContent = (head === "mean" ? "mean over heads" : "head " + head) + ", step " + (step + 1) + ": " + short(mean, found.unit);
    stacks.run.setAttribute("aria-label", "Heads by steps. " + find("run-at").textContent);
  }
  function runPlace(event) {
    const { left, top, width, height } = stacks.run.getBoundingClientRect(), { heads, t } = lab.run;
    return [clamp(Math.floor(((event.clientX - left) / width) * t.length), 0, t.length - 1), clamp(Math.floor(((event.clientY - top) / height) * heads), 0, heads - 1)];
  }
  function pressRun(event) {
    const way = STEPS[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    lab.set({ step: lab.step + way[1], head: way[0] ? (lab.head === "mean" ? 0 : clamp(lab.head + way[0], 0, lab.run.heads - 1)) : lab.head });
  }

  // Together ----------------------------------------------------------------------------------------------------------
  function build() {
    const blocked = !ready();
    [seen, counted, whole, there, measuring] = [null, null, null, null, null];
    for (const name of ["told", "counted", "readout"]) tell(name, "");
    find("body").hidden = find("what").hidden = blocked;
    find("why").hidden = !blocked;
    find("why").textContent = !lab.run ? "Sample a picture first, then click a patch of it." : !data || data.run !== lab.run.id ? "…" : data.why;
    if (blocked) return;
    const crossed = data.kinds.includes("cross"), there_ = Object.keys(LOOKS).filter((name) => data.joins || crossed || !["time", "label"].includes(name));
    const named = (name) => (name === "label" && !lab.run.classes ? LOOKS[name][0].replace("class", "label") : LOOKS[name][0]) + (crossed && ["time", "label"].includes(name) ? " (cross-attention)" : "");
    lab.fill(find("look"), there_.map((name) => [name, named(name)]));
    lab.fill(find("block"), lab.blockChoices());
    lab.fill(find("head"), [["mean", "mean over heads"], ...Array.from({ length: lab.run.heads }, (_, head) => [head, "head " + head])]);
    lab.fill(find("measure"), measures());
    buildGlance();
    choosers();
    draw();
    drawNumbers();
    follow();
  }
  function choosers() {
    find("block").value = lab.block;
    find("head").value = lab.head;
    find("head").disabled = look() === "rollout";
    find("meaning").textContent = LOOKS[look()][1];
    find("rolled").hidden = look() !== "rollout";
    find("passes").hidden = lab.run.halves.length < 2 || !labelled();
    const passes = lab.run.halves.map((half) => [half, passName(half).replace("the pass ", "")]);
    if ([...find("half").options].map((each) => each.text).join() !== passes.map(([, name]) => name).join()) lab.fill(find("half"), passes);
    find("half").value = lab.half;
    find("pass").textContent = lab.run.guided[lab.step] ? (lab.half === "cond" && lab.run.options.cfg_scale === 0 ? "guidance 0 leaves it no weight" : "one of the two that guidance mixes")
      : lab.half === "cond" ? "the only one of this step" : "not made in this step's sampling, only for this look";
  }
  const changedBy = {
    look: () => {}, view: () => {}, through: () => {},
    block: () => lab.set({ block: Number(find("block").value) }), half: () => lab.set({ half: find("half").value }),
    head: () => lab.set({ head: find("head").value === "mean" ? "mean" : Number(find("head").value) }),
  };
  for (const [name, change] of Object.entries(changedBy)) find(name).addEventListener(name === "through" ? "input" : "change", () => {
    there = null;
    change();
    choosers();
    draw();
    if (name === "look") follow();
  });
  find("measure").addEventListener("change", drawNumbers);
  find("measure-all").addEventListener("click", measureAll);
  for (const name of ["picture", "map"]) {
    stacks[name].addEventListener("pointermove", (event) => point(event, stacks[name]));
    stacks[name].addEventListener("pointerleave", () => point(null));
    stacks[name].addEventListener("blur", () => point(null));
    stacks[name].addEventListener("click", (event) => ready() && choose(event, stacks[name]));
    stacks[name].addEventListener("keydown", press);
  }
  find("glance").addEventListener("keydown", pressGlance);
  find("glance").addEventListener("click", ({ target }) => target.dataset.cellBlock && lab.set({ block: Number(target.dataset.cellBlock), head: Number(target.dataset.cellHead) }));
  for (const kind of ["pointerover", "focusin"]) find("glance").addEventListener(kind, ({ target }) => target.dataset.cellBlock && cellTold(target));
  find("glance").addEventListener("pointerleave", () => ready() && cellTold());
  stacks.run.addEventListener("keydown", pressRun);
  stacks.run.addEventListener("pointermove", (event) => runTold(...runPlace(event)));
  stacks.run.addEventListener("pointerleave", () => ofRun() && runTold(lab.step, lab.head));
  stacks.run.addEventListener("click", (event) => {
    const [step, head] = runPlace(event);
    lab.set({ step, head });
  });

  const off = lab.on((changed) => {
    if (changed.has("run")) return build();
    if (!ready()) return;
    if (!["step", "sample", "patch", "block", "head", "half", "frames"].some((name) => changed.has(name))) return;
    there = null;
    choosers();
    draw();
    if (!changed.has("patch") || changed.size > 1) drawNumbers();
    follow();
  });
  // The numbers cost a forward a step: they are asked for once the panel is on the screen, or nearly so.
  const sight = lab.near(find("glance").parentElement, () => followNumbers(), "50% 0px");
  // How tokens are outlined depends on their size.
  const resized = new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    width = contentRect.width;
    requestAnimationFrame(draw);
  });
  resized.observe(element);
  build();
  return {
    update(next) {
      data = next;
      build();
    },
    destroy() {
      off();
      sight.stop();
      resized.disconnect();
    },
  };
}
