"""docker/ on a real Docker Engine (tests/containers.py), and what its check asks of a machine."""

import os
import subprocess
import sys
from pathlib import Path

import compose
import engine
import pytest
import yaml
from compose import ROOT
from containers import check_confined
from engine import PACKAGES, SPACE, Missing
from helpers import captured

SCRIPT = ROOT / "tests" / "containers.py"
FOUND: dict[str, str | None] = dict.fromkeys(PACKAGES, "/usr/bin/it")
WITH_CONTAINERS = "containers" in os.environ.get("HARNESS_TESTS_REQUIRE", "")


@pytest.mark.skipif(
    not WITH_CONTAINERS, reason="builds images, minutes; HARNESS_TESTS_REQUIRE=containers"
)
@pytest.mark.timeout(4 * 3600)
def test_the_images_build_and_the_services_keep_their_data() -> None:
    assert subprocess.run([sys.executable, SCRIPT]).returncode == 0


@pytest.mark.parametrize(
    ("root", "found", "free", "field", "remedy"),
    [
        (False, FOUND, SPACE, "docker-check", "sudo"),
        (True, FOUND | {"debootstrap": None}, SPACE, "debootstrap", "apt-get install debootstrap"),
        (True, FOUND | {"ip": None}, SPACE, "ip", "apt-get install iproute2"),
        (True, FOUND, SPACE - 1, "CONTAINERS_CACHE", "folder"),
    ],
)
def test_what_is_missing(
    root: bool, found: dict[str, str | None], free: int, field: str, remedy: str
) -> None:
    with pytest.raises(Missing, match=f"^{field}: .*{remedy}"):
        engine.require(root, found, free)


def test_a_machine_that_has_all() -> None:
    engine.require(True, FOUND, SPACE)


def test_a_missing_program_is_one_line_and_status_2(tmp_path: Path) -> None:
    variables = os.environ | {"PATH": str(tmp_path), "CONTAINERS_CACHE": f"{tmp_path}/cache"}
    done = captured([sys.executable, SCRIPT], env=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_mirror_is_debians() -> None:
    listed = "Node node https://a/\nDebian Debian-Security https://b/\nDebian Debian https://c/\n"
    assert engine.mirror(listed) == "https://c/"
    with pytest.raises(Missing, match="apt-get update"):
        engine.mirror("Ubuntu Ubuntu https://a/\n")


def test_the_stand_ins_are_of_the_release_and_version_that_docker_names() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    services = (ROOT / "docker" / "compose.yaml").read_text()
    assert f"-slim-{engine.suite()}\n" in dockerfile
    (package,) = engine.trees()["postgres"]
    assert f"image: {package.replace('postgresql-', 'postgres:')}." in services


def test_every_image_has_a_stand_in() -> None:
    docker = compose.read()["services"]
    override = yaml.safe_load((engine.FILES / "compose.yaml").read_text())["services"]
    assert override.keys() == docker.keys()
    for name, service in override.items():
        if "build" in docker[name]:
            assert service["build"] == {"network": "host", "args": {"PYTHON": "check-python"}}
        else:
            assert service["image"].removeprefix("check-") in engine.IMAGES


def status(uid: int = 1234, capability: int = 0, privileges: int = 1) -> str:
    lines = [f"Uid:\t{uid}\t{uid}", f"CapPrm:\t{capability:x}", "CapEff:\t0", "CapBnd:\t0"]
    return "\n".join([*lines, f"NoNewPrivs:\t{privileges}"])


READ_ONLY = "\ntouch: cannot touch '/probe': Read-only file system\n"


@pytest.mark.parametrize(
    "printed",
    [
        status() + "\ntouch: cannot touch '/probe': Permission denied\n",
        status(uid=0) + READ_ONLY,
        status(uid=1000) + READ_ONLY,
        status() + "\n" + status(capability=0x400) + READ_ONLY,
        status(privileges=0) + READ_ONLY,
    ],
)
def test_a_container_that_is_not_confined(printed: str) -> None:
    check_confined(status() + READ_ONLY, 1234)
    with pytest.raises(AssertionError):
        check_confined(printed, 1234)
