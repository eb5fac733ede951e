"""The contents of a release: its packages, their licences, the SBOM, and the checks elsewhere."""

import json
import re
import shlex
from email.message import Message

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from helpers import ROOT, Patch
from packaging.utils import canonicalize_name
from pre_commit.clientlib import load_config

from harness.common.errors import UserError
from release import licences, packages
from release.sbom import sbom

LOCKS = [ROOT / name for name in (packages.TRAINING_LOCK, packages.DEVELOPING_LOCK)]
TRAINING, DEVELOPING = map(packages.locked_versions, LOCKS)
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


# -- Licences --------------------------------------------------------------------------------------


def rows() -> list[tuple[str, ...]]:
    """Return the packages of docs/licences.md with versions and licences."""
    text = (ROOT / licences.PAGE).read_text()
    return re.findall(r"^\| (\S+) \| (\d\S*) \| (.+) \|$", text, re.MULTILINE)


def test_the_page_names_every_locked_package() -> None:
    """`make licences` writes the page again."""
    assert {(name, version) for name, version, _ in rows()} == {*(TRAINING | DEVELOPING).items()}


def test_the_page_says_what_the_metadata_state() -> None:
    """Packages that only another system installs are not checked here."""
    here = [row for row in rows() if packages.installed_version(row[0]) == row[1]]
    assert len(here) > 100
    for name, _, licence in here:
        stated = packages.stated_licence(name)
        assert licence == stated if stated else licence.startswith(licences.NOT_STATED), name


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "other")], "MIT OR Apache-2.0"),
        ([("License", "BSD-3-Clause"), ("Classifier", "License :: BSD License")], "BSD-3-Clause"),
        (
            [("License", "Dual"), ("Classifier", "License :: OSI Approved :: Ours")],
            "Ours",
        ),
        ([("License", "Our own, Version 2")], "Our own, Version 2"),
        ([("License", "UNKNOWN"), ("Classifier", "License :: OSI Approved")], None),
        ([("License", "Permission is hereby granted\nto everybody")], None),
        ([("Classifier", "Programming Language :: Python")], None),
    ],
)
def test_a_stated_licence(
    monkeypatch: Patch, fields: list[tuple[str, str]], licence: str | None
) -> None:
    message = Message()
    for name, value in fields:
        message[name] = value
    monkeypatch.setattr(packages, "metadata", lambda _: message)
    assert packages.stated_licence("any") == licence


def test_an_unstated_licence_is_said_with_its_file() -> None:
    package = packages.Package("a", "1", True, None, ("COPYING",), frozenset())
    assert licences.row(package) == ("a", "1", "not stated; see its COPYING")
    assert "| not stated | 1 |" in licences.page([package])


def test_a_package_that_is_not_installed_is_named(monkeypatch: Patch) -> None:
    versions = {"torch": "0.0.1"}
    monkeypatch.setattr(packages, "locked_versions", lambda _: versions)
    with pytest.raises(UserError, match=r"torch: version 0\.0\.1 .* `make setup-dev`"):
        packages.read_packages(ROOT)


# -- The bill of materials -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> str:
    if any(packages.installed_version(n) != v for n, v in (TRAINING | DEVELOPING).items()):
        pytest.skip("what is installed is not what the lock files say")
    return sbom(ROOT)


def test_the_bill_is_cyclonedx(bill: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None


def test_the_bill_holds_both_locks(bill: str) -> None:
    content = json.loads(bill)
    components = {c["name"]: c for c in content["components"]}
    assert {name: c["version"] for name, c in components.items()} == TRAINING | DEVELOPING
    required = {name for name, c in components.items() if c["scope"] == "required"}
    assert required == TRAINING.keys()
    assert components["pre_commit"]["purl"].startswith("pkg:pypi/pre-commit@")
    assert components["torch"]["licenses"]
    project = packages.read_project(ROOT)
    harness = content["metadata"]["component"]
    assert (harness["name"], harness["version"]) == (project["name"], project["version"])


def test_the_bill_says_what_needs_what(bill: str) -> None:
    content = json.loads(bill)
    names = {c["bom-ref"]: canonicalize_name(c["name"]) for c in content["components"]}
    needs = {
        names.get(entry["ref"], ""): {names[ref] for ref in entry.get("dependsOn", ())}
        for entry in content["dependencies"]
    }
    assert {"torch", "mlflow", "pytest"} <= needs[""]
    assert "torch" in needs["torchvision"] and "torchvision" not in needs["torch"]
    assert "py-partiql-parser" in needs["moto"], "through an extra, moto[s3]"
    assert all(name not in below for name, below in needs.items())
    reached = {""}
    while more := {below for name in reached for below in needs[name]} - reached:
        reached |= more
    assert {*names.values()} - reached == set(), "packages in a lock that nothing needs"


# -- The same checks elsewhere ---------------------------------------------------------------------


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, without those that set up .venv."""
    text = (ROOT / "Makefile").read_text().replace("\t@$(BIN)", "\t.venv/bin")
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in lines.splitlines()]


def test_hooks_before_a_commit_run_what_make_lint_runs() -> None:
    (repository,) = load_config(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = repository["hooks"]
    assert repository["repo"] == "local", "nothing is downloaded"
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    assert not any(hook["pass_filenames"] for hook in hooks), "they find the files themselves"
    # pre-commit has renamed it.
    assert {hook["language"] for hook in hooks} <= {"system", "unsupported"}


def test_workflows_follow_their_schema() -> None:
    schema = "--builtin-schema=vendor.github-workflows"
    done = CliRunner().invoke(check_jsonschema, [schema, *map(str, WORKFLOWS)])
    assert done.exit_code == 0, done.output


def test_workflows_run_the_commands_of_the_project() -> None:
    makefile = (ROOT / "Makefile").read_text()
    found = set()
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                if "uses" in step:
                    # A tag could be moved to other code.
                    assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), path
                found.add(step.get("run", ""))
    assert {"make lint", ".ci/run", "make dist sbom"} <= found
    targets = [t for run in found if run.startswith("make ") for t in shlex.split(run)[1:]]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "secrets." not in "".join(path.read_text() for path in WORKFLOWS)


def test_a_release_is_built_from_a_commit() -> None:
    commands = " ".join(recipe("dist"))
    assert "git archive HEAD" in commands and "-m build --no-isolation" in commands
