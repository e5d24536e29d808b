"""The stack in containers, as far as it can be told without a container engine: what its files say, and that each check
finds the fault it is there for.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import pytest
from jobs_stage import PROJECT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fusion_lab.cli import parse
from fusion_lab.config import load_yaml

DOCKER = PROJECT / "docker"
COMPOSE = load_yaml(DOCKER / "compose.yaml")
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
IGNORED = (PROJECT / ".dockerignore").read_text()
EXAMPLE = (DOCKER / "env.example").read_text()
DATABASES = (DOCKER / "create_databases.sh").read_text()
README = (DOCKER / "README.md").read_text()
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

SECRET = re.compile(r"PASSWORD|SECRET|_KEY\b|TOKEN|ACCESS_KEY")
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
DATABASE = re.compile(re.escape("postgresql+psycopg2://") + r"(\w+):\$\{\w+:\?[^}]*\}@postgres:5432/(\w+)")
EXACT_TAG = re.compile(r"[\w./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")
REFUSED = ("privileged", "devices", "pid", "ipc", "userns_mode", "network_mode")


def strings(tree: Any) -> Iterator[str]:
    """Every text in a tree of settings."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)
    elif isinstance(tree, str):
        yield tree


def variables(tree: Any) -> list[tuple[str, str]]:
    """Each variable that is put in, and what follows its name: ``:?`` makes it required, ``:-`` gives a default."""
    return [found for text in strings(tree) for found in VARIABLE.findall(text)]


def values(example: str) -> dict[str, str]:
    """The variables of a file such as ``.env``."""
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def is_job(service: dict[str, Any]) -> bool:
    return service.get("restart") == "no"


def compose_faults(compose: dict[str, Any]) -> set[str]:
    """What is wrong with the services, ``{"service: fault"}``."""
    faults = {f"{name}: {fault}" for name, s in compose["services"].items() for fault in service_faults(s, compose)}
    return faults | {f"{name}: no default and not required" for name, rest in variables(compose) if not rest}


def service_faults(service: dict[str, Any], compose: dict[str, Any]) -> Iterator[str]:
    if not (EXACT_TAG.fullmatch(service["image"]) or "build" in service) or service["image"].endswith(":latest"):
        yield "tag"
    if "healthcheck" not in service and not is_job(service):
        yield "health"
    if any(not port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in service.get("ports", [])):
        yield "port"
    if any(name in service for name in REFUSED) or "docker.sock" in " ".join(strings(service)):
        yield "privileges"
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "capabilities"
    if not service.get("read_only") or ("build" in service and ("cap_add" in service or "user" in service)):
        yield "confined"
    if set(service.get("deploy", {}).get("resources", {}).get("limits", {})) != {"cpus", "memory", "pids"}:
        yield "limits"
    if any(not rest.startswith(":?") for name, rest in variables(service) if SECRET.search(name)):
        yield "secret not required"
    for name, value in service.get("environment", {}).items():
        if SECRET.search(name) and not VARIABLE.fullmatch(value):
            yield "secret written down"
    yield from connection_faults(service, compose)


def connection_faults(service: dict[str, Any], compose: dict[str, Any]) -> Iterator[str]:
    for name, needed in service.get("depends_on", {}).items():
        other = compose["services"][name]
        expected = "service_completed_successfully" if is_job(other) else "service_healthy"
        if needed["condition"] != expected:
            yield "order"
        if not set(service["networks"]) & set(other["networks"]) and not is_job(other):
            yield "network"
    if not set(service["networks"]) <= set(compose["networks"]):
        yield "network"
    named = {volume.split(":")[0] for volume in service.get("volumes", [])}
    if not {name for name in named if not name.startswith(".")} <= set(compose["volumes"]):
        yield "volume"
    if any(not (DOCKER / name).exists() for name in named if name.startswith(".")):
        yield "mount"


def test_the_services_have_no_fault():
    assert compose_faults(COMPOSE) == set()


