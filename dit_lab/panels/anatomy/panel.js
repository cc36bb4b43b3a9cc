// The loaded model, drawn from its config; each part opens to shapes, einops patterns, cost, code and paper.
const FRAME = `
  <section class="lab-card lab-anatomy" aria-label="Anatomy">
    <div class="lab-title"><h2>Anatomy</h2><p data-title></p></div>
    <p class="lab-told" role="status" data-told></p>
    <div data-body hidden>
      <div class="lab-anatomy-two">
        <div data-map class="lab-anatomy-map" role="group" aria-label="The model, from input to output"></div>
        <article class="lab-anatomy-part" data-part aria-live="polite"></article>
        <div>
          <h3 data-inside></h3>
          <p data-wired></p>
          <div class="lab-anatomy-kinds" role="group" aria-label="Conditioning block" data-kinds></div>
          <div class="lab-anatomy-wiring" data-wiring></div>
        </div>
      </div>
    </div>
    <details hidden><summary>Where the parameters and the work are</summary>
      <p>Of one picture, part by part. <abbr data-term="macs">MACs</abbr> are multiply-accumulates, which papers call Gflops or FLOPs.</p>
      <div class="lab-anatomy-wide" tabindex="0" role="region" aria-label="Parameters and MACs by part" data-rows></div></details>
    <details hidden><summary>The papers' models</summary>
      <p>One 32 × 32 × 4 <abbr data-term="latent">latent</abbr> of 1,000 classes. GMACs (the papers write Gflops) and millions of trained parameters,
        counted here beside the papers'. <abbr data-term="fid">FID</abbr> after 400,000 training steps without guidance: lower is better. A <abbr data-term="u_dit">U-DiT</abbr>'s blocks hold
        two pairs of attention and MLP, its width is that of the first level, and it is counted folded, as for inference.</p>
      <div class="lab-anatomy-wide" tabindex="0" role="region" aria-label="The papers' models" data-presets></div>
      <p>DiT-XL/2 with each way to condition it (DiT, figure 5):</p>
      <div class="lab-anatomy-wide" tabindex="0" role="region" aria-label="DiT-XL/2 by conditioning block" data-blocks></div></details>
  </section>`;
