"""A host of panels in small: a page with a lab that a test can reach, for panels that `panels.page` does not hold."""

from dit_lab.panels import asset
from dit_lab.panels.saved import inline
from dit_lab.panels.terms import glossary_script

LAB = "const lab = createLab(false);"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>panels</title><style>%s body { margin: 0; background: var(--lab-back); } main { display: grid; gap: 12px;
padding: 12px; } main > * { min-width: 0; }</style></head>
<body class="lab-root"><main></main><script type="application/json" id="given">%s</script><script type="module">
const { lab: text, glossary, run, panels, live } = JSON.parse(document.getElementById("given").textContent);
const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
document.body.classList.toggle("lab-dark", matchMedia("(prefers-color-scheme: dark)").matches);
const lab = (await load(text)).createLab(live);
Object.assign(window, { lab, views: {}, shown: [] });
const send = async () => { throw new Error("Nobody answers."); };
lab.show = async (name) => shown.push(name);
if (run) await lab.open(run);
for (const { name, script, data } of panels) {
  const element = document.querySelector("main").appendChild(lab.make("section"));
  element.id = "lab-panel-" + name;
  views[name] = (await load(script)).mount({ element, data, send, lab });
}
const { explain } = await load(glossary);
explain(document.body);
document.body.dataset.ready = "";
</script></body></html>"""


def hosted(run, panels, live=True) -> str:
    """A page of some panels, `panels: (panel, data)`, with the glossary; `run` is what `Opened.run` gives, or None."""
    looks = asset("lab.css") + asset("glossary.css") + "".join(panel.looks for panel, _ in panels)
    given = {
        "lab": asset("lab.js"), "glossary": glossary_script(), "run": run, "live": live,
        "panels": [{"name": panel.name, "script": panel.script, "data": data} for panel, data in panels],
    }  # fmt: skip
    return PAGE % (looks, inline(given))


def shown(visit, html: str, path, **how):
    """A page in a file, visited."""
    path.write_text(html, encoding="utf-8")
    return visit(path.as_uri(), **how)


def reachable(html: str) -> str:
    """A saved page whose lab a test can reach, as `lab`."""
    assert LAB in html
    return html.replace(LAB, "const lab = window.lab = createLab(false);")


def cut_off(page) -> list[str]:
    """What sticks out of the window; what can be scrolled within itself does not."""
    return page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter((node) => {
            const box = node.getBoundingClientRect(), scrolled = node.closest('[tabindex="0"][role=region], pre');
            return box.width && !scrolled && (box.left < -1 || box.right > innerWidth + 1);
        }).map((node) => node.outerHTML.slice(0, 90))"""
    ) + (["the page scrolls sideways"] if page.evaluate("document.documentElement.scrollWidth > innerWidth") else [])
