// The page: a chooser of checkpoints, the settings of a run, the trajectory, and one panel of those that look into it.
// Everything drawn is a panel's; here is who is shown, what is asked of the server, and what the address says.

const FRAME = `
  <div class="lab-app">
    <header class="lab-header">
      <div class="lab-brand"><h1>dit_lab</h1><p>inside a diffusion transformer</p></div>
      <label class="lab-chooser"><span><abbr data-term="checkpoint">Checkpoint</abbr></span> <select data-checkpoint></select></label>
      <p class="lab-facts" data-facts></p>
      <div class="lab-actions">
        <button type="button" data-act="tour">Guided tour</button>
        <button type="button" data-act="link" title="Copy a link that opens the page as it is">Copy link</button>
        <button type="button" data-act="python" title="The Python that makes what is shown">Python</button>
        <button type="button" data-act="open" title="Open a trajectory that a notebook saved">Open run</button>
        <button type="button" data-act="save" title="Save this run for a notebook">Save run</button>
        <input type="file" accept=".safetensors" hidden data-file aria-label="Trajectory file" />
      </div>
      <p class="lab-note" data-note hidden></p>
    </header>
    <div class="lab-tour" data-tour hidden></div>
    <p class="lab-alert" role="alert" data-alert hidden><span></span> <button type="button" aria-label="Dismiss">×</button></p>
    <div class="lab-workbench">
      <aside class="lab-card" data-settings></aside>
      <div class="lab-shown">
        <section data-trajectory></section>
        <div class="lab-tabs" role="tablist" aria-label="Panels"></div>
        <div data-panels></div>
      </div>
    </div>
    <dialog class="lab-card lab-dialog" aria-label="Python for this picture">
      <div class="lab-title"><h2>The Python for this picture</h2></div>
      <pre tabindex="0"><code></code></pre>
      <div class="lab-row"><button type="button" data-copy class="lab-main">Copy</button> <button type="button" data-close>Close</button></div>
    </dialog>
  </div>`;
const COST_WAIT = 300, ADDRESS_WAIT = 250; // milliseconds after the last change
const MOST_BYTES = 32 * 2 ** 20;

