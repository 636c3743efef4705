// Curves, echoes and maps as SVG.

const W = 420, H = 218, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 38;
const SPACE = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function ticks(lo, hi, count = 5) {
  const rough = (hi - lo) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const all = [];
  for (let t = Math.ceil(lo / step) * step; t <= hi + 1e-9 * step; t += step) all.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return all;
}

const decades = (lo, hi) => [20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000].filter((t) => t >= lo && t <= hi);
const short = (t) => (Math.abs(t) >= 1000 ? `${t / 1000}k` : String(+t.toPrecision(4)));

function frame(figure, { xs, ys, log }) {
  const [x0, x1] = xs, [y0, y1] = ys;
  const fx = log ? Math.log : (v) => v;
  const x = (v) => LEFT + ((fx(v) - fx(x0)) / (fx(x1) - fx(x0) || 1)) * (W - LEFT - RIGHT);
  const y = (v) => TOP + ((y1 - v) / (y1 - y0 || 1)) * (H - TOP - BOTTOM);
  const plot = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "plot", role: "img", "aria-label": figure.title });
  for (const t of ticks(y0, y1)) {
    plot.append(svg("line", { class: t === 0 && y0 < 0 ? "zero" : "axis", x1: LEFT, x2: W - RIGHT, y1: y(t), y2: y(t) }));
    const text = svg("text", { x: LEFT - 6, y: y(t) + 4, "text-anchor": "end" });
    text.textContent = short(t);
    plot.append(text);
  }
  for (const t of log ? decades(x0, x1).filter((v) => ![50, 500, 5000].includes(v)) : ticks(x0, x1)) {
    plot.append(svg("line", { class: "axis", x1: x(t), x2: x(t), y1: TOP, y2: H - BOTTOM }));
    const text = svg("text", { x: x(t), y: H - BOTTOM + 15, "text-anchor": "middle" });
    text.textContent = short(t);
    plot.append(text);
  }
  const under = svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" });
  under.textContent = figure.xLabel;
  plot.append(under);
  return { plot, x, y };
}

function path(figure, x, y) {
  let d = "", pen = "M";
  figure.y.forEach((v, i) => {
    if (v === null) { pen = "M"; return; }
    d += `${pen}${x(figure.x[i]).toFixed(1)} ${y(v).toFixed(1)}`;
    pen = "L";
  });
  return d;
}

function span(figure, before) {
  const all = [...figure.y, ...(before ? before.y : []), ...(figure.least || [])].filter((v) => v !== null);
  let lo = Math.min(...all), hi = Math.max(...all);
  if (!(hi > lo)) { lo -= 1; hi += 1; }
  const more = figure.least && lo === figure.least[0] && hi === figure.least[1] ? 0 : 0.06 * (hi - lo);
  return [lo - more, hi + more];
}

// One figure as a card; with `before`, the curve that it is compared with, dashed.
export function card(figure, before = null) {
  const element = document.createElement("div");
  element.className = "card";
  const head = document.createElement("div");
  head.className = "head";
  const title = document.createElement("h3");
  title.textContent = figure.title;
  const note = document.createElement("span");
  note.className = "muted small";
  note.textContent = figure.yLabel;
  head.append(title, note);
  element.append(head, figure.pans ? echoes(figure) : curve(figure, before));
  return element;
}

export function curve(figure, before = null) {
  const xs = [figure.x[0], figure.x[figure.x.length - 1]];
  const { plot, x, y } = frame(figure, { xs: xs[0] === xs[1] ? [xs[0], xs[0] + 1] : xs, ys: span(figure, before), log: figure.log });
  if (before) plot.append(svg("path", { class: "before", d: path(before, x, y) }));
  plot.append(svg("path", { class: "line", d: path(figure, x, y) }));
  if (figure.note) {
    const note = svg("text", { x: W - RIGHT - 6, y: H - BOTTOM - 8, "text-anchor": "end", class: "note" });
    note.textContent = figure.note;
    plot.append(note);
  }
  return plot;
}

function echoes(figure) {
  const last = Math.max(1000, figure.x[figure.x.length - 1] * 1.08);
  const { plot, x, y } = frame(figure, { xs: [0, last], ys: figure.least, log: false });
  figure.x.forEach((t, i) => {
    const side = figure.pans[i] < -20 ? "left" : figure.pans[i] > 20 ? "right" : "middle";
    const stem = svg("g", { class: side });
    stem.append(svg("line", { class: "stem", x1: x(t), x2: x(t), y1: y(figure.least[0]), y2: y(figure.y[i]) }));
    stem.append(svg("circle", { cx: x(t), cy: y(figure.y[i]), r: 4.5 }));
    const word = svg("title");
    word.textContent = `${t} ms, ${figure.y[i]} dB, ${{ left: "left", right: "right", middle: "centre" }[side]}`;
    stem.append(word);
    plot.append(stem);
  });
  return plot;
}

// Draws cards in the place of those of before.
export function draw(container, figures, before = []) {
  container.replaceChildren(...figures.map((figure) => card(figure, before.find((b) => b.title === figure.title && !b.pans))));
}

export function lossCurve(losses) {
  const x = losses.map((_, i) => i + 1);
  return { title: "Loss", xLabel: "step", yLabel: "", x, y: losses, log: false, note: "", least: null };
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
  const plot = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, class: "plot", role: "img", "aria-label": "Presets by their first two principal components; choose one in the table with the keyboard" });
  const zero = at([0, 0]);
  plot.append(svg("line", { class: "axis", x1: 0, x2: size[0], y1: zero[1], y2: zero[1] }), svg("line", { class: "axis", x1: zero[0], x2: zero[0], y1: 0, y2: size[1] }));
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
  const mark = (here, near, other) => dots.forEach((dot, row) => {
    const kind = row === here ? " here" : row === other ? " other" : near.includes(row) ? " near" : "";
    dot.setAttribute("class", `point${kind}`);
    dot.setAttribute("r", row === here ? 8 : row === other ? 7 : 5);
    if (kind) plot.append(dot);
  });
  return { plot, mark };
}
