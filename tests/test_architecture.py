"""The layer rule and the house rules, read from the code itself.

A file imports only from lower layers or from its own package; imports inside functions and under
TYPE_CHECKING count, since a reader meets them all the same.
"""

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import dbn_vae

ROOT = Path(dbn_vae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(f.relative_to(ROOT)) for f in FILES]
every_file = pytest.mark.parametrize("file", FILES, ids=NAMES)

LAYERS: list[set[str]] = [
    {"arrays"},
    {"storage", "sequences", "distributions", "nn"},
    {"likelihoods", "inference", "datasets"},
    {"aevb", "emissions", "transitions"},
    {"models"},
    {"training", "evaluation"},
    {"plotting"},
    {"report", "grids"},
    {"estimators"},
    {"io"},
    {"jobs"},
    {"cli"},
    {"__main__"},
]
LAYER = {part: i for i, parts in enumerate(LAYERS) for part in parts}

# What these may import besides their own package, however low it lies.
ONLY: dict[str, set[str]] = {
    "inference": set(),
    "datasets": {"storage"},
    "emissions": {"likelihoods.base", "distributions", "inference.potentials"},
    "transitions": {"distributions", "nn"},
}
HOMES: dict[str, str] = dbn_vae._HOMES


def module_of(file: Path) -> str:
    """estimators/base.py is "estimators.base"; a package's __init__ is the package; the root is ""."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return (
        path.is_dir()
        or path.with_suffix(".py").is_file()
        or bool(list(path.parent.glob(f"{path.name}.*.so")))
    )


def resolve(name: str) -> str:
    """The longest prefix of a dotted name under dbn_vae that is a module; public names go to their homes."""
    parts = name.split(".")
    if parts[0] in HOMES:
        return HOMES[parts[0]]
    while parts and not is_module(".".join(parts)):
        parts.pop()
    return ".".join(parts)


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports, and of every `dbn_vae.name` it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["dbn_vae", *package.split(".")] if package else ["dbn_vae"]
                base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "dbn_vae"
        ):
            yield node.lineno, f"dbn_vae.{node.attr}"


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def package_of(file: Path) -> str:
    module = module_of(file)
    return module if file.stem == "__init__" else module.rpartition(".")[0]


def ours(file: Path) -> Iterator[tuple[int, str]]:
    """The modules of ours that a file imports; the root itself, which holds only names, is no layer."""
    for line, name in imported(parsed(file), package_of(file)):
        head, _, rest = name.partition(".")
        target = resolve(rest) if head == "dbn_vae" and rest else ""
        if target:
            yield line, target


def may_import(part: str, target: str) -> bool:
    other = target.split(".")[0]
    if other == part:
        return True
    if part in ONLY:
        return target in ONLY[part]
    return LAYER[other] < LAYER[part]


def test_every_part_has_a_layer() -> None:
    parts = {module_of(f).split(".")[0] for f in FILES} - {""}
    assert parts == set(LAYER), "a new part needs a place in LAYERS"


@pytest.mark.parametrize(
    ("part", "target", "allowed"),
    [
        ("models", "emissions.gaussian", True),
        ("emissions", "models.hmm", False),
        ("emissions", "likelihoods.base", True),
        ("emissions", "likelihoods.gaussian", False),
        ("emissions", "inference.potentials", True),
        ("emissions", "inference.exact", False),
        ("inference", "storage", False),
        ("training", "evaluation.likelihood", False),
        ("training", "training.em", True),
    ],
)
def test_the_rule_says(part: str, target: str, allowed: bool) -> None:
    assert may_import(part, target) is allowed


def test_imports_are_read_wherever_they_stand() -> None:
    source = (
        "import dbn_vae.models.hmm\nfrom dbn_vae import io, GaussianHMM\n"
        "def f():\n    from .base import X\n    return dbn_vae.load\n"
        "if TYPE_CHECKING:\n    from ..training import em\n"
    )
    found = {name for _, name in imported(ast.parse(source), "estimators")}
    assert found == {
        "dbn_vae.models.hmm", "dbn_vae.io", "dbn_vae.GaussianHMM",
        "dbn_vae.estimators.base.X", "dbn_vae.load", "dbn_vae.training.em",
    }  # fmt: skip
    assert resolve("GaussianHMM") == "estimators"
    assert resolve("estimators.base.X") == "estimators.base"


@pytest.mark.parametrize(
    "file", [f for f in FILES if module_of(f)], ids=[n for n in NAMES if n != "__init__.py"]
)
def test_a_file_imports_only_from_layers_below(file: Path) -> None:
    part = module_of(file).split(".")[0]
    above = [f"line {line}: {target}" for line, target in ours(file) if not may_import(part, target)]
    assert not above, f"{file.relative_to(ROOT)} of {part} may not import {above}"


CODE_IN_FILES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NETWORK = {"urllib", "http", "requests", "httpx", "aiohttp", "socket", "ftplib"}


@every_file
def test_no_code_from_files_and_no_network(file: Path) -> None:
    """Nothing that runs what it reads; the network is for the verified downloads alone."""
    bad = []
    for line, name in imported(parsed(file), package_of(file)):
        head = name.split(".")[0]
        if head in CODE_IN_FILES or (head in NETWORK and module_of(file) != "datasets.files"):
            bad.append(f"line {line}: import {name}")
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Name) and node.id in {"eval", "exec", "__import__"}:
            bad.append(f"line {node.lineno}: {node.id}")
        if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node) == "torch.load":
            bad.append(f"line {node.lineno}: torch.load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            on = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            bad += [f"line {node.lineno}: allow_pickle"] * on
    assert not bad, bad


@every_file
def test_hmmlearn_is_imported_only_where_it_is_asked_for(file: Path) -> None:
    tree = parsed(file)
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside:
            names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
            assert not any(n.split(".")[0] == "hmmlearn" for n in names), f"line {node.lineno}"


@every_file
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 500


PACKAGES = sorted(
    {package_of(f) for f in FILES if f.stem == "__init__" and "__all__" in f.read_text(encoding="utf-8")}
)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve_and_say_what_they_are(package: str) -> None:
    module = import_module(f"dbn_vae.{package}".rstrip("."))
    silent = []
    for name in module.__all__:
        value = getattr(module, name)
        written = (value.__doc__ or "").strip()
        # a NamedTuple or a dataclass without a docstring gets its signature for one
        if (inspect.isclass(value) or inspect.isfunction(value)) and (
            not written or written.startswith(f"{name}(")
        ):
            silent.append(name)
    assert not silent, f"dbn_vae.{package} exports without a docstring: {silent}"


def test_the_face_is_whole() -> None:
    assert set(dbn_vae.__all__) == set(HOMES)
    assert set(dbn_vae.__all__) <= set(dir(dbn_vae))
    with pytest.raises(AttributeError, match="Hmm"):
        dbn_vae.Hmm  # noqa: B018


def test_importing_the_package_is_light() -> None:
    """Torch takes seconds: a name is fetched when it is asked for."""
    probe = (
        "import sys, time; began = time.perf_counter(); import dbn_vae; seconds = time.perf_counter() - began\n"
        "print(seconds, *sorted({'torch', 'numpy', 'matplotlib', 'sklearn', 'pandas', 'hmmlearn'} & set(sys.modules)))"
    )
    paths = [str(ROOT.parent), *sys.path]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{probe}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, *heavy = run.stdout.split()
    assert not heavy, f"import dbn_vae loads {heavy}"
    assert float(seconds) < 0.5
