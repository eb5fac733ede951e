"""Write docs/licences.md, the licences of all locked packages.

`python -m release.licences` writes it (`make licences`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from harness.common.errors import UserError
from harness.common.files import write_user_file
from release.packages import Package, read_packages

PAGE = Path("docs/licences.md")
NOT_STATED = "not stated"


def main() -> int:
    """Write the page, and return the exit status."""
    try:
        write_user_file(PAGE, page(read_packages(Path())).encode())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {PAGE}")
    return 0


def page(packages: Iterable[Package]) -> str:
    """Return the page of some packages, as Markdown."""
    packages = [*packages]
    counts = Counter(package.licence or NOT_STATED for package in packages)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0].lower()))
    training = [package for package in packages if package.is_for_training]
    developing = [package for package in packages if not package.is_for_training]
    return f"""# Licences

The harness has the MIT licence ([LICENSE](../LICENSE)). This page lists the
{len(packages)} packages of the two lock files. `make licences` writes it from the metadata of the
installed packages, and each licence is in the words of these metadata.

The wheel and the source distribution of the harness contain none of these packages; pip downloads
them. Some packages contain compiled code of others, whose licences the metadata may not name. If a
licence is {NOT_STATED}, do not assume that it is a free one: read the files that come with the
package. `make sbom` writes the same list for programs, with what each package needs, as CycloneDX
1.6 (`dist/sbom.cdx.json`).

{_table(("licence", "packages"), [(name, str(n)) for name, n in ordered])}
## What training needs
{_table(("package", "version", "licence"), map(row, training))}
## What extras and developing add
{_table(("package", "version", "licence"), map(row, developing))}"""


def row(package: Package) -> tuple[str, str, str]:
    """Return the row of a package: its name, its version and its licence."""
    files = ", ".join(package.licence_files)
    unstated = f"{NOT_STATED}; see its {files}" if files else NOT_STATED
    return package.name, package.version, package.licence or unstated


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
