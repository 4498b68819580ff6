"""Print what the extra [test] requires on aarch64, one requirement a line.

pip itself evaluates the conditions of requirements for the machine on which it downloads.
"""

import tomllib
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
MACHINE = {"platform_machine": "aarch64", "sys_platform": "linux", "python_version": "3.11"}


def required(texts):
    """Yield the requirements that hold on the machine, with those of the project's own extras."""
    for requirement in map(Requirement, texts):
        if requirement.marker and not requirement.marker.evaluate(MACHINE):
            continue
        if requirement.name == PROJECT["name"]:
            for extra in sorted(requirement.extras):
                yield from required(PROJECT["optional-dependencies"][extra])
        else:
            requirement.marker = None
            yield str(requirement)


for line in required([*PROJECT["dependencies"], f"{PROJECT['name']}[test]"]):
    print(line)
