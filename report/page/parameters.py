"""The parameters of a report: values with units, certainty, and their place among the published presets."""

from collections.abc import Mapping
from typing import Any

from reknob.afx.effect import flatten
from reknob.formats.certainty import Certainty
from reknob.report.page.published import percentile, published
from reknob.report.page.source import FittedRun
from reknob.report.tables import number


def parameters(run: FittedRun, certainty: Mapping[str, Certainty]) -> list[dict[str, Any]]:
    """The scalar parameters by effect, in the order of the chain, and how many numbers its arrays hold."""
    values, groups = flatten(run.values), {}
    for name, p in run.chain.walk():
        effect, _, label = name.rpartition(".")
        group = groups.setdefault(effect, {"effect": effect, "rows": [], "arrays": []})
        if not p.preset:
            continue
        value = values[name]
        if value.numel() > 1:
            group["arrays"].append(f"{label} ({' × '.join(map(str, value.shape))})")
            continue
        group["rows"].append(_row(name, label, value.item(), p.unit, certainty.get(name)))
    return [group for group in groups.values() if group["rows"] or group["arrays"]]


def _row(name: str, label: str, value: float, unit: str, certainty: Certainty | None) -> dict[str, Any]:
    low, high = (certainty.low, certainty.high) if certainty else (None, None)
    known = published()["quantiles"].get(name)
    return {
        "name": name,
        "label": label.replace("_", " "),
        "number": value,
        "value": number(value),
        "unit": unit,
        "low": number(low) if isinstance(low, float) else "",
        "high": number(high) if isinstance(high, float) else "",
        "word": str(certainty.word) if certainty and isinstance(low, float) else "",
        "percentile": percentile(name, value),
        "quantiles": [known[round(share * 20)] for share in (0.05, 0.25, 0.5, 0.75, 0.95)] if known else None,
    }
