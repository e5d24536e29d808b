"""``python tests/bench``: this product against a PyTorch loop, Lightning and skorch, on the same cross-validations, and
against pandas, on the same raw file and the same streams, and against RDKit's own functions, on the same molecules.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import results
from rounds import Failed, Request, align, describe, describe_days, race, read, train_all, write_cases
from settings import (
    ALIGN_SECONDS,
    ALIGNMENT,
    CASES,
    CONTENDERS,
    DAILY_FEATURES,
    DAILY_RATES,
    DAYS,
    FINGERPRINTS,
    MOLECULES,
    OURS,
    PACKAGES,
    PARAMETERS,
    QUICK,
    QUICK_ALIGN_SECONDS,
    QUICK_DAILY_RATES,
    QUICK_MODELS,
    QUICK_MOLECULES,
    QUICK_READ_ROWS,
    READ_ROUNDS,
    READ_ROWS,
    READING,
    TAKE_PART,
    Settings,
)

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130
ALL = [*CASES, READING, FINGERPRINTS, ALIGNMENT, DAILY_FEATURES]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"bench: error: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(USER_ERROR)


def count(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="bench", description=__doc__)
    add = parser.add_argument
    add("--case", nargs="+", choices=ALL, default=ALL, help="what is trained, read, described or aligned (default all)")
    add("--d-model", type=int, nargs="+", choices=list(PARAMETERS), default=list(PARAMETERS), help="widths")
    beside = f"{READ_ROUNDS} readings, descriptions and alignments each"
    often = f"cross-validations of each contender, and {beside}, after a first one (default 3)"
    add("--rounds", type=count, default=3, help=often)
    add("--epochs", type=count, help="epochs of each cross-validation (default 2 of relapse, 1 of activity)")
    add("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="who takes part")
    add("--output", type=Path, default=Path("bench.json"), help="the results' file (default bench.json)")
    add("--quick", action="store_true", help="3 folds, few rows, one epoch, one round: that everything works; no gate")
    add("--gate", action="store_true", help=f"exit code 1 unless stacked folds are {results.GATE:g} times as fast")
    options = parser.parse_args(arguments)
    options.case = [name for name in ALL if name in options.case]
    options.d_model = list(dict.fromkeys(options.d_model))
    options.contenders = [name for name in CONTENDERS if name in options.contenders]
    _check(parser, options)
    return options


def _check(parser: Parser, options: argparse.Namespace) -> None:
    for case in models_of(options):
        if len(names := taking_part(options, case)) < 2:
            found = f"expected two or more, found {', '.join(names) or 'none'} in the case {case}"
            parser.error(f"--contenders: {found}")
        for name in names:
            if name in PACKAGES and find_spec(PACKAGES[name]) is None:
                found = f"expected the package {PACKAGES[name]}, found none; install the extra bench"
                parser.error(f"--contenders {name}: {found}")
    if options.gate and (options.quick or "relapse" not in options.case or not _judged(options.contenders)):
        parser.error("--gate: expected stacked and an opponent at full size, found a benchmark that cannot be judged")
    if options.output.is_dir() or not options.output.absolute().parent.is_dir():
        parser.error(f"--output: expected a file in a folder that exists, found {str(options.output)!r}")


def _judged(names: list[str]) -> bool:
    return "stacked" in names and any(name not in OURS for name in names)


def models_of(options: argparse.Namespace) -> list[str]:
    """The cases in which something is trained."""
    return [case for case in options.case if case in CASES]


def taking_part(options: argparse.Namespace, case: str) -> list[str]:
    """The contenders of a case."""
    return [name for name in options.contenders if name in TAKE_PART[case]]


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; the exit code says whether the contenders trained, and read, the same thing."""
    options = parse(arguments)
    machine = results.machine()
    tell(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} before it starts")
    parts, unequal = trained(options) if models_of(options) else ({}, [])
    found = {"machine": machine, "quick": options.quick, **results.sections(parts), "equal": not unequal}
    if "by_width" in found and not options.quick and not unequal:
        found["gate"] = results.verdict(found["by_width"])
    if READING in options.case:
        found[READING] = results.reading(read_raw(options))
        unequal += results.read_too_differently(found[READING])
    if FINGERPRINTS in options.case:
        found[FINGERPRINTS] = results.reading(describe_molecules(options), results.RDKIT)
        unequal += results.described_too_differently(found[FINGERPRINTS])
    if ALIGNMENT in options.case:
        found[ALIGNMENT] = results.reading(align_streams(options))
        unequal += results.aligned_too_differently(found[ALIGNMENT])
    if DAILY_FEATURES in options.case:
        found[DAILY_FEATURES] = results.reading(describe_daily(options))
        unequal += results.days_too_different(found[DAILY_FEATURES])
    found["equal"] = not unequal
    results.write(options.output, found)
    report(found, parts, unequal, options.output)
    return FAILED if unequal or (options.gate and not found["gate"]["passed"]) else 0


