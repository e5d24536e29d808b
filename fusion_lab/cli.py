"""The command line: one verb per job, the same code behind ``fusion-lab <verb>`` and the entry points of MLproject."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

USER_ERROR, INTERRUPTED = 2, 130


class Option(NamedTuple):
    """One option of a verb. An empty value is the same as none: MLproject passes its empty defaults on."""

    kind: Callable[[str], Any]
    help: str
    default: Any = None


def whole(text: str) -> int:
    """A whole number >= 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def positive_whole(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def given(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a value, found nothing")
    return text.strip()


def flag(text: str) -> bool:
    """Yes or no, as ``--flag``, ``--flag=true`` or ``--flag=false``."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


def seconds(text: str) -> float:
    """A duration: seconds, or with the unit s, m or h."""
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a duration such as 90, 90s, 15m or 2h, found {text!r}")
    return value


REQUIRED = "(required)"
"""The default of an option that has to be given."""

EXPERIMENT = Option(str, "a name in experiments/, or a path to a YAML file", "relapse")
SHARED = {
    "data": Option(str, "folder of the input files, in place of the experiment's data.root"),
    "seed": Option(whole, "seed of weights, batches and dropout, in place of the experiment's"),
    "set": Option(str, "settings over the experiment's, as 'model.d_model=32; optimiser.lr=1e-3'", ""),
    "tracking-uri": Option(
        str, "MLflow tracking server or database (default: MLFLOW_TRACKING_URI, else mlflow.db here)"
    ),
}


class Verb(NamedTuple):
    """What a verb does, where its job is, what it takes, and whether the same command goes on where it was ended."""

    job: str
    help: str
    options: dict[str, Option]
    continues: bool = True


VERBS: dict[str, Verb] = {
    "train": Verb(
        "fusion_lab.jobs.train",
        "cross-validate one experiment and show it beside the baselines",
        {"experiment": EXPERIMENT, **SHARED},
    ),
    "hpo": Verb(
        "fusion_lab.jobs.hpo",
        "search an experiment's settings: an Optuna study over cross-validation folds, with pruning",
        {
            "experiment": Option(str, "a name in experiments/, or a path (default: the space's own, else relapse)"),
            "space": Option(str, "a name in hpo/, or a path (default: the experiment's name, else its model family's)"),
            "trials": Option(
                positive_whole, "trials of the study in all, those of earlier runs of the command counted"
            ),
            "timeout": Option(seconds, "stop starting trials after this long: 90, 90s, 15m, 2h"),
            **SHARED,
        },
    ),
    "sweep": Verb(
        "fusion_lab.jobs.sweep",
        "cross-validate every cell of a sweep file and compare them on one page (exit code 1 where a cell is missing)",
        {
            "experiment": Option(str, "a name in experiments/, or a path (default: the sweep file's own)"),
            "sweep": Option(str, "a name in experiments/sweeps/, or a path (default: the experiment's name)"),
            **SHARED,
        },
    ),
    "compare": Verb(
        "fusion_lab.jobs.compare",
        "hold runs against each other on the same folds: paired differences with intervals, one page",
        {
            "runs": Option(
                str, "MLflow runs by id, its beginning or name, or sweep:NAME, separated by commas", REQUIRED
            ),
            "output": Option(str, "HTML file to write", "comparison.html"),
            "tracking-uri": SHARED["tracking-uri"],
        },
        continues=False,
    ),
    "prepare": Verb(
        "fusion_lab.jobs.prepare",
        "read an experiment's raw files once, into a form that loads at once, or into another domain's layout",
        {
            "experiment": EXPERIMENT._replace(default="activity"),
            "data": SHARED["data"],
            "output": Option(str, "folder to write", REQUIRED),
            "to": Option(
                str,
                "write the data set in the layout of this domain: oncology (one HDF5 file per modality) or relapse "
                "(fold archives)",
            ),
            "encoder": Option(str, "with --to: none writes modalities as they are, pca their principal components"),
            "width": Option(positive_whole, "with --encoder=pca: components of a modality at most (64 unless given)"),
            "set": SHARED["set"],
        },
    ),
    "validate": Verb(
        "fusion_lab.jobs.validate",
        "look through an experiment's files, stream by stream, and go on after a fault (exit code 1 if there is one)",
        {
            "experiment": EXPERIMENT._replace(default="editing"),
            "data": SHARED["data"],
            "output": Option(str, "HTML file to write; a CSV and a JSON file lie beside it", "validation.html"),
            "set": SHARED["set"],
        },
        continues=False,
    ),
    "promote": Verb(
        "fusion_lab.jobs.promote",
        "make the challenger the champion, if it passes the gates of its experiment (exit code 1 where it does not)",
        {
            "experiment": EXPERIMENT,
            "baseline": Option(str, "a baseline that becomes the challenger first: trees, logistic, single:NAME, ..."),
            "dry-run": Option(flag, "judge and change nothing", False),
            "rollback": Option(flag, "give the champion's alias back to the version that it replaced", False),
            **{name: SHARED[name] for name in ("data", "set", "tracking-uri")},
        },
        continues=False,
    ),
    "predict": Verb(
        "fusion_lab.jobs.predict",
        "a registered model's answers to the rows of a file or folder",
        {
            "model": Option(str, "name@alias, name/version, or a name for its champion", REQUIRED),
            "input": Option(str, "a table, a file of JSON lines, or a folder laid out as the training data", REQUIRED),
            "output": Option(str, "file to write: .csv, .parquet or .jsonl", "predictions.csv"),
            "attention": Option(flag, "add what the model weighed", False),
            "tracking-uri": SHARED["tracking-uri"],
        },
        continues=False,
    ),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest thing known, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        fail(message)

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Before anything is said of options that are missing: one may just be misspelt."""
        for word in arguments:
            if word.startswith("--") and word.split("=")[0] not in self._option_string_actions:
                self.unknown([word])

    def unknown(self, arguments: Sequence[str]) -> NoReturn:
        """Refuses options that the verb does not have."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        word = next((a for a in arguments if a.startswith("-")), arguments[0])
        fail(f"unknown argument {word!r}{_nearest(word.split('=')[0], known)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"


def fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"fusion-lab: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(USER_ERROR)


def parse(arguments: Sequence[str] | None = None) -> tuple[Verb, dict[str, Any]]:
    """The verb and its options, ``{name: value}``, from the command line."""
    parser = Parser(
        prog="fusion-lab", description="Rigorous experiments with multimodal fusion models on small data sets."
    )
    from fusion_lab import __version__

    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    parsers = {name: _add(verbs, name, verb) for name, verb in VERBS.items()}
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] not in VERBS and arguments[0] not in parser._option_string_actions:
        what = "argument" if arguments[0].startswith("-") else "verb"
        fail(f"unknown {what} {arguments[0]!r}{_nearest(arguments[0], list(VERBS))}")
    if arguments and arguments[0] in VERBS:
        parsers[arguments[0]].refuse_unknown(arguments[1:])
    given, rest = parser.parse_known_args(arguments)
    if rest:
        parsers[given.verb].unknown(rest)
    verb = VERBS[given.verb]
    return verb, {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name in verb.options}


def _add(verbs: Any, name: str, verb: Verb) -> Parser:
    parser = verbs.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
    for option, (kind, text, default) in verb.options.items():
        needed = default == REQUIRED
        plain = default in (None, "", False) or needed
        shown = text if plain else f"{text} (default: {default})"
        convert = given if needed else _or_empty(kind, default)
        bare: dict[str, Any] = {"nargs": "?", "const": True} if kind is flag else {}
        parser.add_argument(
            f"--{option}", type=convert, default=default, help=shown, metavar="VALUE", required=needed, **bare
        )
    return parser


def _or_empty(kind: Callable[[str], Any], default: Any) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        return default if text.strip() == "" else kind(text.strip())

    return convert


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Exit code 0 or what the job says; 2 for a user's mistake, told in one line; 130 when interrupted."""
    verb, options = parse(arguments)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return _run(verb, options)
    except KeyboardInterrupt as interruption:
        after = "the same command continues" if verb.continues else "nothing was decided or written"
        print(f"fusion-lab: {str(interruption) or 'interrupted'}; {after}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # nobody reads on, as in `fusion-lab hpo | head`: Python would complain once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED


def _run(verb: Verb, options: dict[str, Any]) -> int:
    from fusion_lab.contracts import UserError

    try:
        return getattr(import_module(verb.job).run(**options), "exit_code", 0)
    except UserError as error:
        fail(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
