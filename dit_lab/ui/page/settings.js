// The settings of a run: a form that is made for the checkpoint that is chosen, and what it says.

const MOST = 16;
const FORM = `
  <form class="lab-settings" aria-label="Settings of a run" novalidate>
    <div class="lab-fields">
      <label data-of="labels">Class <input data-name="label" list="lab-classes" autocomplete="off" spellcheck="false" /><small data-class-note></small></label>
      <datalist id="lab-classes"></datalist>
      <div class="lab-two">
        <label>Pictures <input data-name="count" type="number" min="1" max="${MOST}" step="1" /><small>1 to ${MOST}, of other noise</small></label>
        <label>Seed <span class="lab-with"><input data-name="seed" inputmode="numeric" autocomplete="off" /><button type="button" data-dice title="Another seed" aria-label="Another seed">⟳</button></span><small>same seed, same noise</small></label>
      </div>
      <label class="lab-check" data-of="each"><input data-name="each" type="checkbox" /> <span>a class each, from this one on</span></label>
      <label><span><abbr data-term="quality">Quality</abbr></span> <select data-name="quality"></select></label>
      <div class="lab-two">
        <label><span><abbr data-term="sampler">Sampler</abbr></span> <select data-name="sampler"></select><small data-sampler-note></small></label>
        <label>Steps <input data-name="steps" type="number" min="1" max="1000" step="1" /><small data-steps-note></small></label>
      </div>
      <label data-of="guidance"><span><abbr data-term="guidance">Guidance</abbr></span> <input data-name="cfg_scale" type="number" min="0" max="20" step="0.5" /><small>1: none. Higher follows the class more, at two passes a step.</small></label>
      <details>
        <summary>More settings</summary>
        <div class="lab-two" data-of="guidance">
          <label>Guided channels <input data-name="cfg_channels" type="number" min="1" step="1" placeholder="all" /><small>the first so many</small></label>
          <label>Guided from, to <span class="lab-with"><input data-name="low" type="number" placeholder="0" aria-label="Guided from timestep" /><input data-name="high" type="number" placeholder="1000" aria-label="Guided to timestep" /></span><small>timesteps; empty: all</small></label>
        </div>
        <div class="lab-two">
          <label data-of="eta"><span><abbr data-term="eta">Eta</abbr></span> <input data-name="eta" type="number" min="0" max="1" step="0.1" /><small>DDIM's fresh noise, 0 to 1</small></label>
          <label data-of="size">Size <input data-name="size" type="number" min="1" step="1" /><small data-size-note></small></label>
        </div>
        <label>Precision <select data-name="precision"></select><small>of sampling; looks run in fp32</small></label>
      </details>
      <p class="lab-cost" data-cost role="status"></p>
    </div>
    <div class="lab-run">
      <button type="submit" class="lab-main" data-sample>Sample</button>
      <button type="button" data-stop disabled>Stop</button>
      <button type="button" class="lab-more" data-more aria-expanded="false">Settings</button>
      <p class="lab-says" role="status" data-says></p>
    </div>
  </form>`;

