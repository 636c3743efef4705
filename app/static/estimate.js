// A processed recording: the estimate of its settings.

import { by, call, dropArea, exported, guarded, make, number } from "./api.js";
import { follow } from "./fit.js";
import { PlayerView } from "./player.js";
import { draw } from "./plots.js";

export function setUpEstimate(state) {
  let recording = null;
  const form = by("estimate-form"), submit = form.querySelector("[type=submit]");
  const take = (record) => {
    recording = record.key;
    submit.disabled = false;
  };
  const show = dropArea(by("drop-recording"), state.limits, (record) => { take(record); return run(); });
  by("demo-recording").addEventListener("click", () => {
    const record = state.recordings.find((one) => one.key === "demo-wet");
    show(record);
    take(record);
    run();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); run(); });

  const run = guarded(async () => {
    const box = by("estimate-job");
    box.hidden = false;
    submit.disabled = true;
    box.replaceChildren(make("p", { className: "card muted" }, "Estimating …"));
    try {
      const { key } = await call("/api/estimates", { recording, chain: by("estimate-chain").value });
      const job = await follow(key, () => {});
      if (job.state !== "done") throw new Error(job.message || job.state);
      box.replaceChildren(...result(job));
    } catch (error) {
      box.hidden = true;
      throw error;
    } finally {
      submit.disabled = false;
    }
  });
}

function result(job) {
  const source = `job-${job.key}`;
  const remarks = job.remarks.map((text) => make("p", { className: "small" }, make("span", { className: "chip warning" }, "note"), ` ${text}`));
  const rows = job.rows.map((row) => make("tr", { className: row.note ? "muted" : "" }, make("td", {}, row.name), make("td", { className: "number" }, number(row.value)), make("td", {}, row.unit), make("td", { className: "number" }, row.low === null ? "" : `${number(row.low)} to ${number(row.high)}`), make("td", { className: "muted" }, row.note)));
  const head = make("tr", {}, ...["parameter", "value", "unit", "interval", ""].map((text, i) => make("th", { className: i === 1 || i === 3 ? "number" : "" }, text)));
  const table = make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  const player = new PlayerView([
    { key: "applied", label: "Demo voice with the estimate", path: `/api/jobs/${job.key}/audio/applied` },
    { key: "plain", label: "without", path: `/api/jobs/${job.key}/audio/plain` },
  ]);
  const lacking = make("span", { className: "muted small" });
  const document_ = make("button", { type: "button", onclick: guarded(async () => { lacking.textContent = (await exported(source, {}, "json")).join("; "); }) }, "Preset document");
  const sliders = make("a", { className: "button", href: `#presets/${source}` }, "Change and export it");
  const curves = make("div", { className: "grid curves" });
  draw(curves, job.curves);
  const interval = job.calibrated ? "intervals of 68 %, calibrated on test recordings" : "the central 68 % of the windows, not a confidence interval";
  const known = job.rows.some(({ low }) => low !== null);
  const windows = `From ${job.windows} window${job.windows > 1 ? "s" : ""} of 10 s${known ? `; ${interval}` : ""}.`;
  return [
    make("div", { className: "card" }, make("h2", {}, job.title), ...remarks, make("p", { className: "muted small" }, windows), player.element, make("div", { className: "row downloads" }, document_, sliders, lacking)),
    curves,
    make("div", { className: "card" }, table),
  ];
}
