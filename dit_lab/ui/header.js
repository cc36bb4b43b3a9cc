const show = () => {
  const facts = (props.value && props.value.facts) || [];
  find("facts").replaceChildren(...facts.map((fact) => {
    const row = make("div");
    row.append(make("dt", "", fact.name), make("dd", "", fact.text));
    return row;
  }));
  const note = (props.value && props.value.note) || "";
  find("note").hidden = !note;
  say("note", note);
};
watch("value", show);
show();
