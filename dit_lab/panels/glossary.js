// Every word marked data-term="key" gets its meaning at hand: on hover, on focus and on a tap; Escape closes.
const TERMS = {}; // glossary.json, which Python puts here
const explained = new WeakSet();
let tip = null, shown = null, leaving = null;

// Make every term within an element explained, also those that are drawn in it later; once more is harmless.
export function explain(root) {
  mark(root);
  if (explained.has(root)) return;
  explained.add(root);
  const drawn = (changes) => {
    if (changes.some((change) => change.addedNodes.length)) mark(root);
    if (shown && !shown.isConnected) hide();
  };
  new MutationObserver(drawn).observe(root, { childList: true, subtree: true });
}

function mark(root) {
  for (const word of root.querySelectorAll("[data-term]:not([data-explained])")) {
    if (!TERMS[word.dataset.term]) continue;
    word.dataset.explained = "";
    // A word within a button or link is reached by that; else it can be reached by itself.
    const reached = holder(word);
    if (reached === word) word.tabIndex = 0;
    word.addEventListener("pointerenter", () => show(word));
    word.addEventListener("pointerleave", hideSoon);
    reached.addEventListener("focus", () => reached.matches(":focus-visible") && show(word));
    reached.addEventListener("blur", hide);
    if (reached === word) word.addEventListener("click", () => show(word));
  }
}

const holder = (word) => word.closest("button, a, summary") || word;
const part = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

function show(word) {
  clearTimeout(leaving);
  if (shown === word) return;
  hide();
  const { term, text, equation, source } = TERMS[word.dataset.term];
  tip = Object.assign(document.createElement("div"), { id: "lab-term-tip", className: "lab-term" });
  tip.setAttribute("role", "tooltip");
  tip.append(part("b", term), part("span", text));
  if (equation) tip.append(part("code", equation));
  if (source) tip.append(part("small", source));
  // It can be pointed at, to be read or copied.
  tip.addEventListener("pointerenter", () => clearTimeout(leaving));
  tip.addEventListener("pointerleave", hideSoon);
  // In an open dialog it must be within, to be above.
  (word.closest("dialog, .lab-root") || document.body).append(tip);
  shown = word;
  holder(word).setAttribute("aria-describedby", tip.id);
  place(word);
  document.addEventListener("keydown", closing, true);
  addEventListener("resize", hide, { once: true });
}

// Below the word, above it where there is no room; never beyond the window's sides.
function place(word) {
  const at = word.getClientRects()[0] || word.getBoundingClientRect(), width = document.documentElement.clientWidth;
  Object.assign(tip.style, { left: "0px", top: "0px" });
  const origin = tip.getBoundingClientRect(), { width: w, height: h } = origin;
  const left = Math.max(12, Math.min(at.left, width - w - 12));
  const below = at.bottom + 8, top = below + h > innerHeight && at.top - h - 8 > 0 ? at.top - h - 8 : below;
  Object.assign(tip.style, { left: left - origin.left + "px", top: top - origin.top + "px" });
}

function closing(event) {
  if (event.key !== "Escape") return;
  event.stopPropagation();
  hide();
}

function hideSoon() {
  clearTimeout(leaving);
  leaving = setTimeout(hide, 200);
}

function hide() {
  clearTimeout(leaving);
  tip?.remove();
  if (shown) holder(shown).removeAttribute("aria-describedby");
  tip = shown = null;
  document.removeEventListener("keydown", closing, true);
}
