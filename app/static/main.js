// The page: its parts by the address, and what they share.

import { by, call, make, say } from "./api.js";
import { setUpEstimate } from "./estimate.js";
import { setUpFit } from "./fit.js";
import { setUpPresets } from "./presets.js";

const PARTS = ["fit", "estimate", "presets"];

function show() {
  const [part, key] = location.hash.slice(1).split("/");
  const shown = PARTS.includes(part) ? part : "fit";
  for (const name of PARTS) by(name).hidden = name !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown === "presets") presets.open(key).catch(say);
  window.scrollTo(0, 0);
}

let presets;

async function begin() {
  const state = await call("/api/state");
  // A fit that runs is shown on top, wherever the user is.
  const busy = by("busy");
  const onBusy = (text) => {
    busy.hidden = !text;
    busy.textContent = text || "";
  };
  busy.addEventListener("click", () => { location.hash = "#fit"; });
  const fill = (select, values, chosen) => select.replaceChildren(...values.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
  fill(by("fit-model"), state.models.map((name) => [name, MODELS[name] || name]), "diffvox");
  fill(by("estimate-chain"), state.estimators.map((name) => [name, CHAINS[name] || name]), "peq_comphalf");
  fill(by("export-to"), Object.entries(state.exporters).filter(([key]) => key !== "json").map(([key, what]) => [key, `${key}: ${what}`]));
  presets = setUpPresets(state);
  setUpFit(state, onBusy);
  setUpEstimate(state);
  window.addEventListener("hashchange", show);
  show();
  document.body.dataset.ready = "true";
}

const MODELS = {
  diffvox: "vocal: EQ, compressor, echo, reverb",
  eq_comp: "vocal: EQ and compressor",
  eq_comp_delay: "vocal: EQ, compressor, echo",
  eq_comp_reverb: "vocal: EQ, compressor, reverb",
  compressor: "compressor alone",
  drums: "drums",
  bass: "bass",
  guitar: "guitar",
  master: "mix: mastering bus",
};
const CHAINS = {
  peq: "equaliser",
  comphalf: "compressor",
  dist: "clipper",
  peq_comphalf: "equaliser and compressor",
  peq_comphalf_dist: "equaliser, compressor, clipper",
};

begin().catch(say);