def trained(options: argparse.Namespace) -> tuple[dict[Settings, dict[str, Any]], list[str]]:
    """What the cross-validations took, and a sentence for each in which contenders trained different things: then none
    is timed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {one: Path(folder, f"{number}.pt") for number, one in enumerate(settings_of(options))}
        for one in files:
            tell(f"{one.title}: data, folds, orders of rows and initial weights")
        parts = dict(zip(files, write_cases(files), strict=True))
        requests = {one: Request(taking_part(options, one.case), one, file) for one, file in files.items()}
        check(requests, parts)
        unequal = [
            f"{one.title}: {line}" for one, part in parts.items() for line in results.too_different(part["equality"])
        ]
        for one, request in requests.items() if not unequal else ():
            taken = race(request, 1 if options.quick else options.rounds, tell)
            parts[one] |= {"contenders": taken, "ratios": results.ratios(taken)}
    return parts, unequal


def read_raw(options: argparse.Namespace) -> dict[str, Any]:
    """What reading takes, by the product and by pandas."""
    rows, rounds = (QUICK_READ_ROWS, 1) if options.quick else (READ_ROWS, READ_ROUNDS * options.rounds)
    tell(f"reading: {rows:,} rows of raw text, {rounds} rounds")
    return read(rows, rounds)


def describe_molecules(options: argparse.Namespace) -> dict[str, Any]:
    """What fingerprints, descriptors and scaffolds take, by the product and by RDKit's own functions."""
    molecules, rounds = (QUICK_MOLECULES, 1) if options.quick else (MOLECULES, READ_ROUNDS * options.rounds)
    tell(f"fingerprints: {molecules:,} molecules, {rounds} rounds")
    return describe(molecules, rounds)


def align_streams(options: argparse.Namespace) -> dict[str, Any]:
    """What bringing two streams to one clock takes, by the product and by pandas."""
    seconds, rounds = (QUICK_ALIGN_SECONDS, 1) if options.quick else (ALIGN_SECONDS, READ_ROUNDS * options.rounds)
    tell(f"alignment: {seconds:,} s of two streams, {rounds} rounds")
    return align(seconds, rounds)


def describe_daily(options: argparse.Namespace) -> dict[str, Any]:
    """What the daily features of raw sensor files take, by the product and by pandas and SciPy."""
    rates, rounds = (QUICK_DAILY_RATES, 1) if options.quick else (DAILY_RATES, options.rounds)
    tell(f"daily features: {DAYS} days, {rounds} rounds")
    return describe_days(DAYS, rounds, *rates)


def settings_of(options: argparse.Namespace) -> list[Settings]:
    """What is cross-validated, in turn."""
    made: list[Settings] = []
    for case in models_of(options):
        changes = QUICK[case] if options.quick else {"epochs": options.epochs} if options.epochs else {}
        models = [replace(base, d_model=width, **changes) for base in CASES[case] for width in options.d_model]
        made += models[: QUICK_MODELS[case]] if options.quick else models
    return made


def check(requests: dict[Settings, Request], parts: dict[Settings, dict[str, Any]]) -> None:
    """Trains without dropout and compares the curves, in both precisions."""
    names = list(results.TOLERANCES)
    plain = [
        request._replace(settings=replace(one, dropout=0.0, double=name == "float64"))
        for one, request in requests.items()
        for name in names
    ]
    answers = iter(train_all(plain))
    for one, part in parts.items():
        tell(f"{one.title}: all contenders at once without dropout")
        part["equality"] = {name: results.differences(next(answers)) for name in names}
        for name, of in part["equality"].items():
            tell(f"  {results.equality_line(name, of)}")


def report(found: dict[str, Any], parts: dict[Settings, dict[str, Any]], unequal: list[str], output: Path) -> None:
    """What came out, on the console."""
    for one, part in parts.items():
        if "contenders" in part:
            print("", *results.table(one.title, part), sep="\n")
    if READING in found:
        print("", *results.reading_table(found[READING]), sep="\n")
    if FINGERPRINTS in found:
        print("", *results.fingerprints_table(found[FINGERPRINTS]), sep="\n")
    if ALIGNMENT in found:
        print("", *results.alignment_table(found[ALIGNMENT]), sep="\n")
    if DAILY_FEATURES in found:
        print("", *results.daily_features_table(found[DAILY_FEATURES]), sep="\n")
    if "gate" in found:
        print("", *results.verdict_lines(found["gate"]), sep="\n")
    for sentence in unequal:
        print(f"bench: contenders do different things: {sentence}", file=sys.stderr)
    print(f"\nwritten to {output}")


def tell(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from None
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is written", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
