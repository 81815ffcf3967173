// Draws each picture of a section in its place; where there is a choice, the one of several that is chosen.
async (section, figures, show) => {
  const choice = section.querySelector("[data-choice]");

  function draw() {
    const places = [...section.querySelectorAll("[data-picture]")];
    return Promise.all(places.map((place) => {
      const figure = figures.pictures[place.dataset.picture];
      return show(place, choice ? figure[choice.value] : figure);
    }));
  }

  if (choice) choice.addEventListener("change", draw);
  await draw();
}