export function createSettings({ element, lab, sample, stop, changed }) {
  element.innerHTML = FORM;
  const form = element.firstElementChild;
  const field = Object.fromEntries([...form.querySelectorAll("[data-name]")].map((node) => [node.dataset.name, node]));
  const find = (name) => form.querySelector("[data-" + name + "]");
  const shown = (of, there) => form.querySelectorAll(`[data-of="${of}"]`).forEach((node) => (node.hidden = !there));
  let about = null, timesteps = null; // those that a checkpoint or a run has of its own: with a sampler, instead of even ones

  const className = (label) => (label === about.classes.length ? "no class" : about.classes[label] ?? String(label));
  const said = (label) => (className(label) === String(label) ? String(label) : className(label) + " (" + label + ")");
  // The label of what was typed: a number, a name, or "name (number)"; undefined where there is none.
  const labelOf = (text) => {
    const plain = text.trim().toLowerCase(), number = plain.match(/^(?:.*\()?(\d+)\)?$/);
    if (number && Number(number[1]) <= about.classes.length) return Number(number[1]);
    if (plain === "no class") return about.classes.length;
    const exact = about.classes.findIndex((name) => name.toLowerCase() === plain);
    if (exact >= 0) return exact;
    const near = about.classes.findIndex((name) => plain && name.toLowerCase().includes(plain));
    return near >= 0 ? near : undefined;
  };
  const numberOf = (name) => (field[name].value.trim() === "" ? null : Number(field[name].value));

  const own = () => timesteps && timesteps.sampler === field.sampler.value && timesteps.steps.length === numberOf("steps");
  const steps = () => (own() ? timesteps.steps : numberOf("steps"));
  // Sampler and steps of a quality or of a run; the steps may be timesteps.
  const take = (way) => {
    field.sampler.value = way.sampler;
    timesteps = Array.isArray(way.steps) ? way : null;
    field.steps.value = timesteps ? way.steps.length : way.steps ?? "";
  };
  const rounded = (t) => String(Number(Number(t).toPrecision(4)));

  const notes = () => {
    find("steps-note").textContent = own() ? "at timesteps " + timesteps.steps.slice(0, 8).map(rounded).join(", ") + (timesteps.steps.length > 8 ? " …" : "") : "even, from noise to picture";
    const named = about.qualities.find((each) => each.sampler === field.sampler.value && String(each.steps) === String(steps()));
    field.quality.value = named ? named.name : "";
    const chosen = about.samplers.find((each) => each.name === field.sampler.value);
    const word = lab.make("abbr", "", chosen?.title);
    word.dataset.term = chosen?.name;
    find("sampler-note").replaceChildren(...(chosen ? [word, ": " + (chosen.fresh ? "fresh noise" : "no fresh noise") + (chosen.passes > 1 ? ", two passes a step" : "")] : []));
    shown("eta", about.etaSamplers.includes(field.sampler.value));
    if (!about.classes.length) return;
    const label = labelOf(field.label.value);
    find("class-note").textContent = label === undefined ? "no class is called that" : said(label) === field.label.value ? "" : "→ " + said(label);
    shown("each", Number(field.count.value) > 1);
  };

  // Fill the form for a checkpoint; `settings` go over its defaults.
  const fill = (told, settings = {}) => {
    about = told;
    const first = { ...about.defaults, ...settings }, labels = first.labels || [0];
    const classes = about.classes.length > 0;
    shown("labels", classes);
    shown("each", classes && labels.length > 1);
    shown("guidance", about.guidable);
    shown("size", Boolean(about.sizes));
    form.querySelector("datalist").replaceChildren(...about.classes.map((_, label) => Object.assign(document.createElement("option"), { value: said(label) })),
      ...(about.guidable ? [Object.assign(document.createElement("option"), { value: said(about.classes.length) })] : []));
    lab.fill(field.sampler, about.samplers.map(({ name, title }) => [name, title]));
    lab.fill(field.quality, [...about.qualities.map(({ name, title }) => [name, title]), ["", "as set below"]]);
    field.quality.lastElementChild.disabled = true; // it says how things are, and is nothing to choose
    lab.fill(field.precision, about.precisions.map((name) => [name, name]));
    field.label.value = classes ? said(labels[0]) : "";
    field.count.value = labels.length;
    field.each.checked = new Set(labels).size > 1;
    for (const name of ["seed", "cfg_scale", "cfg_channels", "eta", "size", "precision"]) field[name].value = first[name] ?? "";
    take(first);
    [field.low.value, field.high.value] = first.cfg_interval ?? ["", ""];
    if (about.sizes) find("size-note").textContent = "side; trained at " + about.sizes.trained;
    notes();
  };

  // What the form says, for the server, which checks it; throws where a class is not there.
  const read = () => {
    const label = about.classes.length ? labelOf(field.label.value) : 0;
    if (label === undefined) throw new Error("No class is called “" + field.label.value + "”: type a part of a name, or a number.");
    const count = Number(field.count.value), last = about.classes.length;
    const labels = Array.from({ length: Math.max(1, Math.min(count || 0, 99)) }, (_, i) => (field.each.checked && count > 1 && label < last ? (label + i) % last : label));
    const interval = [numberOf("low"), numberOf("high")];
    return {
      checkpoint: about.name, labels, seed: field.seed.value.trim(), steps: steps(), sampler: field.sampler.value,
      cfg_scale: about.guidable ? numberOf("cfg_scale") : 1, cfg_channels: about.guidable ? numberOf("cfg_channels") : null,
      cfg_interval: interval.some((end) => end !== null) && about.guidable ? [interval[0] ?? 0, interval[1] ?? 1000] : null,
      eta: about.etaSamplers.includes(field.sampler.value) ? numberOf("eta") ?? 0 : 0,
      size: about.sizes ? numberOf("size") : null, precision: field.precision.value,
    };
  };

  form.addEventListener("submit", (event) => (event.preventDefault(), sample()));
  form.addEventListener("input", ({ target }) => {
    if (target === field.quality) take(about.qualities.find((each) => each.name === target.value));
    notes();
    changed();
  });
  find("stop").addEventListener("click", stop);
  find("dice").addEventListener("click", () => {
    field.seed.value = String(Math.floor(Math.random() * 1e6));
    changed();
  });
  find("more").addEventListener("click", () => {
    const open = form.classList.toggle("lab-open");
    find("more").setAttribute("aria-expanded", open);
    find("more").textContent = open ? "Close" : "Settings";
  });
  return {
    fill, read,
    cost: (text) => (find("cost").textContent = text),
    running: (now) => {
      find("stop").disabled = !now;
      find("sample").textContent = now ? "Sample anew" : "Sample";
    },
    close: () => form.classList.contains("lab-open") && find("more").click(),
  };
}