MISTAKES = [
    ("postgres", "image", "postgres:latest", "tag"),
    ("postgres", "image", "postgres", "tag"),
    ("storage", "image", "chrislusf/seaweedfs:4", "tag"),
    ("mlflow", "healthcheck", None, "health"),
    ("mlflow", "ports", ["5000:5000"], "port"),
    ("serving", "ports", ["0.0.0.0:8080:8080"], "port"),
    ("worker", "privileged", True, "privileges"),
    ("worker", "network_mode", "host", "privileges"),
    ("worker", "volumes", ["/var/run/docker.sock:/var/run/docker.sock"], "privileges"),
    ("worker", "cap_drop", [], "capabilities"),
    ("storage", "security_opt", [], "capabilities"),
    ("serving", "read_only", False, "confined"),
    ("serving", "cap_add", ["SYS_ADMIN"], "confined"),
    ("serving", "user", "0:0", "confined"),
    ("bucket", "deploy", {}, "limits"),
    ("postgres", "environment", {"POSTGRES_PASSWORD": "${POSTGRES_PASSWORD:-postgres}"}, "secret not required"),
    ("postgres", "environment", {"POSTGRES_PASSWORD": "${POSTGRES_PASSWORD}"}, "secret not required"),
    ("postgres", "environment", {"POSTGRES_PASSWORD": "postgres"}, "secret written down"),
    ("storage", "environment", {"AWS_SECRET_ACCESS_KEY": "key"}, "secret written down"),
    ("mlflow", "depends_on", {"postgres": {"condition": "service_started"}}, "order"),
    ("mlflow", "depends_on", {"bucket": {"condition": "service_healthy"}}, "order"),
    ("mlflow", "networks", ["lab"], "network"),
    ("worker", "networks", ["other"], "network"),
    ("worker", "volumes", ["elsewhere:/app/studies"], "volume"),
    ("worker", "volumes", ["./nowhere:/app/nowhere"], "mount"),
]


@pytest.mark.parametrize(("service", "key", "value", "fault"), MISTAKES)
def test_a_mistake_in_a_service_is_found(service, key, value, fault):
    wrong = deepcopy(COMPOSE)
    if value is None:
        del wrong["services"][service][key]
    else:
        wrong["services"][service][key] = value
    assert f"{service}: {fault}" in compose_faults(wrong)


def example_faults(compose: dict[str, Any], example: str) -> set[str]:
    """Where the file that users copy and the services differ; and secrets that would work as they stand there."""
    given, used = values(example), variables(compose)
    defaults = {name: rest.removeprefix(":-") for name, rest in used if rest.startswith(":-")}
    differ = set(given) ^ {name for name, _ in used}
    differ |= {name for name, value in defaults.items() if given.get(name) != value}
    return differ | {name for name, rest in used if rest.startswith(":?") and given.get(name) != ""}


def test_every_variable_stands_in_the_example_and_no_secret_does():
    assert example_faults(COMPOSE, EXAMPLE) == set()
    assert {name for name, _ in variables(COMPOSE) if SECRET.search(name)}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD=postgres", "POSTGRES_PASSWORD"),
        ("SERVED_MODEL=demo\n", "", "SERVED_MODEL"),
        ("SERVED_MODEL=demo", "SERVED_MODEL=other", "SERVED_MODEL"),
        ("SERVED_MODEL=demo", "SERVED_MODEL=demo\nUNUSED=1", "UNUSED"),
    ],
)
def test_a_mistake_in_the_example_is_found(old, new, fault):
    assert old in EXAMPLE and example_faults(COMPOSE, EXAMPLE.replace(old, new, 1)) == {fault}


