// What the panels of a page share: the run that is shown and the place that is looked at, and how things are drawn.
// A host makes one lab a page, `createLab()`, and hands it to every panel's `mount({ element, data, send, lab })`.

// Perceptually even, safe for colour-blind eyes (stops of matplotlib's inferno and viridis).
const MAPS = {
  inferno: [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]],
  viridis: [[68, 1, 84], [70, 50, 127], [54, 92, 141], [39, 127, 142], [31, 161, 135], [74, 194, 109], [159, 218, 58], [253, 231, 37]],
  // For what has a sign: blue below 0, orange above, white in the middle; the one of `inside.plots`.
  signed: [[0, 48, 77], [0, 114, 178], [247, 247, 247], [213, 94, 0], [92, 38, 0]],
};
const REMEMBERED = 200; // answers a panel keeps, so that a repeated look asks nobody

export function createLab(live = true) {
  const listeners = new Set();
  const lab = {
    live, // whether there is a model behind `send`; a saved page has none
    run: null, // what `Opened.run` made: { id, t, grid, stages, heads, labels, frames, … }
    step: 0,
    sample: 0, // which picture of a batch is in focus
    patch: null, // a token of the finest grid, row by row; null: none chosen
    block: 0,
    head: "mean", // a number, or "mean"
    half: "cond", // of guidance: "cond" or "uncond"
    edit: null, // what "What if" was asked last of this run, as its request

    // Change what is shown, `set({ step: 3 })`; listeners are told once, which names changed.
    set(changes) {
      const next = { ...changes };
      if ("step" in next) next.step = clamp(next.step, 0, (next.run || lab.run)?.t.length - 1 || 0);
      const changed = new Set(Object.keys(next).filter((name) => next[name] !== lab[name]));
      Object.assign(lab, next);
      if (changed.size) for (const listener of [...listeners]) listener(changed);
    },
    // `on((changed) => …)`, a Set of names; gives what takes the listener away again.
    on(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    // Show another run: its pictures are decoded first, so that no frame is empty.
    async open(run, place = {}) {
      run = { ...run, images: {} };
      await Promise.all(Object.keys(run.frames).map((sample) => lab.decode(run, sample)));
      const same = lab.run && String(lab.run.grid) === String(run.grid);
      lab.set({
        run, step: run.t.length - 1, sample: 0, block: Math.min(lab.block, run.depth - 1),
        head: lab.head === "mean" || lab.head < run.heads ? lab.head : "mean",
        half: run.halves.includes(lab.half) ? lab.half : "cond",
        patch: same ? lab.patch : null, edit: null, ...place,
      });
    },
    // Add the frames of another sample of the shown run: `{ x: atlas, x0: atlas, … }`.
    async addFrames(sample, frames) {
      const run = lab.run;
      run.frames[sample] = frames;
      await lab.decode(run, sample);
      if (lab.run === run) for (const listener of [...listeners]) listener(new Set(["frames"]));
    },
    async decode(run, sample) {
      run.images[sample] = {};
      await Promise.all(Object.entries(run.frames[sample]).map(async ([kind, atlas]) => {
        const image = Object.assign(new Image(), { src: atlas.uri });
        await image.decode();
        run.images[sample][kind] = image;
      }));
    },
    // Draw a frame of "x", "x0", "eps", … of the sample in focus, at its own size or into width x height; false: none.
    draw(kind, step, canvas, width, height, sample = lab.sample) {
      const atlas = lab.run?.frames[sample]?.[kind], image = lab.run?.images[sample]?.[kind];
      if (!image) return false;
      const w = atlas.width, h = atlas.height;
      canvas.width = width || w;
      canvas.height = height || h;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = w > 64;
      const left = (step % atlas.columns) * w, top = Math.floor(step / atlas.columns) * h;
      context.drawImage(image, left, top, w, h, 0, 0, canvas.width, canvas.height);
      return true;
    },

    // `latest(send)` asks only for what is wanted still: while one request is out, of those that follow the last alone
    // goes. `ask(request)` gives the answer, or undefined where another took its place; errors reject. What was
    // answered once is answered from memory.
    latest(send) {
      const known = new Map();
      let out = false, next = null;
      const run = async ({ request, key, resolve, reject }) => {
        out = true;
        try {
          const answer = await send(request);
          known.set(key, answer);
          if (known.size > REMEMBERED) known.delete(known.keys().next().value);
          resolve(next && next.key !== key ? undefined : answer);
        } catch (error) {
          next && next.key !== key ? resolve(undefined) : reject(error);
        }
        out = false;
        if (next) {
          const waiting = next;
          next = null;
          known.has(waiting.key) ? waiting.resolve(known.get(waiting.key)) : run(waiting);
        }
      };
      return (request) => new Promise((resolve, reject) => {
        const asked = { request, key: JSON.stringify([lab.run?.id, request]), resolve, reject };
        next?.resolve(undefined);
        next = null;
        if (known.has(asked.key)) resolve(known.get(asked.key));
        else if (out) next = asked;
        else run(asked);
      });
    },

    // While an answer is on its way, a button behind its progress bar that stops it, where the host can; another run
    // stops it too. Gives what `send` gave.
    stoppable(bar, asking) {
      if (!asking.stop) return asking;
      const button = lab.make("button", "lab-stop", "Stop");
      Object.assign(button, { type: "button", onclick: () => ((button.disabled = true), asking.stop()) });
      bar.after(button);
      const off = lab.on((changed) => changed.has("run") && asking.stop());
      return asking.finally(() => (off(), button.remove()));
    },

    // Questions that take a while, one of a panel at a time: `ask(request, { bar, tell, show })` says how far it is and
    // how long it takes still, hands the answer to `show`, which gives the sentence to end with, and forgets what is
    // out where another is asked, the run changes or `drop()` says so. `changed` is called where `busy` changes.
    questions(send, changed) {
      let last = 0;
      const questions = { busy: false, ask, drop: () => ((questions.busy = false), ++last) };
      async function ask(request, { bar, tell, show }) {
        const mine = ++last, run = lab.run.id, begun = performance.now(), wanted = () => mine === last && run === lab.run?.id;
        questions.busy = true;
        changed();
        tell("Asked; waiting for the model …");
        const told = ({ done, total, told }) => {
          if (!wanted()) return;
          Object.assign(bar, { hidden: false, max: total, value: done });
          const left = ((performance.now() - begun) / 1000 / done) * (total - done);
          tell(told[0].toUpperCase() + told.slice(1) + (done && done < total ? ", about " + lab.time(left) + " left" : ""));
        };
        try {
          const answer = await lab.stoppable(bar, send(request, told));
          const said = wanted() && (await show(answer));
          if (wanted()) tell(said);
        } catch (error) {
          if (wanted()) tell(error.message, error.name !== "AbortError");
        } finally {
          if (mine === last) {
            questions.busy = false;
            bar.hidden = true;
            changed();
          }
        }
      }
      return questions;
    },

    // Looks over a whole run, one function for a panel: `look(request, words, needs, light)` gives an answer that is there.
    // Else it is asked for at once where it is light, or by the button `start`, which says the words; `bar` and `tell`
    // show how far it is, and `redraw` is called when there is news.
    lengthy({ send, start, bar, tell, redraw }) {
      const long = new Map();
      const begin = (key, request) => {
        const mine = { busy: true, told: "Asked; waiting for the model …" };
        long.set(key, mine);
        lab.stoppable(bar, send(request, ({ done, total, told }) => (Object.assign(mine, { done, total, told: told + " …" }), redraw())))
          .then((answer) => Object.assign(mine, { answer, busy: false }), (error) => Object.assign(mine, { busy: false, error: error.message, wrong: error.name !== "AbortError" }))
          .then(redraw);
      };
      const look = (request, words, needs, light) => {
        const key = JSON.stringify([lab.run.id, request]), state = long.get(key) || {};
        if (!long.has(key) && (light || !lab.live)) return begin(key, request), look(request, words, needs, light);
        Object.assign(start, { hidden: Boolean(state.busy || state.answer) || (!lab.live && Boolean(state.error)), textContent: words, onclick: () => (begin(key, request), redraw()) });
        bar.hidden = !state.busy || !state.total;
        if (!bar.hidden) Object.assign(bar, { max: state.total, value: state.done });
        tell(state.busy ? state.told : state.error || (state.answer ? "" : needs), Boolean(state.wrong));
        return state.answer;
      };
      return look;
    },

    // The fp32 numbers that Python packed: { shape, values }.
    unpack(packed) {
      const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
      return { shape: Array.from(packed.shape), values: new Float32Array(bytes.buffer) };
    },
    maps: MAPS,
    // A colour of a map at 0 to 1: [r, g, b].
    colour(map, value) {
      const stops = MAPS[map];
      const place = clamp(value || 0, 0, 1) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      return stops[low].map((c, i) => Math.round(c + (place - low) * (stops[low + 1][i] - c)));
    },
    gradient: (map) => "linear-gradient(to right, " + MAPS[map].map((c) => "rgb(" + c + ")").join(", ") + ")",

    // "encoder 1, block 2, pair b"; the stage has no name where there is only one.
    stageOf: (block) => lab.run.stages.findLast((stage) => stage.first <= block),
    blockName(block) {
      const stage = lab.stageOf(block);
      return (stage.name ? stage.name + ", " : "") + stage.blocks[block - stage.first];
    },
    // Seconds in words: "12 s", "3 min".
    time: (seconds) => (seconds < 90 ? Math.max(1, Math.round(seconds)) + " s" : Math.round(seconds / 60) + " min"),
    percent: (value) => (100 * value).toFixed(value < 0.0995 ? 1 : 0) + " %",
    // "step 13 of 50, t = 741"
    when: (step = lab.step) => "step " + (step + 1) + " of " + lab.run.t.length + ", t = " + lab.run.t[step],
    // "row 3, column 5", counted from 0, of a token of a grid.
    place: (token, [, columns] = lab.run.grid) => "row " + Math.floor(token / columns) + ", column " + (token % columns),

    // Tell whenever an element comes near the screen: `const seen = lab.near(element, came)`, then seen.now, seen.stop().
    near(element, came, margin = "300px") {
      const seen = { now: false, stop: () => watching.disconnect() };
      const watching = new IntersectionObserver(([entry]) => {
        const before = seen.now;
        seen.now = entry.isIntersecting;
        if (seen.now && !before) came();
      }, { rootMargin: margin });
      watching.observe(element);
      return seen;
    },
    // Hand a file to the reader: its name, and an address, such as a data URI.
    hand: (name, href) => Object.assign(document.createElement("a"), { href, download: name }).click(),

    // DOM in few words: a new element, its text never read as HTML.
    make(tag, className, text) {
      const node = document.createElement(tag);
      if (className) node.className = className;
      if (text !== undefined) node.textContent = text;
      return node;
    },
    // Fill a <select> with [value, text] or [value, text, group]; what was chosen stays chosen where it can.
    fill(select, choices) {
      const before = select.value, groups = {};
      select.replaceChildren();
      for (const [value, text, group] of choices) {
        if (group) groups[group] ??= select.appendChild(Object.assign(lab.make("optgroup"), { label: group }));
        (groups[group] || select).append(Object.assign(lab.make("option", "", text), { value }));
      }
      if (choices.some(([value]) => String(value) === before)) select.value = before;
    },
    // The block chooser's choices, stage by stage.
    blockChoices: () => lab.run.stages.flatMap((stage) =>
      stage.blocks.map((name, i) => [stage.first + i, name, stage.name || undefined])),
  };
  return lab;
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
