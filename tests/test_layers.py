"""The house: imports point one way, every heavy library has one home, names do not shadow each other."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hops

ROOT = Path(hops.__file__).parent
DOORS = ("schedules", "topologies", "distributions", "recovery")
LAYERS = [
    "checks",
    "countdown",
    "garbage",
    "memo",
    "registry",
    "sequence",
    "routes",
    "placements",
    "programs",
    "nominal",
    "building_block",
    "schedules",
    "tables",
    "nodes",
    "paths",
    "cluster",
    "overrides",
    "layout",
    "collectives",
    "messages",
    "replicas",
    "hardware",
    "topologies",
    "recovery",
    "distributions",
    "efficiency",
    "costs",
    "data_parallel",
    "overheads",
    "blocks",
    "partition",
    "layers",
    "transformer",
    "models",
    "lanes",
    "traffic",
    "memory",
    "jit",
    "speeds",
    "noise",
    "graph",
    "walks",
    "posts",
    "lowering",
    "torch_order",
    "agenda",
    "edges",
    "links",
    "events",
    "contention",
    "queues",
    "retries",
    "workspace",
    "team",
    "window",
    "synchronization",
    "kernels",
    "joint",
    "contended",
    "noiseless",
    "sections",
    "disturbances",
    "hindrances",
    "lifetimes",
    "scripts",
    "injections",
    "faults",
    "checkpoints",
    "training",
    "scenario",
    "weights",
    "hazards",
    "clocks",
    "spells",
    "forecast",
    "course",
    "diary",
    "commits",
    "progress",
    "intervals",
    "chaos",
    "rollback",
    "places",
    "ways",
    "episodes",
    "ledger",
    "renewal",
    "planning",
    "metrics",
    "variables",
    "megatron",
    "simulation",
    "impact",
    "executor",
    "critical",
    "attribution",
    "ideals",
    "causes",
    "savings",
    "insight",
    "disturbed",
    "elastic",
    "ladder",
    "sky",
    "trials",
    "runs",
    "where",
    "plan",
    "settle",
    "run_variables",
    "files",
    "plots",
    "run_plots",
    "trace",
    "histories",
    "perfetto",
    "terminal",
    "netcdf",
    "lookup",
    "pictures",
    "comparisons",
    "choices",
    "accessor",
    "cube",
    "config",
    "compositions",
    "axes",
    "cube_sweeper",
    "bridges",
    "recipes",
    "report_data",
    "charts",
    "sentences",
    "report",
    "sweep",
    "notebook",
    "__init__",
    "__main__",
]
HOMES = {
    "numba": {"jit"},
    "scipy": {"distributions", "lifetimes", "metrics"},
    "xarray": {
        "cube",
        "terminal",
        "lookup",
        "comparisons",
        "choices",
        "accessor",
        "insight",
        "recipes",
        "report",
        "report_data",
        "sweep",
        "notebook",
    },
    "pandas": {"trace", "notebook", "plots", "run_plots", "histories", "insight"},
    "hydra": {"config", "axes", "cube_sweeper", "recipes", "sweep"},
    "omegaconf": {"config", "compositions", "axes", "cube_sweeper", "recipes", "sweep", "__main__"},
    "matplotlib": {"plots", "run_plots", "pictures", "charts", "notebook"},
    "yaml": {"config", "bridges"},
}
FILES = sorted(ROOT.rglob("*.py"))


def layer(path):
    inside = path.relative_to(ROOT)
    return inside.parts[0].removesuffix(".py")


def imports(path):
    """(module, is at the top of the file) of every import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module == "hops":
            names = [f"hops.{alias.name}" for alias in node.names]
        yield from ((name, node in tree.body) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports__point_one_way_and_home(path):
    here = layer(path)
    for name, _ in imports(path):
        top, *rest = name.split(".")
        if top == "hops":
            there = rest[0]
            assert LAYERS.index(there) < LAYERS.index(here) or there == here, f"{here} imports {there}, which comes later"
        elif top in HOMES:
            assert here in HOMES[top], f"{here} imports {top}"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) in DOORS], ids=lambda path: str(path.relative_to(ROOT)))
def test_doors__import_only_what_is_light(path):
    for name, top_level in imports(path):
        top = name.split(".")[0]
        if top == "hops" or (top in sys.stdlib_module_names and top != "subprocess"):
            continue
        assert top in ("numpy", "scipy")
        lazily = {"scipy_stats.py": ("scipy",)}.get(path.name, ("scipy.special",))  # the law that is any law of scipy.stats
        assert top == "numpy" or (name in lazily and not top_level)


def test_names__modules_do_not_shadow_public_functions():
    for module in pkgutil.walk_packages(hops.__path__, "hops."):
        importlib.import_module(module.name)
    for name in hops.__all__:
        assert not isinstance(getattr(hops, name), type(sys)), f"hops.{name} is a module"
        assert not (ROOT / f"{name}.py").exists()
    assert hops.program("1f1b", pp=1, microbatches=1).n_ops == 2
    assert set(dir(hops)) == set(hops.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hops.nothing


HEAVY = {"numba", "xarray", "scipy", "matplotlib", "pandas", "hydra", "numpy"}


ASKS_FOR_HELP = """
import contextlib, io, sys
from hops.sweep import main
sys.argv = ["hops.sweep", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import hops", set()),
        ("import hops.schedules, hops.topologies, hops.distributions, hops.recovery", set()),
        ("import hops.config, hops.cube_sweeper, hops.sweep, hops.__main__", {"hydra"}),
        (ASKS_FOR_HELP, {"hydra"}),
    ],
)
def test_start__nothing_heavy_before_it_is_needed(statement, allowed):
    code = f"{statement}\nimport sys; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed


def test_files__stay_small():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 320} == {}
