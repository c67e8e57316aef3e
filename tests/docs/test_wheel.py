"""The built package holds our four packages and their texts, and nothing else. Their names are generic: see to it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"bot", "bridges", "storage", "trust"}
NO_CODE = {".typed", ".toml", ".mako"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of the wheel, built by the back end itself, without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", build, str(directory)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return zipfile.ZipFile(directory / run.stdout.split()[-1]).namelist()


def test_it_holds_our_packages_and_nothing_else(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == OURS


def test_it_holds_every_module_and_text_of_ours(names: list[str]) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for package in OURS
        for path in (ROOT / package).rglob("*")
        if path.is_file() and (path.suffix == ".py" or path.suffix in NO_CODE or path.name == "py.typed")
    }
    assert set() == sources - set(names)


def test_it_holds_the_licence_and_the_command(names: list[str]) -> None:
    info = {name.partition("/")[2] for name in names if ".dist-info/" in name}
    assert {"entry_points.txt", "licenses/LICENSE", "METADATA"} <= info


def test_no_package_of_ours_hides_one_of_the_standard_library() -> None:
    assert set() == OURS & set(sys.stdlib_module_names)
