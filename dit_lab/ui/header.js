const show = () => {
  const facts = (props.value && props.value.facts) || [];
  find("facts").replaceChildren(...facts.map((fact) => {
    const row = make("div");
    row.append(make("dt", "", fact.name), make("dd", "", fact.text));
    return row;
  }));
};
watch("value", show);
show();
