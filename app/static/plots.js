// Curves, echoes and maps; what draws them is /charts.js, which reports have as well.
/* global chart, echoChart, svg */

// One figure as a card; with `before`, the curve that it is compared with, dashed.
export function card(figure, before = null) {
  const element = document.createElement("div");
  element.className = "card";
  element.dataset.figure = figure.title;
  if (figure.pans) echoChart(element, "L and R: position in percent", figure.x, figure.y, figure.pans);
  else chart(element, curve(figure, before));
  return element;
}

function curve(figure, before) {
  const [, name, unit] = figure.yLabel.match(/^(.*?)(?: \((.*)\))?$/);
  const series = [{ name: name || figure.title, colour: "var(--fitted)", x: figure.x, y: figure.y }];
  // A high-pass falls without end: below -24 dB its slope would make the bands flat.
  const isResponse = figure.log && unit === "dB";
  const low = isResponse ? Math.min(Math.max(Math.min(...figure.y.filter((v) => v !== null)), -24), -6) - 1 : undefined;
  if (before) series.push({ colour: "var(--muted)", x: before.x, y: before.y, dash: true, width: 1.3 });
  return {
    title: figure.title,
    note: figure.note,
    x: { label: figure.xLabel, log: figure.log, min: figure.x[0], max: figure.x.at(-1), whole: figure.xLabel === "step" },
    y: { label: figure.yLabel, unit, least: figure.least ?? undefined, min: low },
    series,
  };
}

// Draws cards in the place of those of before.
export function draw(container, figures, before = []) {
  container.replaceChildren(...figures.map((figure) => card(figure, before.find((b) => b.title === figure.title && !b.pans))));
}

export function lossCurve(losses) {
  return { title: "Loss", xLabel: "step", yLabel: "loss", x: losses.map((_, i) => i + 1), y: losses, log: false, note: "", least: null };
}

// A map of presets: `chosen` gets the row nearest to a click.
export function map(places, names, chosen) {
  const columns = [0, 1].map((k) => places.map((p) => p[k] ?? 0));
  const ends = columns.map((c) => [Math.min(...c), Math.max(...c)]);
  const size = [420, 300], margin = 16;
  const at = (p) => [0, 1].map((k) => {
    const [lo, hi] = ends[k], u = ((p[k] ?? 0) - lo) / (hi - lo || 1);
    return margin + (k ? 1 - u : u) * (size[k] - 2 * margin);
  });
  const plot = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, class: "chart", role: "img", "aria-label": "Presets by their first two principal components; choose one in the table with the keyboard" });
  const zero = at([0, 0]);
  plot.append(svg("line", { class: "grid-line", x1: 0, x2: size[0], y1: zero[1], y2: zero[1] }), svg("line", { class: "grid-line", x1: zero[0], x2: zero[0], y1: 0, y2: size[1] }));
  const dots = places.map((p, row) => {
    const [cx, cy] = at(p);
    const dot = svg("circle", { class: "point", cx, cy, r: 5 });
    const title = svg("title");
    title.textContent = names[row];
    dot.append(title);
    plot.append(dot);
    return dot;
  });
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    const [mx, my] = [((event.clientX - box.left) / box.width) * size[0], ((event.clientY - box.top) / box.height) * size[1]];
    const far = places.map((p) => { const [cx, cy] = at(p); return (cx - mx) ** 2 + (cy - my) ** 2; });
    chosen(far.indexOf(Math.min(...far)));
  });
  const mark = (here, near, other) => {
    dots.forEach((dot, row) => {
      const kind = row === here ? " here" : row === other ? " other" : near.includes(row) ? " near" : "";
      dot.setAttribute("class", `point${kind}`);
      dot.setAttribute("r", row === here ? 8 : row === other ? 7 : 5);
      if (kind) plot.append(dot);
    });
    if (dots[here]) plot.append(dots[here]); // over its neighbours
  };
  return { plot, mark };
}
