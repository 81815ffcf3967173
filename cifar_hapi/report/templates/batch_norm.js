async (section, figures, show) => {
  const choice = (name) => section.querySelector(`[data-choice=${name}]`);
  const picture = (name) => section.querySelector(`[data-picture=${name}]`);
  const layer = choice("layer"), quantity = choice("quantity");

  function part(name, figure) {
    section.querySelector(`[data-part=${name}]`).hidden = !figure;
    return figure ? show(picture(name), figure) : null;
  }

  function draw() {
    const chosen = figures.layers[layer.value];
    section.querySelector("[data-heading=map]").textContent = figures.by[quantity.value];
    const title = `${layer.selectedOptions[0].text}: ${quantity.selectedOptions[0].text}`;
    section.querySelector("[data-heading=course]").textContent = `${title}, in time`;
    return Promise.all([
      show(picture("map"), figures.map[quantity.value]),
      show(picture("course"), chosen.course[quantity.value]),
      show(picture("spread"), chosen.spread[quantity.value]),
      part("probe", chosen.probe),
      part("true", chosen.true),
    ]);
  }

  function choose(place) {
    if (place === undefined || place < 0) return;
    layer.value = place;
    draw();
  }

  layer.addEventListener("change", draw);
  quantity.addEventListener("change", draw);
  for (const button of section.querySelectorAll("button[data-layer]")) {
    button.addEventListener("click", () => {
      if (button.dataset.quantity in figures.map) quantity.value = button.dataset.quantity;
      choose(button.dataset.layer);
      section.querySelector("[data-heading=course]").scrollIntoView();
    });
  }

  await draw();
  await part("depth", figures.depth);
  // A map tells [row, column], a line the place; other traces, such as crosses, stand at the row.
  const row = (point) => (Array.isArray(point.pointNumber) ? point.pointNumber[0] : point.y);
  picture("map").on("plotly_click", (event) => choose(figures.rows[row(event.points[0])]));
  if (figures.depth) picture("depth").on("plotly_click", (event) => choose(figures.rows[event.points[0].pointNumber]));
}
