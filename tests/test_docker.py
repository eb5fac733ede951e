"""docker/: valid, pinned and closed, as far as its text tells. tests/test_compose.py runs it."""

import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml
from compose import DOCKER, ROOT
from docker.utils.build import PatternMatcher  # the client's own reading of .dockerignore
from helpers import captured
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GPU = DOCKER / "compose.gpu.yaml"
BOTH = {"compose": compose.FILES, "with GPUs": (*compose.FILES, GPU)}
MODELS = {name: compose.read(*files) for name, files in BOTH.items()}
SERVICES = MODELS["compose"]["services"]
LISTING = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
TRACKED = captured(LISTING, cwd=ROOT).stdout.splitlines()


def tool(name: str, *arguments: object) -> str:
    """Return the findings of a linter."""
    program = shutil.which(name, path=sysconfig.get_path("scripts"))
    assert program, f"{name} is not installed"
    done = captured([program, *map(str, arguments)])
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr


# --- The files


@pytest.mark.parametrize("name", BOTH)
def test_the_compose_specification_accepts(name: str, tmp_path: Path) -> None:
    # Before interpolation, too: that is what an editor checks.
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(MODELS[name]))
    found = tool("check-jsonschema", "--builtin-schema=vendor.compose-spec", file, *BOTH[name])
    assert found.strip() == "ok -- validation done"


def test_linters_find_nothing() -> None:
    assert tool("hadolint", DOCKER / "Dockerfile") == ""
    scripts = [*DOCKER.glob("*.sh"), *(ROOT / "tests" / "engine_files").glob("*.sh")]
    assert tool("shellcheck", *sorted(scripts)) == ""


def test_the_env_file_has_every_variable_and_its_default() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    given = compose.defaults()
    assert given.pop("COMPOSE_PROFILES") == "local"
    assert used == given
    assert not re.search(r"(?<!\$)\$(?!\$|\{\w+:-)", text)  # no other form, which read() would miss


# --- The Dockerfile


def instructions() -> list[tuple[str, str]]:
    text = (DOCKER / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [(*line.split(None, 1),) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, str]:
    """Stage -> what it is from, with arguments filled in."""
    arguments = dict(v.split("=", 1) for k, v in instructions() if k == "ARG" and "=" in v)
    found = {}
    for keyword, value in instructions():
        if keyword == "FROM":
            base, _, stage = value.split()
            found[stage] = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], base)
    return found


def copies() -> list[tuple[str | None, list[str]]]:
    """(stage or None, sources) of every COPY."""
    found = []
    for keyword, value in instructions():
        assert keyword != "ADD"
        if keyword == "COPY":
            words = value.split()
            options = [w for w in words if w.startswith("--")]
            stage = [o.removeprefix("--from=") for o in options if o.startswith("--from=")]
            found.append((stage[0] if stage else None, words[len(options) : -1]))
    return found


def ignored(path: str) -> bool:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    return PatternMatcher([p for p in patterns if not p.startswith("#")]).matches(path)


def test_everything_copied_is_in_the_repository_and_in_the_context() -> None:
    sources = [source for stage, paths in copies() if stage is None for source in paths]
    assert len(sources) > 5
    for source in sources:
        files = [f for f in TRACKED if f == source or f.startswith(f"{source}/")]
        assert files, f"COPY {source}: not in the repository"
        assert not [f for f in files if ignored(f)], f"COPY {source}: in .dockerignore"


def test_everything_copied_from_a_stage_has_its_stage() -> None:
    assert {stage for stage, _ in copies() if stage} <= stages().keys()
    assert {"server", "cpu", "cuda"} <= stages().keys()


@pytest.mark.parametrize(
    "path",
    [
        *("docker/secrets/postgres_password", "docker/.env", ".git/config", ".venv/bin/python"),
        *("runs/a/model.pt", "data/cifar.tar.gz", "mlflow.db", "harness/data/__pycache__/a.pyc"),
    ],
)
def test_the_context_has_no(path: str) -> None:
    assert ignored(path)


def is_full_version(image: str) -> bool:
    """Whether an official image names the whole version and the distribution."""
    numbers = {"python": 3, "postgres": 2}
    match = re.fullmatch(r"(\w+):([\d.]+)((?:-[a-z]+)+)", image)
    return bool(match) and len(match[2].split(".")) == numbers[match[1]]


