"""Imports go downward only, each library has one home, and --help is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unetcli

ROOT = Path(unetcli.__file__).parent
MODULES = {p.relative_to(ROOT).as_posix(): ast.parse(p.read_text()) for p in sorted(ROOT.rglob("*.py"))}

LAYERS = [
    {"__main__"},
    {"cli"},
    {"demo", "printing"},
    {"stages"},
    {"training", "prediction", "instances", "evaluation"},
    {"sample_table", "options", "explain", "presets"},
    {"sampling"},
    {"objects", "labelling"},
    {"image", "kernels", "models", "metrics", "report", "export", "config", "progress", "launch"},
    {"errors", "atomic", "architectures", "node", "memory"},
    {"__init__"},
]
"""From top to bottom; those on a line do not import one another."""

HOMES = {
    "typer": ("cli.py", "options.py"),
    "rich": ("printing.py", "progress.py"),
    "zarr": ("image/",),
    "numcodecs": ("image/",),
    "obstore": ("image/location.py",),
    "dask": ("image/",),
    "distributed": ("image/scheduling.py",),
    "dask_jobqueue": ("image/scheduling.py",),
    "numba": ("kernels/", "metrics/", "image/lzw.py"),
    "torch": ("models/", "training/", "export/", "prediction/", "stages/train.py", "stages/export.py"),
    "onnx": ("export/onnx.py",),
    "onnxruntime": ("models/onnx.py",),
    "openvino": ("models/openvino.py",),
    "bioimageio": ("export/bioimageio.py",),
    "safetensors": ("models/",),
    "lightning_fabric": ("training/",),
    "matplotlib": ("report/",),
    "jinja2": ("report/",),
    "tifffile": ("image/", "demo.py"),
    "imagecodecs": ("image/",),
    "h5py": ("image/hdf5.py",),
    "pyarrow": ("instances/table.py",),
    "PIL": ("image/", "report/"),
    "scipy": ("kernels/", "metrics/", "demo.py", "report/"),
    "skimage": ("kernels/", "metrics/", "demo.py", "report/"),
}


def imported(tree):
    """List the modules that a module imports, those within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            if node.module in ("unetcli", "unetcli.stages"):  # from unetcli.stages import prep
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    """Name the part of the package that a file belongs to."""
    return path.split("/")[0].removesuffix(".py")


def layer_of(part):
    (layer,) = [i for i, parts in enumerate(LAYERS) if part in parts]
    return layer


def inner_imports(path):
    """List what a file imports of this package, by part."""
    for name in imported(MODULES[path]):
        top, _, rest = name.partition(".")
        if top == "unetcli":
            part = rest.split(".")[0]
            is_part = (ROOT / part).is_dir() or (ROOT / f"{part}.py").exists()
            yield (part if part and is_part else "__init__"), name


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_downward(path):
    own = part_of(path)
    for part, name in inner_imports(path):
        if part != own:
            assert layer_of(part) > layer_of(own), f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.startswith("stages/")])
def test_no_stage_imports_another(path):
    others = {f"unetcli.stages.{Path(p).stem}" for p in MODULES if p.startswith("stages/")}
    assert not others & set(imported(MODULES[path]))


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library):
    users = [p for p, tree in MODULES.items() if library in {name.split(".")[0] for name in imported(tree)}]
    strangers = [p for p in users if not p.startswith(HOMES[library])]
    assert not strangers, f"{library} is imported in {strangers}; its home is {HOMES[library]}"


def test_there_are_no_cycles():
    edges = {p: set() for p in MODULES}
    for path in MODULES:
        for name in imported(MODULES[path]):
            file = name.removeprefix("unetcli.").replace(".", "/")
            edges[path] |= {
                f for f in (f"{file}.py", f"{file}/__init__.py") if name.startswith("unetcli") and f in edges
            }
    while leaves := [p for p, targets in edges.items() if not targets & set(edges)]:
        for leaf in leaves:
            del edges[leaf]
    assert not edges, f"cycle among {sorted(edges)}"


@pytest.mark.parametrize("path", [p for p in MODULES if p not in ("printing.py", "progress.py", "demo.py", "cli.py")])
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(MODULES[path]) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("print", "exit", "quit")]
    assert not [c.lineno for c in calls if ast.unparse(c.func) in ("sys.exit", "sys.stdout.write", "os._exit")] or (
        path == "__main__.py"
    )


@pytest.mark.parametrize("path", MODULES)
def test_each_module_says_what_it_is(path):
    assert ast.get_docstring(MODULES[path])


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_is_light(arguments):
    heavy = [
        "numpy",
        "torch",
        "numba",
        "dask",
        "zarr",
        "obstore",
        "scipy",
        "skimage",
        "tifffile",
        "imagecodecs",
        "matplotlib",
        "lightning_fabric",
    ]
    code = f"""
import sys
from unetcli.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("loaded:", *[name for name in {heavy!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["loaded:"]
