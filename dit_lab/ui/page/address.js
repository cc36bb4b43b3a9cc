// All that a page shows, in its address: `#checkpoint=mnist&labels=7&seed=0&…&step=12&patch=30&panel=attention`.

const SETTINGS = ["checkpoint", "labels", "seed", "steps", "sampler", "cfg_scale", "cfg_channels", "cfg_interval", "eta", "size", "precision"];
const PLACE = ["step", "sample", "patch", "block", "head", "half"];
const TEXTS = new Set(["checkpoint", "sampler", "precision", "head", "half", "seed", "panel"]);

export function write({ settings, place, panel }, push) {
  const told = new URLSearchParams();
  const add = (name, value) => value === null || value === undefined || value === "" || told.set(name, value);
  const listed = (name, list) => list.join(",") + (name === "steps" && list.length === 1 ? "," : ""); // one timestep is no number of steps
  for (const name of SETTINGS) add(name, Array.isArray(settings?.[name]) ? listed(name, settings[name]) : settings?.[name]);
  for (const name of PLACE) add(name, place[name]);
  add("panel", panel);
  if (place.edit) add("edit", JSON.stringify(place.edit));
  const address = "#" + told.toString().replaceAll("%2C", ",");
  if (address === location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

// What an address says: { settings, place, panel }, an edit as part of the place; null where it says nothing. The server
// checks the values.
export function read(hash = location.hash) {
  const told = new URLSearchParams(hash.slice(1));
  if (!told.has("checkpoint")) return null;
  const value = (name) => {
    const text = told.get(name);
    if (text === null) return null;
    const list = () => text.split(",").filter(Boolean).map(Number);
    if (name === "labels" || name === "cfg_interval" || ((name === "size" || name === "steps") && text.includes(","))) return list();
    if (name === "head" && /^\d+$/.test(text)) return Number(text);
    return TEXTS.has(name) ? text : Number(text);
  };
  const pick = (names) => Object.fromEntries(names.map((name) => [name, value(name)]).filter(([, each]) => each !== null));
  let edit = null;
  try {
    edit = JSON.parse(told.get("edit"));
  } catch {}
  return { settings: pick(SETTINGS), place: { ...pick(PLACE), edit }, panel: told.get("panel") };
}
