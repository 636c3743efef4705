"use strict";
/* Charts as SVG: lines, areas, bars and stems over a linear or logarithmic axis, with a readout for pointer and keys. */

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** An HTML element; `attributes.class`, `text` and others as they are. */
function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (key === "style") element.style.cssText = value; // which a policy without inline styles allows
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** A list of names and values, without the empty ones. */
function facts(rows) {
  const list = html("dl", { class: "facts" });
  for (const [name, value] of rows) if (value) list.append(html("dt", { text: name }), html("dd", { text: value }));
  return list;
}

/** A number with a true minus sign; whole from 100 on. */
function format(x, digits = 2) {
  if (x == null || !Number.isFinite(x)) return "–";
  const size = Math.abs(x);
  const places = size >= 100 ? 0 : size >= 10 ? Math.min(digits, 1) : digits;
  const text = x.toFixed(places);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

const signed = (x, digits = 1) => (Number(x.toFixed(digits)) > 0 ? "+" : "") + format(x, digits);
const hertz = (x) => (x >= 1000 ? `${format(x / 1000, x < 10000 ? 1 : 0).replace(/\.0$/, "")}k` : format(x, 0));
const side = (pan) => (Math.abs(pan) < 1 ? "C" : `${pan < 0 ? "L" : "R"}${Math.abs(Math.round(pan))}`);
const clock = (s) => `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`;

/** A format with the digits that tell ticks apart. */
function plainly(ticks) {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 1;
  const digits = Math.min(Math.max(-Math.floor(Math.log10(step) + 1e-9), 0), 6);
  return (v) => v.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");
}

/** About `count` round ticks between two numbers; `whole` ones only. */
function ticksOf(low, high, count, whole = false) {
  const raw = Math.max((high - low) / Math.max(count, 1), whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) ticks.push(Math.abs(t) < step / 1e6 ? 0 : t);
  return ticks;
}

/** Ticks of a logarithmic axis: 1, 2 and 5 of every power of ten, or the powers only. */
function logTicks(low, high, dense) {
  const ticks = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const k of dense ? [1, 2, 5] : [1]) if (k * 10 ** p >= low * 0.999 && k * 10 ** p <= high * 1.001) ticks.push(k * 10 ** p);
  return ticks;
}

/**
 * Draws a chart into `host` and again whenever its width changes.
 *
 * spec: title, note; x: {label, log, min, max, format}; y: {label, min, max, least, format}; image: {href} behind the
 * plot; series: [{name, colour, kind: "line" | "area" | "bars" | "stems", x, y, dash, width, hidden, text, own}].
 * Series with `own: true` have a vertical axis of their own, without labels.
 */
function chart(host, spec) {
  const readout = html("output", { class: "readout", "aria-live": "polite" });
  const plot = html("div", { class: "plot" });
  const named = spec.series.filter((s) => s.name && !s.hidden);
  const legend = html("ul", { class: "legend" });
  if (named.length > 1 || spec.legend)
    for (const s of named)
      legend.append(html("li", {}, html("span", { class: `swatch ${s.dash ? "dash" : ""}`, style: `--c:${s.colour}` }), s.name));
  host.append(html("div", { class: "title" }, html("h3", { text: spec.title }), readout), spec.note ? html("p", { class: "muted small", text: spec.note }) : "", legend.children.length ? legend : "", plot);
  const scale = spec.summary ?? summaryOf(spec);
  let width = 0;
  const draw = () => {
    const now = Math.max(Math.floor(plot.clientWidth), 240);
    if (now === width) return;
    width = now;
    plot.replaceChildren(drawn(spec, width, scale, readout));
  };
  new ResizeObserver(draw).observe(plot);
  draw();
}

/** A sentence for readers that do not see the chart: the range of each series. */
function summaryOf(spec) {
  const parts = spec.series.filter((s) => s.name).slice(0, 4).map((s) => {
    const y = s.y.filter((v) => v != null);
    return y.length ? `${s.name} from ${format(Math.min(...y), 1)} to ${format(Math.max(...y), 1)}` : "";
  });
  return `${spec.title}: ${spec.y.label} over ${spec.x.label}. ${parts.filter(Boolean).join("; ")}.`;
}

