"""From what contenders took to ratios, a verdict, a table and a file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from settings import OURS, Settings

Folds = list[dict[str, Any]]
Taken = dict[str, dict[str, Any]]

GATE = 4.0
"""How many times the CPU time of the stacked folds every opponent is to take, in the median over rounds."""

TOLERANCES = {"float32": {"train_loss": 1e-5, "val_loss": 1e-5}, "float64": {"train_loss": 1e-6, "val_loss": 1e-11}}
"""Of the loss curves without dropout. After two epochs all contenders were within 2e-7 in float32 and 2e-16 in float64;
training losses some of them average in float32 whatever they train in. Float64 is the sharp one: a hundredth more
weight decay, which float32 rounds away altogether, shows there as 1e-8, and one weight off by 1e-6 as 1e-9. Float32 is
what is timed: two matrices whose gradients were laid out wrongly showed as 4e-4."""

APART = 1e-6
"""How far apart numbers may be that the product and pandas read, as a share: float32, which ours are, is 6e-8."""

PANDAS, RDKIT = "pandas", "rdkit"

PACKAGES = ("torch", "lightning", "skorch", "scikit-learn", "numpy", "pandas", "pyarrow")


def differences(answers: dict[str, Folds]) -> dict[str, Any]:
    """The largest difference between any two contenders over all folds and epochs, and of the best epochs' scores."""
    return {
        **{name: _largest(answers, name) for name in ("train_loss", "val_loss", "val_auroc")},
        **{name: _largest(answers, "best", name) for name in ("test_auroc", "test_ap")},
    }


def _largest(answers: dict[str, Folds], *path: str) -> float:
    of_contender = [_flat(folds, *path) for folds in answers.values()]
    assert len({len(values) for values in of_contender}) == 1, "contenders trained different numbers of epochs"
    pairs = ((a, b) for one, other in combinations(of_contender, 2) for a, b in zip(one, other, strict=True))
    found = [abs(a - b) for a, b in pairs]
    return nan if any(map(isnan, found)) else max(found)


def _flat(folds: Folds, name: str, *rest: str) -> list[float]:
    leaves = [fold[name][rest[0]] if rest else fold[name] for fold in folds]
    return [value for leaf in leaves for value in (leaf if isinstance(leaf, list) else [leaf])]


def too_different(equality: dict[str, dict[str, float]]) -> list[str]:
    """What lies above its tolerance, a sentence each; not a number does, too."""
    return [
        f"{precision} {name} differs by {found[name]:.1e}, expected at most {most:.0e}"
        for precision, found in equality.items()
        for name, most in TOLERANCES[precision].items()
        if not found[name] <= most
    ]


def ratios(taken: Taken, own: Collection[str] = OURS) -> dict[str, dict[str, Any]]:
    """``{own: {opponent: {"cpu": {"min", "median", "max"}, "wall": ..., "cold_cpu", "cold_wall"}}}``: opponent's time
    over ours, round by round.
    """
    return {
        mine: {name: _ratio(taken[mine], other) for name, other in taken.items() if name not in own}
        for mine in own
        if mine in taken
    }


def reading(found: dict[str, Any], opponent: str = PANDAS) -> dict[str, Any]:
    """With rates, in rows a second by the clock, and the product's over the opponent's: of its ways of reading, by wall
    and by CPU time.
    """
    readers = {
        name: of | {"rate": found["rows"] / median(one["wall"] for one in of["rounds"])}
        for name, of in found["readers"].items()
    }
    return found | {"readers": readers, "ratios": ratios(readers, [name for name in readers if name != opponent])}


def read_too_differently(found: dict[str, Any]) -> list[str]:
    """A sentence where the product has read other numbers than pandas."""
    apart = found["difference"]
    return [] if apart <= APART else [f"reading: numbers differ by {apart:.1e}, expected at most {APART:.0e}"]


def described_too_differently(found: dict[str, Any]) -> list[str]:
    """A sentence where the product makes other values of a molecule than RDKit's own functions."""
    apart = found["difference"]
    return [] if apart <= APART else [f"fingerprints: values differ by {apart:.1e}, expected at most {APART:.0e}"]


def aligned_too_differently(found: dict[str, Any]) -> list[str]:
    """A sentence where the product finds other values at a step than pandas."""
    apart = found["difference"]
    return [] if apart <= APART else [f"alignment: values differ by {apart:.1e}, expected at most {APART:.0e}"]


def days_too_different(found: dict[str, Any]) -> list[str]:
    """A sentence where the product makes other features of a day than pandas and SciPy."""
    apart = found["difference"]
    return [] if apart <= APART else [f"daily features: values differ by {apart:.1e}, expected at most {APART:.0e}"]


