"""Write a software bill of materials (SBOM) of the lock files, as CycloneDX 1.6 JSON.

`python -m release.sbom FILE` writes it (`make sbom`). Packages of requirements.lock are required,
the others optional.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from harness.common.errors import UserError
from harness.common.files import write_user_file
from release.packages import Package, direct_requirements, read_packages, read_project


def main() -> int:
    """Write the file that the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path)
    file = parser.parse_args().file
    try:
        write_user_file(file, sbom(Path()).encode())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {file}")
    return 0


def sbom(root: Path) -> str:
    """Return the bill of materials of the project's lock files, as JSON.

    Args:
        root: The root of the project.

    Raises:
        UserError: A package is not installed in the version of its lock file.
    """
    project = read_project(root)
    packages = read_packages(root)
    components: dict[str, Component] = {
        canonicalize_name(package.name): _component(package) for package in packages
    }
    harness = Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
        purl=PackageURL("pypi", name=project["name"], version=project["version"]),
        bom_ref=project["name"],
    )
    bom = Bom(components=components.values())
    bom.metadata.component = harness
    direct = {canonicalize_name(r.name) for r in direct_requirements(project)}
    bom.register_dependency(harness, [components[name] for name in sorted(direct)])
    for package in packages:
        needed = [components[name] for name in sorted(package.needs)]
        bom.register_dependency(components[canonicalize_name(package.name)], needed)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _component(package: Package) -> Component:
    name = canonicalize_name(package.name)
    stated = LicenseAcknowledgement.DECLARED
    make = LicenseFactory().make_from_string
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        scope=ComponentScope.REQUIRED if package.is_for_training else ComponentScope.OPTIONAL,
        licenses=[make(package.licence, license_acknowledgement=stated)] if package.licence else [],
        purl=PackageURL("pypi", name=name, version=package.version),
        bom_ref=f"{name}=={package.version}",
    )


if __name__ == "__main__":
    sys.exit(main())
