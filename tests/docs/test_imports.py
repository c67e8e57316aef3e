"""Who may import what: the contracts of pyproject.toml hold, and nobody stands outside them."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOORS = {"bridges.mail", "bridges.matrix", "bridges.openpgp"}


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return found


def contract(beginning: str) -> dict[str, Any]:
    return next(each for each in contracts() if each["name"].startswith(beginning))


def test_every_contract_holds() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert run.returncode == 0, run.stdout


def test_every_module_between_the_doors_is_bound_to_know_no_door() -> None:
    path = {f"bridges.{file.stem}" for file in (ROOT / "bridges").glob("*.py") if file.stem != "__init__"}
    for beginning in ("The path between", "The path reaches"):
        assert path == set(contract(beginning)["source_modules"])
    assert path - {"bridges.ports"} == set(contract("The doors know of the path")["forbidden_modules"])


def test_every_package_between_the_modules_is_a_door() -> None:
    packages = {f"bridges.{file.parent.name}" for file in (ROOT / "bridges").glob("*/__init__.py")}
    assert DOORS == packages == set(contract("The doors do not know")["modules"])


def test_every_library_we_depend_on_has_its_home() -> None:
    """structlog alone may be imported everywhere but in trust."""
    names = {"matrix-nio": "nio", "python-gnupg": "gnupg", "pyyaml": "yaml"}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    modules = {name.partition("[")[0].partition(">")[0].partition("=")[0] for name in wanted}
    bound = {module for each in contracts() for module in each.get("forbidden_modules", [])}
    assert set() == {names.get(module, module) for module in modules} - bound