def test_every_image_has_its_whole_version() -> None:
    bases = set(stages().values()) - stages().keys()
    assert bases and all(map(is_full_version, bases)), bases
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for model in MODELS.values():
        for service in model["services"].values():
            if "build" in service:
                assert re.fullmatch(
                    rf"refilled-harness-\w+:{project['version']}(-\w+)?", service["image"]
                )
                assert service["build"]["target"] in stages()
            else:
                assert is_full_version(service["image"])


@pytest.mark.parametrize("name", MODELS)
def test_no_build_replaces_the_image_of_another_service(name: str) -> None:
    built = {n: s["image"] for n, s in MODELS[name]["services"].items() if "build" in s}
    assert built.pop("mlflow-s3") == built["mlflow"]  # one in the place of the other
    assert len(set(built.values())) == len(built) == 5
    end = "-cpu" if name == "compose" else "-cuda"
    assert all(built[n].endswith(end) for n in ("trainer", "ray-head", "ray-worker"))


def test_no_image_runs_as_root() -> None:
    users = [value for keyword, value in instructions() if keyword == "USER"]
    assert users == ["${HARNESS_UID}"] and ("ARG", "HARNESS_UID=1000") in instructions()
    assert any(k == "RUN" and "useradd" in v and "${HARNESS_UID}" in v for k, v in instructions())
    # One USER is enough, as all targets are from the stage that has it.
    order = [value.split()[-1] if k == "FROM" else k for k, value in instructions()]
    assert order.index("base") < order.index("USER") < order.index("server")
    above = {stage: stages()[stage] for stage in ("server", "cpu", "cuda")}
    assert above == {"server": "base", "cpu": "base", "cuda": "cpu"}


def needed(names: list[str]) -> set[str]:
    """The packages that pip installs for these in the image, by the metadata of those here."""
    (python,) = re.findall(r"python:(\d+\.\d+)\.\d+", stages()["base"])
    there = {"python_version": python, "python_full_version": f"{python}.0"}
    waiting, seen = [Requirement(n) for n in names], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            below = map(Requirement, requires(requirement.name) or [])
            where = there | {"extra": extra}
            waiting += [r for r in below if not r.marker or r.marker.evaluate(where)]
    return {name for name, _ in seen}


def test_the_lock_holds_every_package_of_the_images() -> None:
    files = ("requirements.lock", "requirements-dev.lock")
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines()]
    locked = {canonicalize_name(Requirement(line).name) for line in lines}
    toml = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = toml["project"]
    extras = project["optional-dependencies"]
    trainer = [*project["dependencies"], *extras["postgres"], *extras["ray"], *extras["kuberay"]]
    text = (DOCKER / "server.txt").read_text().splitlines()
    server = [line for line in text if not line.startswith("#")]
    assert needed([*toml["build-system"]["requires"], *trainer]) - locked == set()
    assert needed(server) - locked == set()
    assert "torch" not in needed(server)


# --- The services


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_closed(model: dict[str, Any]) -> None:
    for name, service in model["services"].items():
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True and "privileged" not in service, name
        assert "network_mode" not in service and "docker.sock" not in str(service), name
        assert service.get("user", "1000" if "build" in service else "root") != "root", name