def addresses(compose: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Owner and database of every address of a database, by the name of its variable."""
    environments = [service.get("environment", {}) for service in compose["services"].values()]
    found = {}
    for name, value in ((name, value) for environment in environments for name, value in environment.items()):
        if match := DATABASE.fullmatch(value):
            found[name] = match.groups()
    return found


def test_there_are_two_databases_for_the_two_that_need_one():
    found = addresses(COMPOSE)
    assert set(found) == {"MLFLOW_BACKEND_STORE_URI", "OPTUNA_STORAGE_URL"}
    made = set(re.findall(r"^CREATE DATABASE (\w+) OWNER (\w+);$", DATABASES, flags=re.MULTILINE))
    assert len(made) == 2 and {(database, owner) for owner, database in found.values()} == made
    assert set(re.findall(r"^CREATE ROLE (\w+) LOGIN", DATABASES, flags=re.MULTILINE)) == {owner for _, owner in made}


def test_the_script_of_the_databases_is_run_and_has_what_it_needs():
    postgres = COMPOSE["services"]["postgres"]
    assert "./create_databases.sh:/docker-entrypoint-initdb.d/create_databases.sh:ro" in postgres["volumes"]
    assert (DOCKER / "create_databases.sh").stat().st_mode & 0o111
    needed = set(re.findall(r"\\getenv \w+ (\w+)", DATABASES)) | set(re.findall(r"\$(\w+)", DATABASES))
    assert needed and needed <= set(postgres["environment"])
    assert subprocess.run(["bash", "-n", DOCKER / "create_databases.sh"], check=False, timeout=60).returncode == 0


def options(arguments: list[str]) -> set[str]:
    return {argument.split("=")[0] for argument in arguments if argument.startswith("-")}


@pytest.mark.parametrize(("service", "words"), [("mlflow", 1), ("serving", 2)])
def test_mlflow_has_the_options_that_it_is_given(service, words):
    from mlflow.cli import server  # with it comes MLflow's whole server
    from mlflow.models.cli import serve

    command = {"mlflow": server, "serving": serve}[service]
    given = COMPOSE["services"][service]["command"][words:]
    assert options(given) == {argument.split("=")[0] for argument in given}
    assert options(given) <= {option for parameter in command.params for option in parameter.opts}


def test_browsers_of_this_machine_and_workers_are_answered_and_no_other():
    from mlflow.server.security_utils import is_allowed_host_header

    allowed = values(EXAMPLE)["MLFLOW_ALLOWED_HOSTS"].split(",")
    host = COMPOSE["services"]["worker"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert all(is_allowed_host_header(allowed, name) for name in (host, "localhost:5000", "127.0.0.1:5001"))
    assert not is_allowed_host_header(allowed, "elsewhere.example:5000")
    (given,) = [a for a in COMPOSE["services"]["mlflow"]["command"] if a.startswith("--allowed-hosts")]
    assert given == f"--allowed-hosts=${{MLFLOW_ALLOWED_HOSTS:-{','.join(allowed)}}}"


def test_what_is_served_is_never_unpickled_and_servers_start_few_processes():
    services = COMPOSE["services"]
    assert services["serving"]["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "--workers=1" in services["mlflow"]["command"]
    assert "--model-uri=models:/${SERVED_MODEL:-demo}@champion" in services["serving"]["command"]


def test_only_the_tracking_server_reaches_both_the_database_and_the_store():
    networks = {name: set(service["networks"]) for name, service in COMPOSE["services"].items()}
    assert {name for name, found in networks.items() if {"database", "storage"} <= found} == {"mlflow"}
    keys = {name for name, service in COMPOSE["services"].items() if "AWS_ACCESS_KEY_ID" in str(service)}
    assert keys == {"storage", "bucket", "mlflow"}
    assert all(COMPOSE["networks"][name] == {"internal": True} for name in ("database", "storage"))


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its continued lines put together."""

    name: str
    rest: str


def read_dockerfile(text: str) -> list[Instruction]:
    """The instructions without the comments.

    >>> read_dockerfile("# a comment\\nFROM a AS b\\nRUN one \\\\\\n  && two\\n")
    [Instruction(name='FROM', rest='a AS b'), Instruction(name='RUN', rest='one && two')]
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in joined.splitlines()]


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """The instructions of each stage, which begins with its FROM."""
    found: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def dockerfile_faults(text: str) -> set[str]:
    instructions = read_dockerfile(text)
    built = stages(instructions)
    last = {name: [i.rest for i in built[-1] if i.name == name] for name in {i.name for i in instructions}}
    arguments = dict(i.rest.split("=", 1) for i in instructions if i.name == "ARG")
    bases = [re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], stage[0].rest.split()[0]) for stage in built]
    user = last.get("USER", ["root"])[-1].split(":")[0]
    set_names = [word for i in instructions if i.name in ("ENV", "ARG") for word in re.findall(r"(\w+)=", i.rest)]
    faults = {
        "stages": len(built) < 2 or not any("--from=" in copied for copied in last.get("COPY", [])),
        "tag": any(not EXACT_TAG.fullmatch(base) for base in bases),
        "user": not user.isdecimal() or int(user) == 0,
        "health": not last.get("HEALTHCHECK") or last["HEALTHCHECK"][-1] == "NONE",
        "signal": not last.get("STOPSIGNAL"),
        "entry": last.get("ENTRYPOINT") != ['["fusion-lab"]'],
        "add": any(i.name == "ADD" for i in instructions),
        "secret": any(SECRET.search(name) for name in set_names),
        "tools": any(re.search(r"build-essential|gcc|pip install|apt-get", run) for run in last.get("RUN", [])),
        "copy": any(not (PROJECT / source).exists() for source in copied_sources(instructions)),
        "ignored": any(is_ignored(source, IGNORED) for source in copied_sources(instructions)),
    }
    return {name for name, is_there in faults.items() if is_there}


def copied_sources(instructions: list[Instruction]) -> list[str]:
    """What is copied from the repository."""
    copies = [shlex.split(i.rest) for i in instructions if i.name == "COPY" and "--from=" not in i.rest]
    return [source for copy in copies for source in copy[:-1] if not source.startswith("--")]


def is_ignored(path: str, patterns: str) -> bool:
    """Whether a file stays out of the build, by Docker's rules: the last pattern that fits it, or a folder it lies in,
    decides.
    """
    ignored = False
    for line in patterns.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#") and fits(path, pattern.removeprefix("!").strip("/")):
            ignored = not pattern.startswith("!")
    return ignored


def fits(path: str, pattern: str) -> bool:
    parts = path.split("/")
    ends = [parts[:n] for n in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        return any(fnmatchcase(end[-1], pattern[3:]) for end in ends)
    wanted = pattern.split("/")
    return any(len(end) == len(wanted) and all(map(fnmatchcase, end, wanted)) for end in ends)


def test_the_dockerfile_has_no_fault():
    assert dockerfile_faults(DOCKERFILE) == set()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("COPY --from=build /venv /venv\n", "", "stages"),
        ("ARG PYTHON=3.11.14-slim-bookworm", "ARG PYTHON=latest", "tag"),
        ("ARG PYTHON=3.11.14-slim-bookworm", "ARG PYTHON=3", "tag"),
        ("USER 10001:10001\n", "", "user"),
        ("USER 10001:10001\n", "USER 10001:10001\nUSER root\n", "user"),
        ("USER 10001:10001\n", "USER 0\n", "user"),
        ("HEALTHCHECK", "LABEL", "health"),
        ("STOPSIGNAL SIGTERM\n", "", "signal"),
        ('ENTRYPOINT ["fusion-lab"]', "ENTRYPOINT fusion-lab", "entry"),
        ("WORKDIR /app\n", "WORKDIR /app\nADD https://example.org/a.tar.gz /app\n", "add"),
        ("ARG REVISION=unknown", "ARG REVISION=unknown\nARG S3_SECRET_KEY=x", "secret"),
        ("HOME=/tmp", "MLFLOW_TRACKING_PASSWORD=x", "secret"),
        ("RUN groupadd", "RUN apt-get install gcc && groupadd", "tools"),
        ("COPY hpo ./hpo", "COPY nowhere ./nowhere", "copy"),
        ("COPY hpo ./hpo", "COPY tests ./tests", "ignored"),
    ],
)
def test_a_mistake_in_the_dockerfile_is_found(old, new, fault):
    assert old in DOCKERFILE and fault in dockerfile_faults(DOCKERFILE.replace(old, new))


def test_the_images_python_is_one_the_project_runs_on():
    (version,) = re.findall(r"^ARG PYTHON=(\d+\.\d+\.\d+)-slim", DOCKERFILE, flags=re.MULTILINE)
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(version)
    assert not SpecifierSet(PYPROJECT["project"]["requires-python"]).contains("3.10.19")
    (label,) = re.findall(r"^ARG VERSION=(\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert f'__version__ = "{label}"' in (PROJECT / "fusion_lab/__init__.py").read_text()


def test_the_image_is_made_of_pinned_packages():
    """Those of the project, and the two that the addresses of the stack ask for."""
    extra = {r.name: r for r in map(Requirement, PYPROJECT["project"]["optional-dependencies"]["stack"])}
    assert set(extra) == {"boto3", "psycopg2-binary"}
    every = [*extra.values(), *map(Requirement, PYPROJECT["project"]["dependencies"])]
    assert [r.name for r in every if [s.operator for s in r.specifier] != ["=="]] == []
    (torch,) = [line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch==")]
    assert re.findall(r"torch==[0-9.]*", (PROJECT / "pyproject.toml").read_text()) == [
        torch
    ]  # what the build looks for
    assert "['optional-dependencies']['stack']" in DOCKERFILE


def test_the_stack_uses_what_the_image_holds():
    placed = re.findall(r"^COPY docker/(\S+) (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert placed == [("make_bucket.py", COMPOSE["services"]["bucket"]["entrypoint"][1])]
    compile((DOCKER / "make_bucket.py").read_text(), "make_bucket.py", "exec")
    buckets = {COMPOSE["services"]["bucket"]["environment"]["S3_BUCKET"]}
    assert buckets == set(re.findall(r"s3://(\w+)/", " ".join(COMPOSE["services"]["mlflow"]["command"])))
    builds = {str(service["build"]) for service in COMPOSE["services"].values() if "build" in service}
    assert builds == {str({"context": "..", "dockerfile": "docker/Dockerfile"})}


KEPT_OUT = [
    *(".git/config", ".venv/bin/python", "mlruns/1/a", "studies/x/journal.log", "mlflow.db", "docker/.env", ".env"),
    *("data/a.csv", "tests/test_docker.py", "fusion_lab/__pycache__/a.pyc", "fusion_lab/.env", "docker/env.example"),
]


def test_what_is_no_part_of_the_image_does_not_reach_the_build():
    assert [path for path in KEPT_OUT if not is_ignored(path, IGNORED)] == []
    assert [path for path in KEPT_OUT if is_ignored(path, "")] == []
    assert is_ignored("docker/.env", "docker/*\n") and not is_ignored("docker/.env", "docker/*\n!docker/.env\n")


def test_the_secrets_stay_out_of_git():
    asked = subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=PROJECT, check=False, timeout=60)
    assert asked.returncode == 0


def test_the_readme_names_what_is_there():
    rows = re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)
    assert rows == list(COMPOSE["services"])
    commands = re.findall(r"docker compose run --rm (?:--volume \S+ )?worker ([^`#\n]+)", README)
    assert len(commands) >= 3
    for command in commands:
        parse(shlex.split(command))
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", README))
    assert named and named <= set(values(EXAMPLE)) | {"OPTUNA_STORAGE_URL"}
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and [link for link in links if not (DOCKER / link).exists()] == []
    pinned = set(re.findall(r"postgres:\d\S*?(?=[@` ])", README))
    assert pinned == {COMPOSE["services"]["postgres"]["image"]}
