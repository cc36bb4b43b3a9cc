lab.owner = "modulation";
const part = find("part"), map = find("map"), meanings = {
  shift: "is added to every token after the norm",
  scale: "stretches every token after the norm",
  gate: "is how much of the branch is let through",
};
let norms = null;
find("gradient").style.background = lab.gradient("viridis");

const title = (name) => {
  const [kind, branch] = name.split("_");
  return kind + (branch ? ", " + (branch === "attn" ? "attention" : branch.toUpperCase()) : "");
};

// Beside the rows: every block's name, or of several stages, each over its rows, the stage's; a line parts them.
const names = (blocks) => {
  const every = Math.ceil(blocks / 14), { stages } = norms;
  find("blocks").replaceChildren(...stages.flatMap((stage) => {
    if (!stage.name) return stage.blocks.map((name, b) => make("span", "", b % every ? "" : name));
    const label = make("span", "lab-stage", stage.name);
    label.style.gridRow = "span " + stage.blocks.length;
    return [label];
  }));
  find("lines").replaceChildren(...stages.slice(1).map(({ first }) => {
    const line = make("b");
    line.style.top = (100 * first) / blocks + "%";
    return line;
  }));
};

const draw = () => {
  if (!norms) return;
  const { shape: [blocks, steps], values } = norms.parts[part.value];
  const top = values.reduce((most, value) => Math.max(most, value), 0);
  [map.width, map.height] = [steps, blocks];
  const context = map.getContext("2d"), pixels = context.createImageData(steps, blocks);
  values.forEach((value, i) => pixels.data.set([...lab.colour("viridis", top ? value / top : 0), 255], 4 * i));
  context.putImageData(pixels, 0, 0);
  map.style.height = Math.max(6, Math.min(26, 320 / blocks)) * blocks + "px";
  names(blocks);
  say("top", top.toPrecision(2));
  say("meaning", meanings[part.value.split("_")[0]] || "");
  step();
};

const value = (b, s) => lab.blockName(norms.stages.findLast((stage) => stage.first <= b), b) + " at " + lab.when(s, norms.t.length, norms.t[s]) + ": " +
  norms.parts[part.value].values[b * norms.t.length + s].toPrecision(3);

const readout = (b, s) => say("readout", b === undefined
  ? "Root mean square over the features. The line is the step of the bar above; click to move it there."
  : value(b, s));

const step = () => {
  if (!norms || !lab.run || lab.run.run !== norms.run) return;
  find("marker").style.left = (100 * (lab.step + 0.5)) / norms.t.length + "%";
};

const show = () => {
  const given = props.value && JSON.parse(JSON.stringify(props.value));
  if (!given) return;
  const names = Object.keys(given.parts);
  find("body").hidden = !names.length;
  say("what", given.reason || "The size of what timestep and class set in every block, over the run.");
  norms = null;
  if (!names.length) return;
  norms = given;
  for (const name of names) norms.parts[name] = lab.unpack(norms.parts[name]);
  const fresh = !part.options.length;
  fill(part, names.map((name) => [name, title(name)]));
  if (fresh && names.includes("gate_attn")) part.value = "gate_attn";
  say("first", "t = " + norms.t[0] + ", noise");
  say("last", "t = " + norms.t[norms.t.length - 1] + ", picture");
  draw();
  readout();
};

const under = (event) => {
  const box = map.getBoundingClientRect();
  const at = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
  return [at((event.clientY - box.top) / box.height, map.height), at((event.clientX - box.left) / box.width, map.width)];
};
part.addEventListener("change", draw);
map.addEventListener("pointermove", (event) => norms && readout(...under(event)));
map.addEventListener("pointerleave", () => norms && readout());
map.addEventListener("click", (event) => norms && lab.go(under(event)[1]));
lab.on("step", step);
lab.on("run", step);
watch("value", show);
show();
