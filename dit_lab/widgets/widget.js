// A panel as an anywidget: the kernel is asked for all that is shown, once a page for what widgets share.
const modules = new Map();
const load = (text) => {
  if (!modules.has(text)) modules.set(text, import(URL.createObjectURL(new Blob([text], { type: "text/javascript" }))));
  return modules.get(text);
};
// What widgets of a page have in common is asked for once: scripts and looks, and a lab a run while it is shown.
const shared = (globalThis.ditLab ??= { parts: new Map(), labs: new Map() });
shared.placed ??= new Set(); // widgets that have shown their place: drawn again, one stays where the others are by now
const PATIENCE = 20000; // milliseconds that a widget waits for what another asked for: that one's kernel may be gone
const once = async (map, key, make) => {
  if (map.has(key)) {
    const late = {}, found = await Promise.race([map.get(key), new Promise((done) => setTimeout(done, PATIENCE, late))]);
    if (found !== late) return found;
  }
  const made = make();
  map.set(key, made);
  made.catch(() => map.get(key) === made && map.delete(key));
  return made;
};

async function render({ model, el }) {
  const view = String(Math.random()), waiting = new Map(); // a model is asked by each of its views
  let asked = 0, gone = false;
  const asking = (question, told) => new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject, told });
    model.send({ id: asked, view, ...question });
  });
  const answered = ({ id, view: whose, answer, error, progress }) => {
    const one = whose === view && waiting.get(id);
    if (!one) return;
    if (progress) return one.told?.(progress);
    waiting.delete(id);
    error === undefined ? one.resolve(answer) : one.reject(new Error(error));
  };
  model.on("msg:custom", answered);
  const fetched = (part) => once(shared.parts, part + " " + model.get("version"), () => asking({ part }));
  const script = async (part) => load(await fetched(part));
  const show = async () => {
    const name = model.get("name"), run = model.get("run"), place = model.get("place"), token = model.get("saved");
    const [{ createLab }, { mount }, { explain }, looks, data] = await Promise.all(
      [script("lab"), script("panel " + name), script("glossary"), fetched("looks " + name), asking({ part: "data" })]);
    const lab = await once(shared.labs, run, async () => {
      const lab = Object.assign(createLab(), { shown: 0 });
      await lab.open(await asking({ part: "run" }), place);
      return lab;
    });
    if (!shared.placed.has(token)) lab.set(place); // whichever of a run's widgets was there first
    shared.placed.add(token);
    const left = () => --lab.shown || shared.labs.delete(run);
    lab.shown++;
    if (gone) return left;
    const root = document.createElement("div"), style = document.createElement("style");
    root.className = "lab-root lab-live-" + token; // the page that the notebook keeps gives way to it
    style.textContent = looks;
    el.replaceChildren(style, root);
    const send = (request, told) => asking({ request }, told), panel = mount({ element: root, data, send, lab });
    explain(root);
    return () => (panel.destroy(), left());
  };
  // Not waited for: an answer may be long in coming, while the kernel has other work.
  const showing = show().catch((error) => void (el.textContent = "The panel could not be shown: " + error.message));
  return async () => {
    gone = true;
    model.off("msg:custom", answered);
    (await showing)?.();
  };
}
export default { render };
