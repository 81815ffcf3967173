"use strict";
// Draws figures in the page's colours, which follow those of the system, and in dark on white where it is printed.
const drawing = (() => {
  const PRINTED = 680; // pixels: the width of a sheet of A4 between its margins
  const NAME = 22; // pixels that a name takes below a picture
  const drawn = new Map(); // the figure that each element shows

  // A finger that moves over a picture scrolls the page, and zooms by buttons.
  const finger = matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  if (finger) config.modeBarButtons = [["zoomIn2d", "zoomOut2d", "resetScale2d"]];

  function template() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--grid"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true,
    };
    return {
      layout: {
        font: { color: colour("--text"), family: "system-ui, sans-serif", size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
        hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--text") } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--text") },
        dragmode: finger ? false : "zoom",
      },
    };
  }

  // As many names below a picture as there is room for.
  function thinned(axis, width) {
    if (!axis || axis.tickmode !== "array") return axis;
    const every = Math.ceil((axis.tickvals.length * NAME) / width);
    const keep = (values) => values.filter((_, place) => place % every === 0);
    return { ...axis, tickvals: keep(axis.tickvals), ticktext: keep(axis.ticktext) };
  }

  function show(element, figure) {
    drawn.set(element, figure);
    element.style.height = `${figure.layout.height}px`; // which plotly takes when the window changes
    const printed = document.documentElement.dataset.print !== undefined;
    const layout = { ...structuredClone(figure.layout), template: template(), autosize: !printed };
    if (printed) layout.width = PRINTED;
    layout.xaxis = thinned(layout.xaxis, printed ? PRINTED : element.clientWidth);
    return Plotly.react(element, figure.data, layout, config);
  }

  const redraw = () => Promise.all([...drawn].map(([element, figure]) => show(element, figure)));
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; redraw(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.print; redraw(); });

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function withArrays(value, arrays) {
    if (Array.isArray(value)) return value.map((each) => withArrays(each, arrays));
    if (value === null || typeof value !== "object") return value;
    if (typeof value.array === "number") return arrays[value.array];
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, withArrays(each, arrays)]));
  }

  function fail(error) {
    const notice = document.getElementById("failure");
    notice.textContent = `The pictures cannot be drawn (browsers of 2023 and later can): ${error}`;
    notice.hidden = false;
  }

  let done = 0; // sections

  // Give `script` a section's element, its figures, and what shows one of them in an element.
  async function section(number, script) {
    try {
      const figures = await unpacked(document.getElementById(`figures-${number}`).textContent);
      const place = (element, figure) => show(element, withArrays(figure, figures.arrays));
      await script(document.getElementById(`section-${number}`), figures, place);
      done += 1;
      if (done === document.querySelectorAll("main > section").length) document.documentElement.dataset.drawn = "";
    } catch (error) {
      fail(error);
      throw error;
    }
  }

  return { section };
})();
