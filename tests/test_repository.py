"""What the repository says of itself is so: trees, links, commands; and no file knows the machine it was written on."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from jobs_stage import PROJECT

from fusion_lab.cli import VERBS, parse
from fusion_lab.experiment import read_experiment
from fusion_lab.jobs.hpo import find_space
from fusion_lab.search.space import check_space, parse_space
from fusion_lab.search.study import make_pruner, read_study
from fusion_lab.zoo import FAMILIES

DOCUMENTS = ["README.md", "ARCHITECTURE.md", *sorted(f"docs/{file.name}" for file in (PROJECT / "docs").glob("*.md"))]
EXPERIMENTS = sorted(file.stem for file in (PROJECT / "experiments").glob("*.yaml"))
SPACES = sorted(file.stem for file in (PROJECT / "hpo").glob("*.yaml"))


@cache
def tracked() -> tuple[Path, ...]:
    """The files that are, or would be, in git."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60).stdout
    return tuple(PROJECT / name for name in names.split("\0") if name and (PROJECT / name).is_file())


def ignored(path: str) -> bool:
    asked = subprocess.run(["git", "check-ignore", "-q", path], cwd=PROJECT, check=False, timeout=60)
    return asked.returncode == 0


def fenced(document: str) -> list[str]:
    """The blocks of a document that are no prose."""
    return re.findall(r"^```\w*\n(.*?)^```", (PROJECT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_tree_in_the_readme_is_there():
    (tree,) = [block for block in fenced("README.md") if block.startswith("fusion_lab/")]
    names = [line.split()[0] for line in tree.splitlines() if not line.startswith(" ")]
    assert len(names) >= 6
    for name, line in zip(names, tree.splitlines(), strict=True):
        if "(not in git)" in line and not (PROJECT / name).exists():
            assert ignored(f"{name}anything"), name
        else:
            assert (PROJECT / name).is_dir() == name.endswith("/") and (PROJECT / name).exists(), name


def test_run_products_stay_out_of_git():
    products = ["studies/x/journal.log", "mlflow.db", "mlflow.db-journal", "mlruns/1/a", ".venv/x", "mlartifacts/x"]
    assert [path for path in products if not ignored(path)] == []
    assert not ignored("mlruns/README.md") and not ignored("experiments/mine.yaml")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (PROJECT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (PROJECT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_the_prose_exist(document):
    text = re.sub(r"^```.*?^```", "", (PROJECT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    inside = re.findall(r"`((?:fusion_lab|experiments|hpo|tests|docs|mlruns)/[\w./-]*)`", text)
    made_up = {"experiments/mine.yaml"}  # what a reader is told to write
    assert [path for path in inside if path not in made_up and not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_documents_parse(document):
    text = (PROJECT / document).read_text()
    commands = re.findall(r"`fusion-lab ((?:train|hpo)(?: --[\w-]+[ =](?:'[^']*'|[\w./-]+))*)`", text)
    for command in commands:
        verb, options = parse([part.strip("'") for part in re.findall(r"'[^']*'|[^\s']+", command)])
        assert verb in VERBS.values()
        assert options["experiment"] or options.get("space") or "--experiment" not in command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_in_the_documents_exist(document):
    targets = set(re.findall(r"^([a-z][\w-]*):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z][\w-]*)", (PROJECT / document).read_text()))
    assert named <= targets


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_complete(name):
    experiment = read_experiment(name)
    assert experiment.name == name and experiment.description


@pytest.mark.parametrize("name", SPACES)
def test_search_spaces_fit_their_experiments(name):
    """Every point of a space is an experiment; a family's space fits every experiment that has none of its own."""
    file = find_space(name, "demo", read_experiment("demo"))
    study = read_study(file)
    bases = [read_experiment(base) for base in ([study.experiment] if study.experiment in EXPERIMENTS else EXPERIMENTS)]
    if name in FAMILIES:
        bases = [base for base in bases if base.model.family == name]
    assert bases, f"{name} fits nothing"
    space = parse_space(study.space, str(file))
    assert space.names()
    for base in bases:
        check_space(space, base.resolved(), str(file))
        make_pruner(study.pruner, base.training.epochs, str(file))


def test_no_file_knows_the_machine_it_was_written_on():
    """No absolute path of a workplace, no address of a package index, no key."""
    places = "|".join(["work", "tmp", "root", "home", "mnt", "Users", "private"])
    machine = re.compile(rf"""(?<![\w.}}\])>-])/(?:{places})/\w""")
    index = re.compile(r"index-url|find-links|trusted-host|pypi\.org|pythonhosted|artifactory|://[^/\s]*:[^/\s]*@")
    found = []
    for file in tracked():
        content = file.read_bytes()
        if b"\0" in content or file == Path(__file__):
            continue
        for number, line in enumerate(content.decode().splitlines(), 1):
            if machine.search(line) or index.search(line):
                found.append(f"{file.relative_to(PROJECT)}:{number}: {line.strip()}")
    assert found == []


def test_no_large_file_is_in_git():
    assert [file.name for file in tracked() if file.stat().st_size > 500_000] == []


def test_tests_stand_under_names_of_their_own():
    """One folder of test modules without packages: two of one name would hide each other from a reader."""
    names = [file.name for file in tracked() if file.name.startswith("test_") and file.suffix == ".py"]
    assert sorted(names) == sorted(set(names))
