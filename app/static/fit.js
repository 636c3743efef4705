// A pair: its recordings, its check, its fit.

import { by, bytes, call, dropArea, exported, guarded, make, number, say } from "./api.js";
import { PlayerView } from "./player.js";
import { card, draw, lossCurve } from "./plots.js";

const EVERY = 500; // ms between two looks at a job
const CHIP = { refusal: "bad", warning: "warning", note: "" };

const isOpen = (job) => ["waiting", "running"].includes(job.state);

// Looks at a job until it has ended.
export async function follow(key, shown) {
  let since = 0;
  for (;;) {
    const job = await call(`/api/jobs/${key}?since=${since}`);
    since = job.step ?? 0;
    shown(job);
    if (!isOpen(job)) return job;
    await new Promise((done) => setTimeout(done, EVERY));
  }
}

export function setUpFit(state, onBusy) {
  const pair = { dry: null, wet: null };
  let turn = 0, views = [];

  const check = guarded(async () => {
    if (!pair.dry || !pair.wet) return;
    const mine = ++turn, box = by("check");
    by("fit-form").hidden = true;
    box.hidden = false;
    box.replaceChildren(make("p", { className: "muted" }, "Checking the pair …"));
    const job = await follow((await call("/api/checks", pair)).key, (one) => {
      if (mine === turn && one.ahead) box.replaceChildren(make("p", { className: "muted" }, "The check waits for the job that runs."));
    });
    if (mine !== turn) return;
    if (job.state === "failed") throw new Error(job.message);
    const worst = job.refusal ? "bad" : job.findings.some((f) => f.severity === "warning") ? "warning" : "good";
    const word = { bad: "cannot be fitted", warning: "to be fitted with care", good: "a good pair" }[worst];
    const list = make("ul", { className: "findings" }, ...job.findings.map((f) => make("li", {}, make("span", { className: `chip ${CHIP[f.severity] ?? ""}` }, f.severity), make("span", {}, f.text, f.remedy ? make("span", { className: "muted" }, `; ${f.remedy}`) : ""))));
    box.replaceChildren(make("div", { className: "row" }, make("span", { className: `chip ${worst}` }, word), make("span", { className: "muted small" }, job.summary)), list);
    by("fit-form").hidden = Boolean(job.refusal);
  });

  const shows = Object.fromEntries(["dry", "wet"].map((role) => [role, dropArea(by(`drop-${role}`), state.limits, (record) => { pair[role] = record.key; return check(); })]));
  by("demo-pair").addEventListener("click", () => {
    for (const role of ["dry", "wet"]) {
      pair[role] = `demo-${role}`;
      shows[role](state.recordings.find((one) => one.key === pair[role]));
    }
    check();
  });

  by("fit-form").addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    const job = await call("/api/fits", {
      ...pair,
      model: by("fit-model").value,
      steps: Number(by("fit-steps").value),
      start: by("fit-start").checked,
      prune: by("fit-prune").checked,
      certainty: by("fit-certainty").checked,
    });
    watch(job.key);
  }));

  async function watch(key) {
    const view = new FitView(key);
    // Fits that have ended make room; the others stay, as each is stopped by its own view.
    views = [view, ...views.filter((one) => one.isOpen)];
    by("fit-job").replaceChildren(...views.map((one) => one.element));
    by("fit-job").hidden = false;
    if (!by("fit").hidden) view.element.scrollIntoView({ behavior: "smooth", block: "start" });
    try {
      await follow(key, (job) => {
        view.update(job);
        if (job.state === "running") onBusy(job.step ? `Fitting, step ${job.step} of ${job.steps}` : "Fitting");
        else if (!view.isOpen) onBusy("");
      });
    } catch (error) {
      view.isOpen = false;
      onBusy("");
      say(error);
    }
  }

  // After a reload of the page, the newest fit is shown again, and those that wait or run.
  const fits = state.jobs.filter((job) => job.kind === "fit");
  for (const job of fits) if (isOpen(job) || job === fits.at(-1)) watch(job.key);
}

class FitView {
  constructor(key) {
    this.key = key;
    this.losses = [];
    this.timed = null;
    this.isOpen = true;
    const path = (which) => `/api/jobs/${key}/audio/${which}`;
    this.player = new PlayerView([
      { key: "so-far", label: "Fitted", path: path("so-far") },
      { key: "dry", label: "Dry", path: path("dry") },
      { key: "wet", label: "Wet", path: path("wet") },
    ]);
    this.title = make("h2", {}, "Fit");
    this.state = make("span", { className: "chip" }, "waiting");
    this.bar = make("progress", { max: 1, value: 0, "aria-label": "Steps taken" });
    this.figures = make("div", { className: "figures" });
    this.stop = make("button", { type: "button", onclick: guarded(async () => { this.stop.disabled = true; await call(`/api/jobs/${key}/stop`, {}); }) }, "Stop, keep the best");
    this.renew = make("button", { type: "button", onclick: guarded(() => this.hearNewest()) }, "Hear the newest state");
    this.listen = make("div", { hidden: true }, this.player.element, make("p", { className: "row" }, this.renew, this.note = make("span", { className: "muted small" }, "All three at the same loudness.")));
    this.message = make("p", { hidden: true });
    this.actions = make("div", { className: "row downloads", hidden: true });
    this.curves = make("div", { className: "grid curves" });
    this.dashed = make("p", { className: "muted small", hidden: true }, "Dashed: at the first step.");
    this.values = make("details", { className: "card", hidden: true });
    this.element = make("div", {}, make("div", { className: "card" }, make("div", { className: "head" }, this.title, make("span", { className: "row" }, this.state, this.stop)), this.bar, this.figures, this.message, this.listen, this.actions), this.curves, this.dashed, this.values);
  }