export async function start({ element, call, load, first }) {
  const [{ createLab }, { createSession, Lost }, { createSettings }, address, glossary] = await Promise.all(
    ["lab", "session", "settings", "address", "glossary"].map(load));
  element.classList.add("lab-root");
  element.innerHTML = FRAME;
  const paint = () => element.classList.toggle("lab-dark", document.body.classList.contains("dark")); // as Gradio says
  new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  paint();
  const find = (name) => element.querySelector("[data-" + name + "]");
  const lab = createLab(), session = createSession(call);
  let about = null, settings = null, run = { job: null, number: 0 };

  // ---- What is said
  const says = (text) => (find("says").textContent = text);
  const alert = (error) => {
    find("alert").hidden = !error;
    find("alert").firstElementChild.textContent = error ? error.message || String(error) : "";
  };
  find("alert").lastElementChild.addEventListener("click", () => alert(null));
  const guarded = (work) => async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      alert(error);
    }
  };

  // ---- Panels: each is mounted when it is first shown, and hears of nothing while it is hidden
  const panels = new Map();
  const mounting = async (name, holder) => {
    const one = { name, holder, shown: false, missed: new Set(), listeners: new Set(), run: null, view: null };
    const hears = (listener) => (one.listeners.add(listener), () => one.listeners.delete(listener));
    const mine = Object.create(lab, { on: { value: hears } });
    lab.on((changed) => {
      if (one.shown) for (const listener of [...one.listeners]) listener(changed);
      else for (const each of changed) one.missed.add(each);
    });
    const send = (request, told) => (first.hosted[name] ? hosted[name](request, told) : session.question(lab.run?.id, name, request, told));
    const { mount } = await load("panel:" + name);
    one.view = mount({ element: holder, data: first.hosted[name] ?? null, send, lab: mine });
    one.wake = () => {
      one.shown = true;
      const missed = one.missed;
      one.missed = new Set();
      if (missed.size) for (const listener of [...one.listeners]) listener(missed);
    };
    panels.set(name, one);
    return one;
  };
  const renew = async (one) => {
    const shown = lab.run?.id;
    if (!one.shown || !shown || one.run === shown || first.hosted[one.name]) return;
    one.run = shown;
    try {
      const data = first.data?.[shown]?.[one.name] ?? (await session.question(shown, one.name, null));
      if (lab.run?.id === shown) one.view.update(data);
    } catch (error) {
      one.run = null;
      alert(error);
    }
    glossary.explain(one.holder);
  };
  const tabs = element.querySelector("[role=tablist]");
  const show = async (name, focus = false) => {
    if (!first.panels.some((each) => each.name === name)) return;
    lab.panel = name;
    for (const tab of tabs.children) {
      tab.setAttribute("aria-selected", tab.dataset.panel === name);
      tab.tabIndex = tab.dataset.panel === name ? 0 : -1;
      if (focus && tab.dataset.panel === name) tab.focus();
    }
    for (const one of panels.values()) if (one.name !== "trajectory") [one.shown, one.holder.hidden] = [one.shown && one.name === name, one.name !== name];
    let one = panels.get(name);
    if (!one) {
      const holder = lab.make("section");
      Object.assign(holder, { id: "lab-panel-" + name });
      holder.setAttribute("role", "tabpanel");
      holder.setAttribute("aria-labelledby", "lab-tab-" + name);
      find("panels").append(holder);
      one = await mounting(name, holder);
    }
    if (lab.panel !== name) return void (one.holder.hidden = true);
    one.holder.hidden = false;
    one.wake();
    remember();
    await renew(one);
  };
  lab.show = show;
  tabs.append(...first.panels.map(({ name, title }) => {
    const tab = lab.make("button", "", title);
    Object.assign(tab, { type: "button", id: "lab-tab-" + name });
    tab.dataset.panel = name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "lab-panel-" + name);
    tab.addEventListener("click", guarded(() => show(name)));
    return tab;
  }));
  tabs.addEventListener("keydown", (event) => {
    const names = first.panels.map(({ name }) => name), way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    guarded(show)(names[(names.indexOf(lab.panel) + way + names.length) % names.length], true);
  });

  // ---- A run
  const trajectory = await mounting("trajectory", find("trajectory"));
  trajectory.shown = true;
  const sample = async (place) => {
    alert(null);
    const mine = ++run.number, wanted = form.read();
    form.running(true);
    form.close();
    says("Asking for a run …");
    try {
      const { job } = await session.ask("start", { settings: wanted });
      if (mine !== run.number) return void session.ask("stop", { job }).catch(() => {});
      run.job = job;
      const end = await session.follow(job, (state) => {
        if (state.state === "queued") says("Waiting for the model: " + state.ahead + " before this run.");
        if (state.told) says(state.told[0].toUpperCase() + state.told.slice(1) + " …");
        else if (state.state === "running" && state.step) {
          says("Sampling: step " + state.step + " of " + state.steps + (state.left == null ? "" : ", " + roughly(state.left) + " left"));
          if (state.preview) trajectory.view.update({ kind: "preview", ...state.preview, step: state.step - 1, steps: state.steps, t: state.t, left: state.left });
        }
      }, () => mine === run.number);
      if (!end) return;
      if (end.run) await shown(end.run, place, wanted);
      if (end.state === "stopped") trajectory.view.update({ kind: "stopped", step: end.step, steps: end.steps });
      says(end.state === "stopped" ? "Stopped after step " + (end.step ?? 0) + " of " + (end.steps ?? wanted.steps) + "." : "Done: " + lab.run.title + ".");
      cost();
    } catch (error) {
      if (mine !== run.number) return;
      trajectory.view.update({ kind: "stopped" });
      says("");
      alert(error);
    } finally {
      if (mine === run.number) {
        run.job = null;
        form.running(false);
      }
    }
  };
  const shown = async (opened, place, made) => {
    settings = made ?? settings;
    noted(opened.note);
    await lab.open(opened, place);
    remember(true);
    await Promise.all([...panels.values()].map(renew));
  };
  const stop = guarded(async () => {
    if (!run.number) return;
    if (run.job) return session.ask("stop", { job: run.job });
    session.ask("stop", { job: null }).catch(() => {});
    run.number++; // asked for, and not begun yet
    form.running(false);
    trajectory.view.update({ kind: "stopped" });
    says("Stopped before it began.");
  });

  // ---- Settings, their cost, and the checkpoint they are for
  let costing = null, paced = null;
  const cost = () => {
    clearTimeout(costing);
    costing = setTimeout(async () => {
      try {
        const told = await session.ask("cost", { settings: form.read() });
        form.cost(costs(told));
        find("facts").querySelector("[title=Runs]").textContent = told.runs;
        if (told.seconds !== null || paced === about.name || run.job) return; // a run that is on will tell by itself
        paced = about.name; // once: a step is timed between those of whatever run is on
        await session.answered(await session.ask("pace", { checkpoint: paced }));
        cost();
      } catch (error) {
        form.cost(error instanceof Lost ? "" : error.message);
      }
    }, COST_WAIT);
  };
  const form = createSettings({ element: find("settings"), lab, sample: guarded(() => sample()), stop, changed: cost });
  for (const place of [element.querySelector(".lab-chooser"), find("settings")]) glossary.explain(place);
  // What the reader should know of the checkpoint, its pictures, and the run that is shown.
  const noted = (ofRun) => {
    const notes = [about?.note, about?.codecNote, ofRun].filter(Boolean).join(" ");
    [find("note").hidden, find("note").textContent] = [!notes, notes];
  };
  const introduce = (told, chosen) => {
    about = told;
    form.fill(about, chosen);
    find("facts").replaceChildren(...about.facts.map(({ name, text }) => Object.assign(lab.make("span", "", text), { title: name })));
    noted("");
    find("checkpoint").value = about.name;
    for (const one of panels.values()) one.view.about?.(told);
    cost();
  };
  const offer = (checkpoints) => lab.fill(find("checkpoint"), checkpoints.map(({ name, title, group }) => [name, title, group]));
  offer(first.checkpoints);
  const choose = async (name, chosen, place) => {
    const mine = ++run.number;
    alert(null);
    says("Opening " + name + " …");
    if (run.job) session.ask("stop", { job: run.job }).catch(() => {});
    let told = await session.ask("about", { checkpoint: name });
    if (told.job) told = (await session.follow(told.job, (state) => state.ahead && says("Opening " + name + ", after " + state.ahead + " …"))).about;
    if (mine !== run.number) return;
    introduce(told, chosen);
    says("");
    if (told.first && !chosen) await shown(told.first, place, form.read());
    else await sample(place);
  };
  find("checkpoint").addEventListener("change", guarded(() => choose(find("checkpoint").value)));

  // ---- The address, and what is taken away
  let remembering = null;
  const remember = (push = false) => {
    clearTimeout(remembering);
    const write = () => lab.run && settings && address.write({
      settings, panel: lab.panel,
      place: { step: lab.step, sample: lab.sample, patch: lab.patch, block: lab.block, head: lab.head, half: lab.half, edit: lab.edit },
    }, push);
    push ? write() : (remembering = setTimeout(write, ADDRESS_WAIT));
  };
  lab.on((changed) => changed.has("run") || remember());
  const go = guarded(async () => {
    const told = address.read();
    if (!told) return;
    if (told.panel) guarded(show)(told.panel);
    const same = settings && Object.entries(told.settings).every(([name, value]) => String(settings[name] ?? "") === String(value));
    if (same) return lab.set(told.place);
    await (about?.name === told.settings.checkpoint ? (form.fill(about, told.settings), sample(told.place)) : choose(told.settings.checkpoint, told.settings, told.place));
  });
  addEventListener("popstate", go);

  const dialog = element.querySelector("dialog");
  const copy = async (text, told) => {
    try {
      await navigator.clipboard.writeText(text);
      says(told);
    } catch {
      says("Copying is not allowed here: it stands in the address bar, or select it by hand.");
    }
  };
  const acts = {
    tour: () => tour(),
    link: () => (remember(true), copy(location.href, "The link is copied: it opens this page as it is.")),
    python: async () => {
      const { step, sample: focus, patch, block, head, half } = lab;
      const { text } = await session.ask("python", { run: lab.run?.id ?? null, place: { step, sample: focus, patch, block, head, half } });
      dialog.querySelector("code").textContent = text;
      dialog.showModal();
    },
    open: () => find("file").click(),
    save: async () => {
      const { name, mime, data } = await session.ask("save", { run: lab.run?.id ?? null });
      lab.hand(name, "data:" + mime + ";base64," + data);
    },
  };
  for (const button of element.querySelectorAll("[data-act]")) button.addEventListener("click", guarded(acts[button.dataset.act]));
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.querySelector("[data-copy]").addEventListener("click", () => copy(dialog.querySelector("code").textContent, "Copied."));
  find("file").addEventListener("change", guarded(async () => {
    const [file] = find("file").files;
    find("file").value = "";
    if (!file) return;
    if (file.size > MOST_BYTES) throw new Error(file.name + " is larger than 32 MB, the most that the app takes: open it in a notebook.");
    says("Opening " + file.name + " …");
    const data = await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
      reader.readAsDataURL(file);
    });
    let told = await session.ask("open", { name: file.name, data });
    if (told.job) told = await session.follow(told.job);
    if (told.about) introduce(told.about, told.settings);
    await shown(told.run, {}, told.settings);
    says("Opened " + file.name + ".");
  }));

  // ---- Training: its panel talks of jobs, not of a run
  const hosted = {
    training: async (request) => {
      const reply = await session.ask("train", request), tell = (state) => panels.get("training").view.update(state);
      if (reply.job && !request.start) return session.answered(reply);
      if (reply.job) {
        const hear = (state) => {
          if (state.state === "queued") tell({ state: "queued", told: "Waiting for the model: " + state.ahead + " before it." });
          if (state.news) tell(state.news);
        };
        session.follow(reply.job, hear).catch((error) => tell({ state: "failed", told: error.message }));
      }
      const answer = reply.answer ?? reply;
      if (answer.checkpoints) offer(answer.checkpoints);
      return answer;
    },
  };

  // ---- The guided tour
  let guide = null;
  const tour = guarded(async () => {
    const open = find("tour").hidden;
    find("tour").hidden = !open;
    if (open && !guide) {
      const { mount } = await load("panel:tour");
      guide = mount({ element: find("tour"), data: first.tour, send: null, lab: Object.assign(Object.create(lab), { close: tour }) });
      glossary.explain(find("tour"));
    }
  });

  // ---- Keys: arrows step, space plays, wherever nothing else wants them
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, button, summary, [contenteditable], [role=listbox], [role=application], dialog");
    if (typing || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !lab.run) return;
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way) lab.set({ step: lab.step + way });
    else if (event.key === " ") find("trajectory").querySelector("[data-play]")?.click();
    else return;
    event.preventDefault();
  });
  // On a phone what a tap shows is below: it comes into sight.
  lab.on((changed) => {
    if (!changed.has("patch") || changed.has("run") || lab.patch === null || innerWidth > 760 || !("ready" in element.dataset)) return;
    if (lab.panel !== "attention" && lab.panel !== "contributions") show("attention");
    tabs.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  });

  addEventListener("pagehide", () => session.ask("bye").catch(() => {}));
  introduce(first.about);
  if (first.run) {
    settings = form.read();
    await lab.open(first.run, first.place ?? {});
    await renew(trajectory);
  }
  const told = address.read();
  await show(told?.panel && first.panels.some(({ name }) => name === told.panel) ? told.panel : first.panels[0].name);
  if (told) await go();
  else if (!first.run) await guarded(sample)();
  element.dataset.ready = "";
}

const roughly = (count) => (count < 1 ? "under a second" : "about " + (count < 90 ? Math.round(count) + " s" : Math.round(count / 60) + " min"));
const bytes = (count) => (count < 1e6 ? Math.ceil(count / 1e3) + " kB" : count < 1e9 ? Math.round(count / 1e6) + " MB" : (count / 1e9).toFixed(1) + " GB");
const macs = (count) => (count < 1e9 ? (count / 1e6).toPrecision(3) + " MMACs" : (count / 1e9).toPrecision(3) + " GMACs");
const costs = (told) => {
  const time = told.seconds == null ? "a step is being timed" : roughly(told.seconds);
  return told.passes + " passes of " + macs(told.macs) + ", " + time + ", " + bytes(told.bytes) + " of pictures kept.";
};
