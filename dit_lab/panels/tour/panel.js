// The guided tour: one short step at a time, which sets the page to what it speaks of.
const FRAME = `
  <section class="lab-card lab-tour-card" aria-label="Guided tour">
    <div class="lab-tour-head">
      <h2 data-title></h2><span data-count></span>
      <button type="button" data-close aria-label="Close the tour">×</button>
    </div>
    <p data-text aria-live="polite"></p>
    <div class="lab-tour-foot">
      <button type="button" data-back>Back</button>
      <div class="lab-tour-dots" data-dots></div>
      <button type="button" data-next class="lab-main">Next</button>
    </div>
  </section>`;

export function mount({ element, data, lab }) {
  element.innerHTML = FRAME;
  const find = (name) => element.querySelector("[data-" + name + "]"), { make } = lab;
  let at = 0, lit = null;

  // ---- Which steps and texts fit what is open
  const same = (a, b) => (b && typeof b === "object" && !Array.isArray(b) ? Object.keys(b).every((name) => same(a?.[name], b[name])) : JSON.stringify(a ?? null) === JSON.stringify(b));
  const fits = (when = {}) => Object.entries(when).every(([name, wanted]) => {
    const run = lab.run;
    if (!run) return false;
    if (name === "opening") return same(run, data.opening) === wanted;
    if (name === "block") return wanted.includes(run.block);
    if (name === "classes") return (run.classes > 0 && run.halves.length > 1) === wanted;
    return (run.stages.length > 1 ? "many" : "one") === wanted; // stages
  });
  const steps = () => (data?.steps || []).filter((step) => fits(step.when));
  const told = (step) => step.texts.find((text) => fits(text.when));

  // ---- Prose: {{term}} and {{term|word}} are explained words, {rows} and others numbers of the run
  const number = (name) => {
    const { grid: [rows, columns], depth, heads, t } = lab.run || { grid: ["…", "…"], t: ["…"] };
    return { rows, columns, tokens: rows * columns || "…", depth, heads, steps: t.length }[name] ?? "…";
  };
  const write = (text) => {
    const nodes = text.split(/(\{\{.*?\}\}|\{\w+\})/).map((piece) => {
      if (!piece.startsWith("{")) return piece;
      if (!piece.startsWith("{{")) return String(number(piece.slice(1, -1)));
      const [key, word] = piece.slice(2, -2).split("|"), node = make("abbr", "", word || key);
      node.dataset.term = key;
      return node;
    });
    find("text").replaceChildren(...nodes);
  };

  // ---- Places: whatever this run does not have is left out
  const share = (value, count) => (typeof value === "string" ? Math.round((parseFloat(value) / 100) * (count - 1)) : Math.min(value, count - 1));
  const placed = (place) => {
    const run = lab.run, found = { ...place };
    if (!run) return "part" in place ? { part: place.part } : {};
    const [rows, columns] = run.grid;
    if ("step" in place) found.step = share(place.step, run.t.length);
    if ("block" in place) found.block = share(place.block, run.depth);
    if (place.patch === "middle") found.patch = Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    if (found.head !== "mean" && found.head >= run.heads) found.head = "mean";
    if ("half" in place && !run.halves.includes(place.half)) delete found.half;
    return found;
  };
  const dim = () => (lit?.classList.remove("lab-tour-lit"), (lit = null));
  const light = (panel) => {
    dim();
    lit = document.getElementById("lab-panel-" + panel) || (panel === "trajectory" ? document.querySelector("[data-trajectory]") : null);
    lit?.classList.add("lab-tour-lit");
  };

  const draw = () => {
    const all = steps();
    at = Math.max(0, Math.min(at, all.length - 1));
    if (!all.length) return;
    find("title").textContent = all[at].title;
    find("count").textContent = "step " + (at + 1) + " of " + all.length;
    write(told(all[at]).text);
    find("back").disabled = at === 0;
    find("next").textContent = at === all.length - 1 ? "Done" : "Next";
    if (find("dots").children.length !== all.length) {
      find("dots").replaceChildren(...all.map((_, i) => {
        const dot = make("button");
        dot.type = "button";
        dot.addEventListener("click", () => go(i));
        return dot;
      }));
    }
    [...find("dots").children].forEach((dot, i) => {
      dot.setAttribute("aria-label", "Step " + (i + 1) + ": " + all[i].title);
      i === at ? dot.setAttribute("aria-current", "step") : dot.removeAttribute("aria-current");
    });
  };
  const go = async (to) => {
    const all = steps();
    if (to >= all.length) {
      at = 0; // whoever opens it again begins again
      draw();
      return close();
    }
    at = Math.max(0, to);
    draw();
    const step = all[at], text = told(step), panel = text.panel || step.panel;
    await lab.show?.(panel);
    if (steps()[at] !== step) return;
    lab.set(placed(text.place));
    light(panel);
  };
  const close = () => {
    dim();
    lab.close ? lab.close() : (element.hidden = true);
  };
  find("back").addEventListener("click", () => go(at - 1));
  find("next").addEventListener("click", () => go(at + 1));
  find("close").addEventListener("click", close);

  const off = lab.on((changed) => changed.has("run") && draw());
  draw();
  go(0);
  return {
    update: (given) => ((data = given ?? data), draw()),
    go,
    destroy: () => (dim(), off()),
  };
}