  async hearNewest() {
    this.renew.disabled = true;
    try {
      const step = this.step;
      await this.player.renew("so-far");
      await this.player.choose("so-far");
      if (!this.player.isPlaying) await this.player.toggle();
      this.note.textContent = `The best of ${step} steps.`;
    } finally {
      this.renew.disabled = false;
    }
  }

  update(job) {
    this.step = job.step;
    this.losses.push(...job.losses);
    const open = this.isOpen = isOpen(job);
    this.title.textContent = job.title;
    const word = job.stopping ? "stopping" : job.state === "waiting" && job.ahead ? "waiting for another job" : job.state === "running" ? job.phase : job.state;
    this.state.textContent = word;
    this.state.className = `chip ${{ done: "good", stopped: "warning", failed: "bad" }[job.state] ?? ""}`;
    this.stop.hidden = !open;
    // Without a value the bar moves to and fro.
    if (job.step || !open) this.bar.value = open ? job.step / job.steps : 1;
    else this.bar.removeAttribute("value");
    const figures = [["step", `${job.step} of ${job.steps}`]];
    if (this.losses.length) figures.push(["loss at the start", number(this.losses[0])], ["lowest loss", number(job.lowest)]);
    const left = this.left(job);
    if (open && left) figures.push(["to go", left]);
    this.figures.replaceChildren(...figures.map(([name, value]) => make("span", {}, make("b", {}, value), make("span", { className: "muted small" }, name))));
    this.message.hidden = !job.message;
    this.message.textContent = job.message;
    this.message.className = "bad";
    this.listen.hidden = !job.audible;
    this.renew.hidden = !open;
    if (job.curves.length) {
      if (this.drawn !== job.shown) draw(this.curves, job.curves, job.curves_before);
      this.drawn = job.shown;
      this.dashed.hidden = false;
    }
    if (this.losses.length > 1) {
      const plot = card(lossCurve(this.losses));
      if (this.lossCard?.isConnected) this.lossCard.replaceWith(plot);
      else this.curves.prepend(plot);
      this.lossCard = plot;
    }
    if (job.values.length) this.showValues(job.values);
    if (!open && job.complete) this.offer(job);
  }

  left(job) {
    const now = performance.now();
    if (!job.step || job.step >= job.steps) return "";
    this.timed ??= { step: job.step, at: now };
    const taken = job.step - this.timed.step;
    if (taken < 3) return "";
    const s = ((now - this.timed.at) / taken / 1000) * (job.steps - job.step);
    return s < 90 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`;
  }

  showValues(values) {
    this.values.hidden = false;
    const rows = values.map((v) => make("tr", {}, make("td", {}, v.name), make("td", { className: "number" }, number(v.value)), make("td", {}, v.unit)));
    const table = make("table", { className: "values-table" }, make("tbody", {}, ...rows));
    this.values.replaceChildren(make("summary", {}, `Values (${values.length})`), make("div", { className: "scroll" }, table));
  }

  offer(job) {
    if (!this.actions.hidden) return;
    const source = `job-${this.key}`;
    if (this.player.loaded.has("so-far")) { // that of before the end
      this.note.textContent = "All three at the same loudness.";
      guarded(() => this.player.renew("so-far"))();
    }
    const path = `/api/jobs/${this.key}/report`;
    const report = make("button", { type: "button", onclick: guarded(async () => {
      report.disabled = true;
      report.textContent = "Writing the report …";
      try {
        await bytes(path);
        report.replaceWith(make("a", { className: "button", href: path, target: "_blank", rel: "noopener" }, "Open the report"));
      } finally {
        report.disabled = false;
        report.textContent = "Write the report";
      }
    }) }, "Write the report");
    const sliders = make("a", { className: "button", href: `#presets/${source}` }, "Hear and change it live");
    const choice = by("export-to").cloneNode(true);
    choice.removeAttribute("id");
    choice.setAttribute("aria-label", "Format");
    const lacking = make("span", { className: "muted small" });
    const save = (to) => guarded(async () => { lacking.textContent = (await exported(source, {}, to())).map((line) => `not in this format: ${line}`).join("; "); });
    this.actions.append(report, sliders, make("button", { type: "button", onclick: save(() => "json") }, "Preset document"), choice, make("button", { type: "button", onclick: save(() => choice.value) }, "Export"), lacking);
    this.actions.hidden = false;
  }
}