/** The limits of an axis that hold all values, and `least` where that is given. */
function limits(values, axis) {
  const known = values.filter((v) => v != null && Number.isFinite(v)).concat(axis.least ?? []);
  let low = axis.min ?? Math.min(...known);
  let high = axis.max ?? Math.max(...known);
  if (!(high > low)) [low, high] = [low - 1, low + 1];
  const room = (high - low) * 0.06;
  return [axis.min ?? low - room, axis.max ?? high + room];
}

function drawn(spec, width, label, readout) {
  const height = spec.height ?? Math.round(Math.min(Math.max(width * 0.46, 170), 260));
  const left = spec.y.hidden ? 10 : 50, right = width - 10, top = 8, bottom = height - 36;
  const all = spec.series.filter((s) => !s.own);
  const [x0, x1] = [spec.x.min ?? Math.min(...spec.series.flatMap((s) => s.x)), spec.x.max ?? Math.max(...spec.series.flatMap((s) => s.x))];
  const [y0, y1] = limits(all.flatMap((s) => s.y), spec.y);
  const part = (v) => (spec.x.log ? Math.log(v / x0) / Math.log(x1 / x0) : (v - x0) / (x1 - x0));
  const X = (v) => left + part(v) * (right - left);
  const onY = (low, high) => (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const Y = onY(y0, y1);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0, class: "chart" });
  const clip = `clip${++chart.count}`;
  root.append(svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", { x: left, y: top, width: right - left, height: bottom - top }))));

  const xTicks = spec.x.ticks ?? (spec.x.log ? logTicks(x0, x1, width > 360) : ticksOf(x0, x1, width / 70, spec.x.whole));
  const yTicks = spec.y.ticks ?? ticksOf(y0, y1, (bottom - top) / 42);
  const xFormat = spec.x.format ?? (spec.x.log ? hertz : plainly(xTicks));
  const yFormat = spec.y.format ?? plainly(yTicks);
  for (const t of xTicks) {
    root.append(svg("line", { x1: X(t), x2: X(t), y1: top, y2: bottom, class: "grid-line" }));
    const edge = X(t) > right - 14 ? "end" : X(t) < left + 4 && !spec.x.log ? "start" : "middle";
    root.append(svg("text", { x: X(t), y: bottom + 15, "text-anchor": edge }, xFormat(t)));
  }
  if (!spec.y.hidden)
    for (const t of yTicks) {
      root.append(svg("line", { x1: left, x2: right, y1: Y(t), y2: Y(t), class: t === 0 ? "grid-line zero" : "grid-line" }));
      root.append(svg("text", { x: left - 6, y: Y(t) + 4, "text-anchor": "end" }, yFormat(t)));
    }
  root.append(svg("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle", class: "axis" }, spec.x.label));
  if (!spec.y.hidden)
    root.append(svg("text", { transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "axis" }, spec.y.label));
  if (spec.image)
    root.append(svg("image", { href: spec.image, x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none" }));

  const inside = svg("g", { "clip-path": `url(#${clip})` });
  root.append(inside);
  for (const s of spec.series) mark(inside, s, X, s.own ? onY(0, Math.max(...s.y) * 1.1 || 1) : Y, bottom);
  for (const line of spec.lines ?? [])
    inside.append(svg("line", { x1: X(line), x2: X(line), y1: top, y2: bottom, class: "marker" }));
  if (!spec.still) interactive(root, spec, { X, Y, top, bottom, left, right, readout, xFormat });
  return root;
}
chart.count = 0;

/** Draws one series. */
function mark(parent, s, X, Y, bottom) {
  if (s.kind === "bars") {
    const size = s.x.length > 1 ? Math.max(X(s.x[1]) - X(s.x[0]) - 1, 1) : 4;
    for (let i = 0; i < s.x.length; i++)
      if (s.y[i]) parent.append(svg("rect", { x: X(s.x[i]) - size / 2, y: Y(s.y[i]), width: size, height: Math.max(bottom - Y(s.y[i]), 0), fill: s.colour, opacity: 0.28 }));
    return;
  }
  if (s.kind === "stems") {
    s.x.forEach((x, i) => {
      parent.append(svg("line", { x1: X(x), x2: X(x), y1: bottom, y2: Y(s.y[i]), stroke: s.colour, "stroke-width": 2, opacity: 0.6 }));
      parent.append(svg("circle", { cx: X(x), cy: Y(s.y[i]), r: 4.5, fill: s.colour }));
      if (s.text) parent.append(svg("text", { x: X(x), y: Y(s.y[i]) - 9, "text-anchor": "middle", class: "mark" }, s.text[i]));
    });
    return;
  }
  let path = "", open = false;
  s.x.forEach((x, i) => {
    if (s.y[i] == null) { open = false; return; }
    path += `${open ? "L" : "M"}${X(x).toFixed(1)} ${Y(s.y[i]).toFixed(1)}`;
    open = true;
  });
  if (s.kind === "area" && path) {
    const floor = Y(0).toFixed(1);
    const filled = path.split("M").slice(1).map((run) => {
      const points = run.split("L");
      return `M${points[0].split(" ")[0]} ${floor}L${points.join("L")}L${points.at(-1).split(" ")[0]} ${floor}Z`;
    });
    parent.append(svg("path", { d: filled.join(""), fill: s.colour, opacity: 0.22 }));
  }
  parent.append(svg("path", { d: path, fill: "none", stroke: s.colour, "stroke-width": s.width ?? 2, "stroke-dasharray": s.dash ? "5 4" : "none", "stroke-linejoin": "round", opacity: s.opacity ?? 1 }));
}

/** A line and a readout that follow the pointer, or the arrow keys. */
function interactive(root, spec, at) {
  const shown = spec.series.filter((s) => s.name && !s.hidden);
  if (!shown.length) return;
  const lead = shown[0];
  const line = svg("line", { y1: at.top, y2: at.bottom, class: "cursor", visibility: "hidden" });
  root.append(line);
  let index = null;
  const show = (i) => {
    index = Math.min(Math.max(i, 0), lead.x.length - 1);
    const x = lead.x[index];
    line.setAttribute("x1", at.X(x));
    line.setAttribute("x2", at.X(x));
    line.setAttribute("visibility", "visible");
    const cells = shown.slice(0, 4).map((s) => `${shown.length > 1 ? `${s.name} ` : ""}${format(s.y[nearest(s.x, x)])}`);
    at.readout.value = `${at.xFormat(x)}${spec.x.unit ? ` ${spec.x.unit}` : ""}: ${cells.join(", ")}${spec.y.unit ? ` ${spec.y.unit}` : ""}`;
  };
  const hide = () => { line.setAttribute("visibility", "hidden"); at.readout.value = ""; };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * root.viewBox.baseVal.width;
    let best = 0;
    lead.x.forEach((v, i) => { if (Math.abs(at.X(v) - x) < Math.abs(at.X(lead.x[best]) - x)) best = i; });
    show(best);
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    show(index == null ? Math.floor(lead.x.length / 2) : index + step);
  });
}

