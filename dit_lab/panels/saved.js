// A saved page: its panels, their data and some answers are inside, and no model is behind it.
const { run, place, answers, lab: labText, glossary, panels } = JSON.parse(document.getElementById("lab-data").textContent);
const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
const { createLab } = await load(labText);
const lab = createLab(false);
const same = (a, b) => {
  const [one, other] = [a, b].map((each) => JSON.stringify(Object.entries(each).sort(([x], [y]) => (x < y ? -1 : 1))));
  return one === other;
};
const sending = (panel) => async (request) => {
  const known = answers.find((each) => each.panel === panel && same(request, each.request));
  if (known) return known.answer;
  throw new Error("A saved page has no model behind it: open the run in the app or in a notebook to ask this.");
};
const main = document.querySelector("main");
if (run) await lab.open(run, place);
for (const { name, script, data } of panels) {
  const element = main.appendChild(lab.make("section"));
  (await load(script)).mount({ element, data, send: sending(name), lab });
}
(await load(glossary)).explain(document.body);
document.body.dataset.ready = "";
