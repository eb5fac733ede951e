"""Lists of the packages that a release uses.

`packages`: the locked packages, with what their metadata say; `licences`: docs/licences.md; `sbom`:
the software bill of materials. None of it is part of the wheel.
"""