function nearest(xs, x) {
  let best = 0;
  xs.forEach((v, i) => { if (Math.abs(v - x) < Math.abs(xs[best] - x)) best = i; });
  return best;
}

/** The chart of echoes at times in ms with levels in dB and positions from -100 to 100. */
function echoChart(host, note, ms, db, pans) {
  const series = { name: "echo", colour: "var(--fitted)", kind: "stems", x: ms, y: db, text: pans.map((pan, i) => (i < 10 ? side(pan) : "")) };
  chart(host, { title: "Echoes", note, x: { label: "time (ms)", unit: "ms", min: 0, max: 1.12 * ms.at(-1) }, y: { label: "level (dB)", unit: "dB", min: -62, max: 6 }, series: [series] });
}

/** Horizontal bars with labels and values: rows of {label, parts: [{value, colour, name}]}. */
function barList(host, title, note, rows, text) {
  const most = Math.max(...rows.flatMap((row) => row.parts.map((p) => p.value)), 1e-9);
  const list = html("ul", { class: "bars" });
  for (const row of rows) {
    const bars = html("span", { class: "tracks" });
    for (const p of row.parts)
      bars.append(html("span", { class: "track" }, html("span", { class: "bar", style: `width:${(100 * Math.max(p.value, 0)) / most}%;--c:${p.colour}` }), html("span", { class: "amount", text: text(p.value) })));
    list.append(html("li", {}, html("span", { class: "name", text: row.label }), bars));
  }
  host.append(html("h3", { text: title }), note ? html("p", { class: "muted small", text: note }) : "", list);
}