const BOX = { spine: 12, left: 38, width: 148, h: 40, gap: 13, side: 212, sideWidth: 92 }; // of a block's wiring, in pixels
// The glossary's word for a part, where it has one.
const TERMS = { patchify: "patchify", unpatchify: "patchify", positions: "embedding", time: "embedding", label: "embedding", blocks: "block", modulation: "modulation", attn: "attention", cross: "cross_attention", mlp: "mlp", final: "norm", skip: "skip" };
const whole = (n) => n.toLocaleString("en");
const short = (n) => (n < 1e4 ? whole(n) : n < 1e6 ? (n / 1e3).toPrecision(3) + " k" : n < 1e9 ? (n / 1e6).toPrecision(3) + " M" : (n / 1e9).toPrecision(4) + " G");
const shape = (s) => s.join(" × ");
const portion = (share) => (share > 0 && share < 0.0005 ? "under 0.1 %" : (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %");
const inner = (s) => shape(s.slice(1)); // without the batch

export function mount({ element, data, lab }) {
  element.innerHTML = FRAME;
  const find = (name) => element.querySelector("[data-" + name + "]"), { make } = lab;
  let part = null, kind = null, wired = null;

  // ---- Names: "patchify", "blocks.3", "blocks.3.attn"; blocks of a stage are alike
  const stageAt = (block) => data.stages.findLastIndex((stage) => stage.first <= block);
  const keyOf = (name) => name.replace(/^blocks\.(\d+)/, (_, block) => "stages." + stageAt(Number(block)));
  const blockOf = (name) => (/^blocks\.\d/.test(name || "") ? Number(name.split(".")[1]) : null);
  const blockName = (block) => {
    const stage = data.stages[stageAt(block)];
    return (stage.name ? stage.name + ", " : "") + stage.blocks[block - stage.first];
  };
  // The part that a name speaks of, or the one that it is in; null where there is none.
  const known = (name) => {
    let asked = String(name ?? "");
    if (asked === "blocks" || /^(attn|mlp|cross|modulation|norm_\w+)\b/.test(asked)) asked = "blocks." + lab.block + (asked === "blocks" ? "" : "." + asked);
    for (; asked; asked = asked.slice(0, Math.max(0, asked.lastIndexOf(".")))) {
      const block = blockOf(asked);
      if ((block === null || block < data.depth) && Object.hasOwn(data.parts, keyOf(asked))) return asked;
    }
    return null;
  };
  const choose = (name) => {
    const block = blockOf(name);
    lab.set(block === null ? { part: name } : { part: name, block });
    open(name);
  };

  // ---- The map
  const box = (name, more) => {
    const { title, before, after } = data.parts[name], node = make("button", "lab-anatomy-box");
    node.type = "button";
    node.dataset.name = name;
    node.append(make("b", "", title));
    if (more !== undefined) node.append(make("small", "", more || inner(before[0] || []) + " → " + inner(after[0] || [])));
    return node;
  };
  const chips = ({ first, blocks }) => {
    const row = make("div", "lab-anatomy-chips");
    row.append(...blocks.map((name, i) => {
      const chip = make("button", "", name.replace(/^block /, "").replace(", pair ", ""));
      chip.type = "button";
      chip.dataset.name = "blocks." + (first + i);
      chip.setAttribute("aria-label", blockName(first + i));
      return chip;
    }));
    return row;
  };
  const end = (kind, name, text) => {
    const node = make("div", "lab-anatomy-end"), canvas = make("canvas"), told = make("div");
    canvas.dataset.kind = kind;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
    const small = make("small", "", text);
    if (kind === "x0" && data.stages.length === 1) small.append(make("span", "", " Shown is the x₀ that follows."));
    told.append(make("b", "", name), make("br"), small);
    node.append(canvas, told);
    return node;
  };
  const ends = () => {
    const first = data.parts.patchify || data.parts.stem, last = data.parts.unpatchify || data.parts.out;
    const means = { eps: "noise ε", v: "v, a mix of both", x0: "picture x₀", velocity: "velocity" }[data.prediction] || data.prediction;
    return [end("x", data.stages.length > 1 ? "Input" : "Noisy input", "x_t: " + inner(first.before[0])),
      end("x0", data.stages.length > 1 ? "Output" : "Prediction", inner(last.after[0]) + (data.stages.length > 1 ? "" : ": " + means + (data.learnedVariance ? " and its variance" : "") + "."))];
  };
  const condition = () => {
    const side = make("div", "lab-anatomy-side");
    for (const name of ["time", "label"]) if (data.parts[name]) side.append(box(name));
    side.append(box("conditioning", data.parts.conditioning.after.map(inner).join(", ")));
    return side;
  };
  const blocksOf = (stage) => {
    const node = make("div", "lab-anatomy-blocks"), [rows, columns] = stage.grid;
    const told = stage.name ? stage.name : data.depth + " " + data.blockTitle + " blocks";
    node.append(make("b", "", told), make("small", "", rows + " × " + columns + (stage.name ? "" : " tokens") + ", width " + stage.dim), chips(stage));
    return node;
  };
  const drawLine = (map) => {
    const [input, output] = ends(), rows = [input];
    const arrow = (text) => {
      const node = make("div", "lab-anatomy-flow");
      node.append(make("span", "", text));
      return node;
    };
    const at = {};
    for (const name of data.flow) {
      const given = name === "blocks" ? data.parts["stages.0"] : data.parts[name];
      rows.push(arrow(inner(given.before[0])));
      at[name] = rows.push(name === "blocks" ? blocksOf(data.stages[0]) : box(name, name === "patchify" ? "" : undefined));
    }
    rows.push(arrow(inner(data.parts.unpatchify.after[0])), output);
    rows.forEach((node, i) => (node.style.gridRow = String(i + 1)));
    const side = condition(), wire = make("i", "lab-anatomy-wire"), until = Math.max(...data.feeds.map((name) => at[name]));
    const from = at[data.flow[0]];
    side.style.gridRow = from + " / " + (from + 5);
    wire.style.gridRow = (from + 1) + " / " + until;
    const feeds = data.feeds.map((name) => Object.assign(make("i", "lab-anatomy-feed"), { style: "grid-row: " + at[name] }));
    map.append(...rows, wire, ...feeds, side);
  };
  const drawU = (map) => {
    const count = data.stages.length, levels = (count + 1) / 2, [input, output] = ends();
    const put = (node, row, column) => {
      node.style.gridRow = String(row);
      node.style.gridColumn = String(column);
      map.append(node);
    };
    const stacked = (...nodes) => {
      const node = make("div", "lab-anatomy-stack");
      node.append(...nodes);
      return node;
    };
    map.style.gridTemplateColumns = "repeat(" + count + ", minmax(0, 1fr))";
    put(input, 1, 1);
    put(output, 1, count);
    put(box("conditioning", "of widths " + data.parts.conditioning.after.map((s) => s.at(-1)).join(", ") + ", to every block"), "1 / 3", "2 / " + count);
    put(stacked(box("stem")), 2, 1);
    put(stacked(box("out"), box("final"), box("neck")), 2, count);
    data.stages.forEach((stage, i) => {
      const level = Math.min(i, count - 1 - i), tail = [];
      if (i < levels - 1) tail.push(box("down." + i, "↘"));
      if (i >= levels) tail.push(box("merge." + (i - levels), "↑"));
      const up = i >= levels - 1 && i < count - 1 ? [box("up." + (i - levels + 1), "↗")] : [];
      put(stacked(...up, blocksOf(stage), ...tail), level + 3, i + 1);
      if (i < levels - 1) {
        const skip = make("div", "lab-anatomy-skip");
        skip.append(make("span", "", "skip"));
        put(skip, level + 3, i + 2 + " / " + (count - i));
      }
    });
  };
  const pictures = () => {
    for (const canvas of element.querySelectorAll("[data-map] canvas")) {
      canvas.hidden = !lab.run || !lab.draw(canvas.dataset.kind, lab.step, canvas);
      for (const shown of canvas.parentElement.querySelectorAll("span")) shown.hidden = canvas.hidden;
    }
  };

  // ---- A part, opened
  const rows = (head, lines) => {
    const table = make("table"), top = table.createTHead().insertRow(), body = table.createTBody();
    for (const text of head) top.append(Object.assign(make("th", "", text), { scope: "col" }));
    for (const { cells, own } of lines) {
      const row = body.insertRow();
      if (own) [row.className] = ["lab-anatomy-own", row.setAttribute("aria-current", "true")];
      for (const cell of cells) row.insertCell().append(cell);
    }
    return table;
  };
  const path = ({ file, line }) => {
    const node = make("code");
    node.append(...(file + ":" + line).split("/").flatMap((piece, i) => (i ? ["/", make("wbr"), piece] : [piece])));
    return node;
  };
  const kinded = ({ name, kind: type }) => {
    const node = make("span", "", name);
    node.append(make("br"), make("small", "", type));
    return node;
  };
  const pattern = ({ pattern: text, numbers, before, after }) => {
    const node = make("div", "lab-anatomy-pattern");
    node.append(make("code", "", text));
    if (numbers) node.append(make("code", "", numbers), make("small", "", shape(before) + " → " + shape(after)));
    return node;
  };
  const opened = (name) => {
    const { title, told, doc, kind: type, before, after, patterns, trained, fixed, macs, share, code, paper, children } = data.parts[keyOf(name)];
    const block = blockOf(name), list = make("dl"), nodes = [make("h3")];
    const last = name.split(".").at(-1), term = TERMS[last] || (last.startsWith("norm_") ? "norm" : /^\d+$/.test(last) ? "block" : null);
    const word = nodes[0].appendChild(make(term ? "abbr" : "span", "", title));
    if (term) word.dataset.term = term;
    if (block !== null) nodes[0].append(", " + blockName(block));
    const says = (what, ...text) => {
      const value = make("dd");
      value.append(...text);
      list.append(make("dt", "", what), value);
    };
    if (told) nodes.push(make("p", "", told));
    const copies = block === null ? 1 : data.stages[stageAt(block)].blocks.length;
    says("Shapes", before.map(shape).join(" and ") + " → " + [...new Set(after.map(shape))].map((s) => (after.filter((a) => shape(a) === s).length > 1 ? after.length + " of " : "") + s).join(", "));
    says("Parameters", whole(trained) + (fixed ? ", and " + whole(fixed) + " fixed numbers" : "") + (copies > 1 ? ", in each of " + copies + " blocks" : ""));
    says("Work", short(macs) + " MACs a picture, " + portion(share) + " of the model's" + (copies > 1 ? "; " + portion(share * copies) + " in all " + copies : ""));
    if (paper) says("In the paper", paper);
    if (code) says("In the code", path(code), " " + code.name);
    else says("In the code", type + ", whose source is not at hand");
    nodes.push(list, ...patterns.map(pattern));
    if (doc) nodes.push(make("p", "", "In the code's words: " + doc));
    if (code) {
      const more = make("details"), source = make("pre");
      source.tabIndex = 0;
      source.append(make("code", "", code.source));
      more.append(make("summary", "", "Show the source of " + code.name), source);
      nodes.push(more);
    }
    if (children.length) {
      const wide = make("div", "lab-anatomy-wide");
      Object.assign(wide, { tabIndex: 0, role: "region", ariaLabel: "What it is made of" });
      wide.append(rows(["Made of", "gives", "params", "MACs"], children.map((child) => ({
        cells: [kinded(child), child.after[0] ? shape(child.after[0]) : "–", short(child.trained), short(child.macs)],
      }))));
      nodes.push(wide);
    }
    find("part").replaceChildren(...nodes);
  };

  // ---- The wiring of a block: a stream down the left, branches that leave it and come back
  const drawWiring = (block) => {
    const own = kind === data.block, here = own ? blockOf(part) ?? block : block, stage = "stages." + stageAt(here);
    for (const button of find("kinds").children) button.setAttribute("aria-pressed", button.dataset.kind === kind), button.classList.toggle("lab-on", button.dataset.kind === kind);
    find("inside").textContent = own ? "Inside " + blockName(here) : "Inside a block: " + data.wirings[kind].title;
    const key = kind + stage;
    if (wired === key) return;
    wired = key;
    const { branches, parts, modulation, cross, joins, title } = data.wirings[kind], holder = find("wiring"), lines = [], nodes = [];
    const line = (d, read) => lines.push('<path' + (read ? ' class="lab-anatomy-read"' : "") + ' d="' + d + '"/>');
    const tip = (x, y, way, read) => line(way === "down" ? `M${x - 4} ${y - 6}L${x} ${y}L${x + 4} ${y - 6}` : `M${x + 6} ${y - 4}L${x} ${y}L${x + 6} ${y + 4}`, read);
    const place = (node, left, top, width, height) => {
      Object.assign(node.style, { left: left + "px", top: top + "px", width: width + "px", height: height + "px" });
      nodes.push(node);
    };
    const labelled = (name, label, note) => {
      const node = make(own ? "button" : "span", "");
      node.append(make("b", "", label));
      if (note) node.append(make("small", "", note));
      if (own) [node.type, node.dataset.child] = ["button", name];
      return node;
    };
    const cost = (name) => (own ? short(data.parts[stage + "." + name].trained) + " parameters" : "");
    const { spine, left, width, h, gap, side, sideWidth } = BOX, middle = left + width / 2, reads = [];
    let y = 26;
    place(make("span", "lab-anatomy-word", joins ? "in: the image's tokens and the condition's" : "in: the image's tokens"), 0, 0, 300, 20);
    for (const boxes of branches) {
      line(`M${spine} ${y + 4}H${middle}V${y + 14}`);
      tip(middle, y + 15, "down");
      let top = y + 15;
      boxes.forEach(({ part: name, label, note, reads: asks }, i) => {
        if (i) line(`M${middle} ${top - gap}V${top}`), tip(middle, top, "down");
        place(labelled(name, label, note || cost(name)), left, top, width, h);
        if (asks) reads.push(top + h / 2);
        top += h + gap;
      });
      y = top - gap + 16;
      line(`M${middle} ${top - gap}V${y}H${spine + 9}`);
      tip(spine + 9, y, "left");
      lines.push(`<circle cx="${spine}" cy="${y}" r="8"/>`);
      line(`M${spine - 4} ${y}H${spine + 4}M${spine} ${y - 4}V${y + 4}`);
      y += 16;
    }
    if (!branches.length) {
      const order = own ? data.parts[stage].holds : parts.map((each) => each.part);
      order.forEach((name) => {
        place(labelled(name, own ? data.parts[stage + "." + name].title : name, cost(name)), left, y, width, h);
        y += h + gap;
      });
    } else {
      lines.unshift(`<path d="M${spine} 22V${y + 6}"/>`);
      tip(spine, y + 8, "down");
      place(make("span", "lab-anatomy-word", "out"), 0, y + 8, 100, 20);
      y += 28;
    }
    if (reads.length) {
      const top = reads[0] - h / 2, node = labelled(modulation.length ? "modulation" : "conditioning", modulation.length ? "Modulation" : "Condition", modulation.length ? modulation.length + " vectors from time and label" : "2 tokens: time, label");
      place(node, side, top, sideWidth, Math.max(reads.at(-1) - reads[0] + h, 72));
      for (const at of reads) line(`M${side} ${at}H${left + width}`, true), tip(left + width, at, "left", true);
    }
    holder.style.height = y + "px";
    holder.innerHTML = '<svg width="304" height="' + y + '" aria-hidden="true">' + lines.join("") + "</svg>";
    holder.append(...nodes);
    find("wired").textContent = !branches.length
      ? "This block is none of the papers': here are its parts, in the order in which " + (own ? "they run" : "it names them") + ". How they are wired, its source says."
      : "Down the left runs the residual stream; each branch adds to it. " + (modulation.length ? "Time and label come in as " + modulation.length + " vectors that shift" + (modulation.some((p) => p.startsWith("gate")) ? ", scale and gate" : " and scale") + "."
        : cross ? "Time and label come in by an attention of their own." : "Time and label are two more tokens, which attention reads as any other.")
      + (data.architecture === "U-DiT" && own ? " Two such blocks are the paper's one; attention runs on four interleaved grids, and the MLP has a convolution." : "");
  };

  // ---- What is lit
  const light = () => {
    const child = keyOf(part).split(".").slice(2).join("."), block = blockOf(part);
    for (const node of element.querySelectorAll("[data-map] [data-name]")) {
      const lit = node.dataset.name === part || (block !== null && node.dataset.name === "blocks." + block);
      node.classList.toggle("lab-anatomy-lit", lit);
      node.setAttribute("aria-pressed", lit);
      node.classList.toggle("lab-anatomy-now", node.dataset.name === "blocks." + lab.block && !lit);
    }
    for (const node of find("wiring").querySelectorAll("[data-child]")) {
      const lit = block !== null && node.dataset.child === child || node.dataset.child === part;
      node.classList.toggle("lab-anatomy-lit", lit);
      node.setAttribute("aria-pressed", lit);
    }
  };
  const open = (name) => {
    if (part !== name) opened(name);
    part = name;
    if (blockOf(name) !== null) kind = data.block;
    drawWiring(lab.block);
    light();
  };

  // ---- All of it
  const show = () => {
    const body = find("body"), there = Boolean(data);
    body.hidden = !there;
    for (const more of element.querySelectorAll("section > details")) more.hidden = !there;
    find("told").textContent = there ? "" : lab.run ? "Drawing this model …" : "Open a checkpoint to see what it is made of.";
    find("told").hidden = there;
    if (!there) return;
    const { total } = data;
    find("title").textContent = (data.source ? data.source + ": " : "") + data.architecture + ", " + data.blockTitle + " blocks, " + short(total.trained) + " parameters, " + short(total.macs) + " MACs a picture" + (data.preset ? ", the papers' " + data.preset : "");
    const map = find("map"), line = data.stages.length === 1;
    map.replaceChildren();
    map.removeAttribute("style");
    map.className = "lab-anatomy-map " + (line ? "lab-anatomy-line" : "lab-anatomy-u");
    (line ? drawLine : drawU)(map);
    pictures();
    find("kinds").replaceChildren(...Object.values(data.wirings).map(({ name, title }) => {
      const button = make("button", "", title + (name === data.block ? " (this model's)" : ""));
      button.type = "button";
      button.dataset.kind = name;
      return button;
    }));
    const most = Math.max(...data.rows.map((row) => row.macs));
    const share = (row) => {
      const node = make("span"), bar = make("i", "lab-anatomy-share");
      bar.style.width = (70 * row.macs) / most + "px";
      node.append(bar, portion(row.macs / total.macs));
      return node;
    };
    find("rows").replaceChildren(rows(["Part (* is each)", "copies", "trained", "fixed", "MACs", "share of MACs"], data.rows.map((row) => ({
      cells: [row.part, whole(row.copies), whole(row.trained), whole(row.fixed), whole(row.macs), share(row)],
    })).concat({ own: true, cells: ["all", "", whole(total.trained), whole(total.fixed), whole(total.macs), "100 %"] })));
    const beside = (ours, theirs) => ours + " / " + theirs, millions = (n) => (n / 1e6).toFixed(1), billions = (n) => (n / 1e9).toFixed(2);
    const paper = ({ params, macs, paper: { params: p, gmacs, fid } }) => [beside(millions(params), p), beside(billions(macs), gmacs), fid];
    const mine = { own: true, cells: [data.source || "this model", "", "", "", millions(total.trained) + " / –", (total.macs / 1e9).toPrecision(3) + " / –", "–"] };
    mine.cells.splice(1, 3, whole(data.depth), whole(data.stages[0].dim), whole(data.heads));
    find("presets").replaceChildren(rows(["Model", "blocks", "width", "heads", "M parameters: ours / paper", "GMACs: ours / paper", "FID"], [
      ...(data.preset ? [] : [mine]),
      ...Object.entries(data.presets).map(([name, one]) => ({ own: name === data.preset, cells: [name, one.layers, one.dim, one.heads, ...paper(one)].map(String) })),
    ]));
    find("blocks").replaceChildren(rows(["Block", "M parameters: ours / paper", "GMACs: ours / paper", "FID"], Object.entries(data.blocks).map(([name, one]) => ({
      own: name === data.block, cells: [data.titles[name], ...paper(one)],
    }))));
    part = wired = null;
    kind = data.block;
    open(known(lab.part) || data.flow[0]);
  };

  find("map").addEventListener("click", (event) => {
    const name = event.target.closest("[data-name]")?.dataset.name;
    if (name) choose(name);
  });
  find("wiring").addEventListener("click", (event) => {
    const child = event.target.closest("[data-child]")?.dataset.child;
    if (child) choose(child === "conditioning" ? child : "blocks." + (blockOf(part) ?? lab.block) + "." + child);
  });
  find("kinds").addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-kind]")?.dataset.kind;
    if (!chosen) return;
    kind = chosen;
    drawWiring(lab.block);
    light();
  });
  const off = lab.on((changed) => {
    const other = changed.has("run") && data && lab.run && data.run !== lab.run.id;
    if (other && !(data.source === lab.run.source && data.depth === lab.run.depth && data.block === lab.run.block)) {
      data = null; // another model's: its own is on the way
      return show();
    }
    if (!data) return;
    if (["run", "step", "sample", "frames"].some((name) => changed.has(name))) pictures();
    const named = changed.has("part") && known(lab.part);
    if (named) open(named);
    else if (changed.has("block") && lab.block < data.depth) {
      const child = keyOf(part).split(".").slice(2).join(".");
      if (blockOf(part) !== null) open(known("blocks." + lab.block + (child ? "." + child : "")));
      else drawWiring(lab.block), light();
    }
  });
  show();
  const draw = (told) => ((data = told), show());
  return { update: draw, about: (told) => told?.anatomy && draw(told.anatomy), destroy: off };
}