def _ratio(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("cpu", "wall"):
        of_round = [b[kind] / a[kind] for a, b in zip(mine["rounds"], other["rounds"], strict=True)]
        found[kind] = {"min": min(of_round), "median": median(of_round), "max": max(of_round)}
        found[f"cold_{kind}"] = other["cold"][kind] / mine["cold"][kind]
    return found


def verdict(by_width: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Whether stacked folds of the relapse model are :data:`GATE` times as fast as every opponent at every width."""
    found = [
        {"d_model": int(width), "opponent": name, "ratio": of["cpu"]["median"], "passed": of["cpu"]["median"] >= GATE}
        for width, part in by_width.items()
        for name, of in part["ratios"].get("stacked", {}).items()
    ]
    return {"times": GATE, "passed": all(one["passed"] for one in found) if found else None, "verdicts": found}


def sections(parts: dict[Settings, dict[str, Any]]) -> dict[str, Any]:
    """``{"settings", "by_width": {width: part}}``, of the relapse model at the top, of the activity model beneath its
    name and its encoder's.
    """
    found: dict[str, Any] = {}
    for one, part in parts.items():
        own = found if one.case == "relapse" else found.setdefault(one.case, {}).setdefault(one.encoder, {})
        left_out = ("d_model", "double")
        own["settings"] = {k: v for k, v in asdict(one).items() if k not in left_out and v is not None}
        own.setdefault("by_width", {})[str(one.d_model)] = part
    return found


def machine() -> dict[str, Any]:
    """Where and with what this is measured."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": usable,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(file: Path, results: dict[str, Any]) -> None:
    """One JSON file, whole or not at all."""
    half = file.with_name(f"{file.name}.part")
    half.write_text(json.dumps(results, indent=2) + "\n")
    os.replace(half, file)


def equality_line(precision: str, found: dict[str, float]) -> str:
    """The largest differences in one line, each loss with its tolerance."""
    most = TOLERANCES[precision]
    losses = ", ".join(f"{name.replace('_', ' ')} {found[name]:.1e} (at most {most[name]:.0e})" for name in most)
    return f"{precision}: largest difference in {losses}; validation AUROC {found['val_auroc']:.1e}"


def table(title: str, part: dict[str, Any]) -> list[str]:
    """The contenders of one model, a line each: seconds, memory and ratios with their range; and what they come to."""
    taken, found = part["contenders"], part["ratios"]
    head = f"{'':10} {'start':>6} {'cold':>7} {'CPU s':>7} {'wall s':>7} {'MB':>5}"
    heads = [f"{'CPU / ' + mine:>20} {'wall / ' + mine:>20}" for mine in found]
    lines = [f"{title}: {part['parameters']:,} parameters", "  ".join([head, *heads])]
    for name, of in taken.items():
        cpu, wall = (median(one[kind] for one in of["rounds"]) for kind in ("cpu", "wall"))
        own = (
            f"{name:10} {of['start']['cpu']:6.1f} {of['cold']['cpu']:7.1f} {cpu:7.1f} {wall:7.1f} {of['peak_mb']:5.0f}"
        )
        against = [
            f"{_range(of_mine[name], 'cpu')} {_range(of_mine[name], 'wall')}"
            for of_mine in found.values()
            if name in of_mine
        ]
        lines.append("  ".join([own, *against]))
    return [*lines, _left_to_itself(part)]


def reading_table(found: dict[str, Any]) -> list[str]:
    """Who reads, a line each: rows a second, seconds, and how many times pandas' rate that is."""
    return _rates(f"reading: {found['rows']:,} rows of raw text, {found['bytes'] / 1e6:.0f} MB", found, PANDAS)


def fingerprints_table(found: dict[str, Any]) -> list[str]:
    """Who describes molecules, a line each, as of reading."""
    return _rates(f"fingerprints: {found['rows']:,} molecules", found, RDKIT)


def alignment_table(found: dict[str, Any]) -> list[str]:
    """Who aligns streams, a line each, as of reading."""
    return _rates(f"alignment: {found['rows']:,} steps of 527 columns", found, PANDAS)


def daily_features_table(found: dict[str, Any]) -> list[str]:
    """Who describes days, a line each, as of reading; rows are days of one patient, described on one core."""
    motion, heart = found["hz"]
    what = f"{found['rows']} days of one patient, {found['bytes'] / 1e6:.0f} MB"
    return _rates(f"daily features: {what}, {motion:g} Hz motion, {heart:g} Hz heart", found, PANDAS)


def _rates(title: str, found: dict[str, Any], opponent: str) -> list[str]:
    against_whom = f"rate / {opponent}"
    lines = [title, f"{'':10} {'rows/s':>9} {'CPU s':>7} {'wall s':>7}  {against_whom:>20} {'by CPU time':>20}"]
    for name, of in found["readers"].items():
        cpu, wall = (median(one[kind] for one in of["rounds"]) for kind in ("cpu", "wall"))
        rate = f"{of['rate']:9,.0f}" if of["rate"] >= 100 else f"{of['rate']:9.3g}"
        line = f"{name:10} {rate} {cpu:7.2f} {wall:7.2f}"
        against = found["ratios"].get(name, {}).get(opponent)
        lines.append(f"{line}  {_range(against, 'wall')} {_range(against, 'cpu')}" if against else line)
    return lines


def _left_to_itself(part: dict[str, Any]) -> str:
    """Opponents' CPU time against the way that the product takes where it is to choose."""
    mode = part["auto"]["mode"]
    told = [
        f"{name} takes {_range(of, 'cpu').strip()} times its CPU time"
        for name, of in part["ratios"].get(mode, {}).items()
    ]
    return "; ".join([f"training.mode auto is {mode} here ({part['auto']['reason']})", *told])


def _range(ratio: dict[str, Any], kind: str) -> str:
    low, middle, high = (ratio[kind][name] for name in ("min", "median", "max"))
    return f"{f'{middle:.2f} ({low:.2f}-{high:.2f})':>20}"


def verdict_lines(gate: dict[str, Any]) -> list[str]:
    """The gate, a line per opponent and width."""
    if gate["passed"] is None:
        return ["gate: not judged without stacked and an opponent"]
    told = {True: "passed", False: "missed"}
    lines = [
        f"  d_model {one['d_model']}, {one['opponent']}: {one['ratio']:.2f} times, {told[one['passed']]}"
        for one in gate["verdicts"]
    ]
    expected = f"every opponent's CPU time at least {gate['times']:g} times that of the stacked folds"
    return [f"gate, {expected}: {told[gate['passed']]}", *lines]
