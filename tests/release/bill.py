"""bill.py BILL CRATES VERSION: says what is wrong with a bill of materials; CRATES is a file with the names of vendor/.

Rules are those of CycloneDX 1.5: what has to be there, and what may be in it.
"""

import datetime
import json
import re
import sys

TYPES = {"application", "library"}
LICENCES = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC",
    "LGPL-2.1-or-later", "MIT", "Unicode-3.0", "Unlicense", "Zlib",
}
MEMBERS = {
    "bill": {"bomFormat", "specVersion", "version", "metadata", "components", "dependencies"},
    "metadata": {"timestamp", "component"},
    "component": {"type", "bom-ref", "name", "version", "purl", "licenses", "hashes"},
    "dependency": {"ref", "dependsOn"},
}


def main(path, crates, version):
    bill = json.load(open(path))
    own = bill["metadata"]["component"]
    every = [own, *bill["components"]]
    components = {component["bom-ref"]: component for component in every}
    vendored = set(open(crates).read().split())

    head = (bill["bomFormat"], bill["specVersion"], bill["version"], own["type"], own["name"], own["version"])
    if head != ("CycloneDX", "1.5", 1, "application", "vsock-bridge", version):
        print("its head is", head)
    datetime.datetime.strptime(bill["metadata"]["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
    has_only("bill", bill)
    has_only("metadata", bill["metadata"])
    if len(components) != len(every):
        print("two components have one bom-ref")
    for component in every:
        look_at(component, vendored)
    dependencies(bill["dependencies"], set(components), own["bom-ref"])
    if missing := {"libunwind", "musl", "rust-std"} - {component["name"] for component in every}:
        print(f"{missing} is linked in and not told")


def has_only(kind, what):
    if unknown := set(what) - MEMBERS[kind]:
        print(f"{what.get('bom-ref', kind)}: {unknown} is none of its members")


def look_at(component, vendored):
    has_only("component", component)
    name = f"{component['name']}-{component['version']}"
    if component["type"] not in TYPES:
        print(f"{name}: no type {component['type']}")
    # What is not on crates.io: crates of this repository, and what the compiler brings.
    kind = "cargo" if name in vendored else "generic"
    if component["purl"] != f"pkg:{kind}/{component['name']}@{component['version']}":
        print(f"{name}: its purl is {component['purl']}")
    [licence] = component["licenses"]
    if unknown := set(re.split(r" (?:AND|OR) ", licence["expression"].replace("(", "").replace(")", ""))) - LICENCES:
        print(f"{name}: no licence {unknown}")
    if ("hashes" in component) != (name in vendored):
        print(f"{name}: in the tarball and with a checksum, or neither")
    for checksum in component.get("hashes", []):
        if checksum["alg"] != "SHA-256" or not re.fullmatch("[0-9a-f]{64}", checksum["content"]):
            print(f"{name}: its checksum is {checksum}")


def dependencies(told, components, own):
    """Each component once, and all of them needed by the programs."""
    needs = {dependency["ref"]: dependency["dependsOn"] for dependency in told}
    for dependency in told:
        has_only("dependency", dependency)
    if set(needs) != components or len(told) != len(needs):
        print(f"dependencies of {set(needs) ^ components} are not told, or of nobody, or twice")
    for reference, others in needs.items():
        if unknown := set(others) - components:
            print(f"{reference} needs {unknown}, which is not in it")
    reached, next_ones = set(), {own, *(reference for reference in components if "/nss-vsock@" in reference)}
    while next_ones:
        reached |= next_ones
        next_ones = {other for reference in next_ones for other in needs[reference]} - reached
    if reached != components:
        print(f"nobody needs {components - reached}")
    if len(reached) < 50:
        print(f"only {len(reached)} components")


main(*sys.argv[1:])
