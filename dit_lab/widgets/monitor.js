// The training panel of a loop that runs in this kernel: a busy kernel answers nothing, so it sends all, unasked.
const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));

async function render({ model, el }) {
  const { lab: labText, panel: panelText, glossary, looks } = model.get("parts");
  const [{ createLab }, { mount }, { explain }] = await Promise.all([labText, panelText, glossary].map(load));
  const root = document.createElement("div"), style = document.createElement("style");
  root.className = "lab-root lab-live-" + model.get("saved");
  style.textContent = looks;
  el.replaceChildren(style, root);
  const news = () => ({ about: model.get("about"), states: [{ ...model.get("state"), looks: model.get("looks") }] });
  const panel = mount({ element: root, data: news(), send: async () => {}, lab: createLab(false) });
  explain(root);
  const told = () => panel.update(news());
  model.on("change:state", told);
  return () => (model.off("change:state", told), panel.destroy());
}
export default { render };
