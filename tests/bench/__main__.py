"""``python tests/bench``: this product against a PyTorch loop, Lightning and skorch, on the same cross-validation."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import results
from rounds import Failed, race, train_all, write_case
from settings import CONTENDERS, OURS, PACKAGES, PARAMETERS, Settings

USER_ERROR, FAILED, INTERRUPTED = 2, 1, 130
QUICK = {"rows": 151, "folds": 3, "epochs": 1}


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
    add("--d-model", type=int, nargs="+", choices=list(PARAMETERS), default=list(PARAMETERS), help="widths")
    add("--rounds", type=count, default=3, help="cross-validations of each contender, after a first one (default 3)")
    add("--epochs", type=count, default=2, help="epochs of each cross-validation (default 2)")
    add("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help="who takes part")
    add("--output", type=Path, default=Path("bench.json"), help="the results' file (default bench.json)")
    add("--quick", action="store_true", help="3 folds of 50 rows, one epoch, one round: that everything works; no gate")
    add("--gate", action="store_true", help=f"exit code 1 unless stacked folds are {results.GATE:g} times as fast")
    options = parser.parse_args(arguments)
    options.d_model = list(dict.fromkeys(options.d_model))
    options.contenders = [name for name in CONTENDERS if name in options.contenders]
    for name, package in PACKAGES.items():
        if name in options.contenders and find_spec(package) is None:
            parser.error(f"--contenders {name}: expected the package {package}, found none; install the extra bench")
    if len(options.contenders) < 2:
        parser.error(f"--contenders: expected two or more, found {options.contenders[0]}")
    if options.gate and (options.quick or not _judged(options.contenders)):
        parser.error("--gate: expected stacked and an opponent at full size, found a benchmark that cannot be judged")
    if options.output.is_dir() or not options.output.absolute().parent.is_dir():
        parser.error(f"--output: expected a file in a folder that exists, found {str(options.output)!r}")
    return options


def _judged(names: list[str]) -> bool:
    return "stacked" in names and any(name not in OURS for name in names)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; the exit code says whether the contenders trained the same thing."""
    options = parse(arguments)
    base = Settings(epochs=options.epochs)
    if options.quick:
        base, options.rounds = replace(base, **QUICK), 1
    machine = results.machine()
    tell(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']} before it starts")
    shared = {name: value for name, value in asdict(base).items() if name not in ("d_model", "double")}
    found: dict[str, Any] = {"machine": machine, "settings": shared, "quick": options.quick, "by_width": {}}
    with tempfile.TemporaryDirectory() as folder:
        cases = {width: Path(folder, f"{width}.pt") for width in options.d_model}
        for width, case in cases.items():
            settings = replace(base, d_model=width)
            tell(f"d_model {width}: data, folds, orders of rows and initial weights")
            write_case(case, settings)
            found["by_width"][str(width)] = {"parameters": PARAMETERS[width], **check(options, settings, case)}
        unequal = [line for part in found["by_width"].values() for line in results.too_different(part["equality"])]
        if not unequal:
            for width, case in cases.items():
                taken = race(options.contenders, replace(base, d_model=width), case, options.rounds, tell)
                found["by_width"][str(width)] |= {"contenders": taken, "ratios": results.ratios(taken)}
    found["equal"] = not unequal
    if not options.quick and not unequal:
        found["gate"] = results.verdict(found["by_width"])
    results.write(options.output, found)
    report(found, unequal, options.output)
    return FAILED if unequal or (options.gate and not found["gate"]["passed"]) else 0


def check(options: argparse.Namespace, settings: Settings, case: Path) -> dict[str, Any]:
    """Trains without dropout and compares the curves, in both precisions."""
    tell(f"d_model {settings.d_model}: all contenders at once without dropout")
    precisions = [replace(settings, dropout=0.0, double=name == "float64") for name in results.TOLERANCES]
    answers = train_all(options.contenders, precisions, case)
    equality = {name: results.differences(of) for name, of in zip(results.TOLERANCES, answers, strict=True)}
    for name, of in equality.items():
        tell(f"  {results.equality_line(name, of)}")
    return {"equality": equality}


def report(found: dict[str, Any], unequal: list[str], output: Path) -> None:
    """What came out, on the console."""
    for width, part in found["by_width"].items():
        if "contenders" in part:
            print("", *results.table(width, part), sep="\n")
    if "gate" in found:
        print("", *results.verdict_lines(found["gate"]), sep="\n")
    for sentence in unequal:
        print(f"bench: contenders train different things: {sentence}", file=sys.stderr)
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
