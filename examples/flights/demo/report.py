"""The demo's page: what was done, and how April went, in figures and charts."""

from html import escape
from pathlib import Path

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem;color:#1c2430}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem}
.tiles{display:flex;flex-wrap:wrap;gap:.8rem} .tile{background:#f3f5f8;border-radius:8px;padding:.7rem 1rem}
.tile b{display:block;font-size:1.3rem} table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e7ee;font-variant-numeric:tabular-nums}
pre{background:#f3f5f8;padding:1rem;border-radius:8px;overflow:auto;font-size:12.5px} svg{background:#fff}
.late{fill:#d1495b} .said{stroke:#2e6f95;fill:none;stroke-width:2} .dot{fill:#2e6f95} text{font-size:11px;fill:#5a6472}
"""


def write_report(path: Path, facts: dict, clock: object) -> Path:
    """Writes one page that needs no network, and returns where it is."""
    april, live = facts["april"], facts["live"]
    tiles = [
        (
            f"{facts['first_prediction_s']:.0f} s",
            "from the start to the first prediction over HTTP",
        ),
        (
            f"{april['auc']:.3f}",
            f"AUC on {april['scored']:,} flights of April (95 %: {april['auc_interval'][0]:.3f} to {april['auc_interval'][1]:.3f})",
        ),
        (
            f"{april['brier']:.4f}",
            f"Brier score; always saying late March's rate: {april['brier_of_rate']:.4f}",
        ),
        (f"{april['late_rate']:.1%}", f"were late; {april['mean_probability']:.1%} predicted"),
        (
            f"{live['p50_ms']:.1f} ms",
            f"median of {live['asked']} single predictions, with the client",
        ),
        (f"{facts['memory_mb']:.0f} MB", "peak memory of all processes"),
    ]
    parts = [
        "<h1>Will the flight arrive more than 15 minutes late?</h1>",
        "<p>Trained on January to March 2013, asked of April's flights at their scheduled departure.</p>",
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(a)}</b>{escape(b)}</div>' for a, b in tiles)
        + "</div>",
        "<h2>Late flights by day of April: what happened (bars) and what was predicted (line)</h2>",
        _days(april["days"]),
        "<h2>Calibration: of flights given this probability, how many were late</h2>",
        _calibration(april["calibration"]),
        "<h2>What validation set aside</h2>",
        _quarantine(facts["quarantine"]),
        "<h2>Where the endpoint's model comes from</h2>",
        _origin(facts),
        "<h2>What was done</h2>",
        "<pre>"
        + escape("\n".join(f"{s:6.1f} s  {t}" for s, t in getattr(clock, "lines", [])))
        + "</pre>",
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Madang: flights</title><style>{STYLE}</style>"
    path.write_text(head + "\n".join(parts), encoding="utf-8")
    return path


def _days(days: list[dict]) -> str:
    width, height, step = 900, 220, 900 / len(days)
    scale = height / max(0.01, *(max(d["late"], d["probability"]) for d in days)) * 0.92
    bars, points = [], []
    for i, day in enumerate(days):
        x, h = i * step, day["late"] * scale
        title = f"<title>{day['day']}: {day['len']} flights, {day['late']:.1%} late, {day['probability']:.1%} predicted</title>"
        bars.append(
            f'<rect class="late" x="{x + 3:.1f}" y="{height - h:.1f}" width="{step - 6:.1f}" height="{h:.1f}" opacity=".55">{title}</rect>'
        )
        bars.append(
            f'<text x="{x + step / 2:.1f}" y="{height + 14}" text-anchor="middle">{day["day"].day}</text>'
        )
        points.append(f"{x + step / 2:.1f},{height - day['probability'] * scale:.1f}")
    return f'<svg viewBox="0 0 {width} {height + 20}" width="100%">{"".join(bars)}<polyline class="said" points="{" ".join(points)}"/></svg>'


def _calibration(bins: list[dict]) -> str:
    size = 300
    most = max(b["len"] for b in bins)
    dots = [
        f'<circle class="dot" cx="{b["probability"] * size:.1f}" cy="{size - b["late"] * size:.1f}" r="{3 + 9 * (b["len"] / most) ** 0.5:.1f}" opacity=".7">'
        f"<title>{b['len']} flights: {b['probability']:.1%} predicted, {b['late']:.1%} late</title></circle>"
        for b in bins
    ]
    return (
        f'<svg viewBox="-30 -5 {size + 40} {size + 30}" width="380"><rect width="{size}" height="{size}" fill="#f8f9fb"/>'
        f'<line x1="0" y1="{size}" x2="{size}" y2="0" stroke="#b8c0cc"/>{"".join(dots)}'
        f'<text x="0" y="{size + 16}">0 %</text><text x="{size}" y="{size + 16}" text-anchor="end">predicted 100 %</text></svg>'
    )


def _quarantine(found: dict) -> str:
    rows = []
    for dataset, part in found.items():
        reasons = "; ".join(f"{n:,} × {why}" for why, n in part["reasons"].items()) or "nothing"
        rows.append(
            f"<tr><td>{escape(dataset)}<td>{part['events']:,}<td>{part['valid']:,}<td>{escape(reasons)}"
        )
    return (
        "<table><tr><th>dataset<th>events<th>valid<th>quarantined, with reasons"
        + "".join(rows)
        + "</table>"
    )


def _origin(facts: dict) -> str:
    rows = "".join(
        f"<tr><td>{seq}<td>{escape(kind)}<td>{escape(subject)}<td>{inputs}"
        for seq, kind, subject, inputs in facts["origin"]
    )
    return "<table><tr><th>line<th>what<th>subject<th>inputs" + rows + "</table>"
