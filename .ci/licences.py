"""Print every installed package with its version and its licence, as the package states them."""

import importlib.metadata

WIDTH = 60  # of a licence: some packages give its whole text


def find_licence(about: importlib.metadata.PackageMetadata) -> str:
    """Return the licence of a package: its expression, its classifiers, or its field."""
    if expression := about.get("License-Expression"):
        return expression
    classifiers = about.get_all("Classifier") or []
    names = [name.rsplit(" :: ", 1)[1] for name in classifiers if name.startswith("License :: ")]
    lines = (about.get("License") or "unknown").strip().splitlines()
    return ", ".join(names) or lines[0][:WIDTH]


def main() -> None:
    """Print a line for each package, by its name."""
    packages = {package.metadata["Name"]: package for package in importlib.metadata.distributions()}
    for name in sorted(packages, key=str.lower):
        package = packages[name]
        print(f"{name:<42}{package.version:<18}{find_licence(package.metadata)}")


if __name__ == "__main__":
    main()