def test_no_secret_but_in_files() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            secret = re.search("PASS|SECRET|TOKEN|KEY|CREDENTIAL", key)
            assert not secret or value.startswith("/run/secrets/"), f"{name}: {key}"
            if secret:
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", str(service)), f"{name}: password in a URL"
    for name, secret in MODELS["compose"]["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        check = ["git", "check-ignore", "--quiet", f"docker/secrets/{name}"]
        assert subprocess.run(check, cwd=ROOT).returncode == 0, f"{name}: git does not ignore it"


def test_what_runs_long_is_watched_and_has_time_to_stop() -> None:
    for name, service in SERVICES.items():
        assert compose.seconds(service["stop_grace_period"]) >= 20, name
        if service["restart"] == "no":
            assert name == "trainer"
            continue
        test = " ".join(service["healthcheck"]["test"])
        if name.startswith("ray-"):
            assert test == "CMD ray health-check --address=ray-head:6379"
            continue
        aliases = service.get("networks", {}).get("default", {}).get("aliases", [])
        assert any(f"//{n}:" in test or f"host={n} " in test for n in [name, *aliases]), name
        assert "/api/" in test or "pg_isready" in test, name  # /health needs no database, no host
    trainer = SERVICES["trainer"]
    assert trainer["shm_size"] == "1gb" and trainer["init"] is True
    assert all(d["condition"] == "service_healthy" for d in trainer["depends_on"].values())


@pytest.mark.parametrize("name", MODELS)
def test_the_ray_cluster_is_made_of_trainers(name: str) -> None:
    services = MODELS[name]["services"]
    trainer, head, worker = (services[s] for s in ("trainer", "ray-head", "ray-worker"))
    own = {"command", "depends_on", "deploy", "healthcheck", "image", "profiles", "restart"}
    own.add("shm_size")
    for one in (head, worker):
        assert {k: v for k, v in one.items() if k not in own} == {
            k: v for k, v in trainer.items() if k not in own
        }
        assert one["profiles"] == ["ray"] and one["command"][:3] == ["ray", "start", "--block"]
        (objects,) = (a for a in one["command"] if a.startswith("--object-store-memory="))
        assert int(objects.partition("=")[2]) < int(one["shm_size"].removesuffix("gb")) * 10**9
        assert "--num-cpus=2" in one["command"]
    assert head["depends_on"] == trainer["depends_on"]
    assert {"--head", "--port=6379", "--num-gpus=0"} <= set(head["command"])
    assert "--address=ray-head:6379" in worker["command"]
    assert worker.get("deploy") == trainer.get("deploy") and "deploy" not in head
    assert ("deploy" in worker) is (name == "with GPUs")


def test_two_databases() -> None:
    (mlflow,) = re.findall(r"5432/(\w+)", str(SERVICES["mlflow"]))
    (optuna,) = re.findall(r"5432/(\w+)", str(SERVICES["trainer"]))
    assert mlflow != optuna
    assert re.findall(r"5432/(\w+)", str(SERVICES["optuna-dashboard"])) == [optuna]


# --- docker/compose.sh


def call_script(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """compose.sh up, in a copy of docker/, with a `docker` that prints what it got."""
    if not (folder / "docker").exists():
        without = shutil.ignore_patterns("secrets")
        shutil.copytree(DOCKER, folder / "docker", ignore=without)
        (folder / "docker-command").write_text('#!/bin/sh\nenv\npwd\necho "arguments: $*"\n')
        (folder / "docker-command").chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "bin" / "docker").symlink_to(folder / "docker-command")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    variables = {"PATH": path, "HARNESS_UID": "1234"} | environment
    return captured([folder / "docker" / "compose.sh", "up", "--wait"], env=variables)


def test_script_makes_a_password_once(tmp_path: Path) -> None:
    assert call_script(tmp_path).returncode == 0
    secret = tmp_path / "docker" / "secrets" / "postgres_password"
    first = secret.read_text()
    assert re.fullmatch("[0-9a-f]{64}", first)
    # Other users of the host do not get past the folder; those of the containers need not to.
    assert (secret.parent.stat().st_mode & 0o777, secret.stat().st_mode & 0o777) == (0o700, 0o644)
    assert call_script(tmp_path).returncode == 0
    assert secret.read_text() == first
    other = tmp_path / "other"
    other.mkdir()
    assert call_script(other).returncode == 0
    assert (other / "docker" / "secrets" / "postgres_password").read_text() != first


def test_script_hands_on(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    generated = (tmp_path / "README.md", tmp_path / "docs" / "comparison.md")
    generated[1].parent.mkdir()
    for path in (*generated, tmp_path / "code.py"):
        path.write_text("a")
    for arguments in ("init -q", "add README.md docs code.py", "commit -qm a"):
        subprocess.run([*git, *arguments.split()], check=True)
    head = captured([*git, "rev-parse", "HEAD"]).stdout.strip()
    for path in generated:
        path.write_text("b")  # as `harness tables` does
    out = call_script(tmp_path).stdout.splitlines()
    assert {f"HARNESS_COMMIT={head}", "HARNESS_UID=1234", "COMPOSE_FILE=compose.yaml"} <= set(out)
    assert out[-2:] == [str(tmp_path / "docker"), "arguments: compose up --wait"]
    (tmp_path / "code.py").write_text("b")
    assert f"HARNESS_COMMIT={head}-dirty" in call_script(tmp_path).stdout.splitlines()
    assert "COMPOSE_FILE=compose.yaml:compose.gpu.yaml" in call_script(tmp_path, GPU="1").stdout


@pytest.mark.parametrize(
    ("environment", "field"),
    [
        ({"HARNESS_UID": "0"}, "HARNESS_UID"),
        ({"COMPOSE_PROFILES": "s3"}, "S3_ARTIFACTS"),
        ({"COMPOSE_PROFILES": "s3", "S3_ARTIFACTS": "s3://b"}, "docker/secrets/s3_credentials"),
    ],
)
def test_script_refuses(tmp_path: Path, environment: dict[str, str], field: str) -> None:
    done = call_script(tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {field}: ") and done.stderr.count("\n") == 1
