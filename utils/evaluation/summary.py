"""The analysis of a network in a few lines for people, and without its long lists for programs."""

from typing import Any

from utils.evaluation.metrics import format_metrics

BULKY = ("calibration", "per_class", "confusion", "confused", "mistakes", "class_names", "per_class_gain")


def summary(analysis: dict[str, Any]) -> list[str]:
    """Analysis in a few lines for people."""
    mega_adds, megabytes = analysis["multiply_adds"] / 1e6, analysis["file_bytes"] / 1e6
    q1, median, q3 = (analysis[f"latency_{name}ms"] for name in ("q1_", "", "q3_"))
    lines = [
        format_metrics(analysis),
        f"cost: {mega_adds:,.1f} million multiply-adds, {megabytes:.2f} MB, {median:.2f} ms for one image "
        f"(quartiles {q1:.2f} and {q3:.2f}), {analysis['throughput']:,.0f} images/s in batches of "
        f"{analysis['throughput_batch']}",
    ]
    if analysis["busy"]:
        lines.append(f"note: the machine was busy ({analysis['busy']}): its times may be too long")
    if analysis["confused"]:
        worst = analysis["confused"][0]
        lines.append(f"most confused: {worst['true']} taken for {worst['predicted']}, {worst['share']:.1f} %")
    if analysis["teacher"]:
        of = analysis["teacher"]
        shares = [f"{of[name]:.1f} % {name}" for name in ("inherited", "corrected") if of[name] is not None]
        text = f"agrees on {of['agreement']:.2f} %; of its {of['teacher_mistakes']:,} mistakes {', '.join(shares)}"
        lines.append(f"teacher: {text}")
    if analysis["baseline"]:
        of = analysis["baseline"]
        by_class = zip(of["per_class_gain"], analysis["class_names"], strict=True)
        gains = [(gain, name) for gain, name in by_class if gain is not None]
        (low, loser), (high, winner) = min(gains), max(gains)
        text = f"{of['gain']:+.2f} points; {winner} {high:+.1f}, {loser} {low:+.1f}"
        lines.append(f"against the student alone: {text}")
    return lines


def brief(analysis: dict[str, Any]) -> dict[str, Any]:
    """Analysis without its long lists."""
    short = {name: value for name, value in analysis.items() if name not in BULKY}
    for name in ("teacher", "baseline"):
        if analysis[name]:
            short[name] = {key: value for key, value in analysis[name].items() if key not in BULKY}
    return short
