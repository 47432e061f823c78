"""bill.py BILL CRATES VERSION: says what is wrong with a bill of materials; CRATES is a file with the names of vendor/."""

import json
import re
import sys

bill = json.load(open(sys.argv[1]))
crates = set(open(sys.argv[2]).read().split())
own = bill["metadata"]["component"]
components = {component["bom-ref"]: component for component in [own, *bill["components"]]}

if (bill["bomFormat"], bill["specVersion"], own["name"], own["version"]) != ("CycloneDX", "1.5", "vsock-bridge", sys.argv[3]):
    print("its head is wrong")
if len(components) != len(bill["components"]) + 1:
    print("two components have one bom-ref")
for reference, component in components.items():
    name = f"{component['name']}-{component['version']}"
    if not component["licenses"][0]["expression"]:
        print(f"{name} has no licence")
    # Crates of this repository have no checksum.
    if "hashes" in component:
        if name not in crates:
            print(f"{name} is not in the tarball")
        if not re.fullmatch("[0-9a-f]{64}", component["hashes"][0]["content"]):
            print(f"the checksum of {name} is none")
named = {dependency["ref"] for dependency in bill["dependencies"]}
if named != set(components):
    print(f"dependencies of {named ^ set(components)} are not told, or of nobody")
for dependency in bill["dependencies"]:
    for reference in set(dependency["dependsOn"]) - set(components):
        print(f"{dependency['ref']} needs {reference}, which is not in it")
if len(bill["components"]) < 50:
    print(f"only {len(bill['components'])} crates")
