"""The presets: every option of every group composes, evaluates and says where its numbers come from."""

import re
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

import hops
from hops.config import CALM, folder
from hops.distributions import LAWS
from hops.faults import Failures, make_failures
from hops.recovery import RECOVERIES
from hops.schedules import SCHEDULES
from hops.sections import frozen
from hops.topologies import TOPOLOGIES
from hops.variables import KEY_UNITS

CONF = folder("conf")
PRESETS = sorted(path for path in CONF.rglob("*.yaml") if path.name != "config.yaml")
OPTIONS = [
    *(f"{path.parent.name}={path.stem}" for path in PRESETS),
    *(f"schedule={name}" for name in (*SCHEDULES, *SCHEDULES.aliases)),
    *(f"topology={name}" for name in TOPOLOGIES),
    *(f"latency={name}" for name in (*LAWS, "none")),
    *(f"recovery={name}" for name in RECOVERIES),
    "failure=none",
]


@pytest.mark.parametrize("option", OPTIONS)
def test_option__runs_out_of_the_box(option, tmp_path):
    (tmp_path / "sample.txt").write_text("1.0 1.1 1.3")
    (tmp_path / "faults.jsonl").write_text('{"t_ns": 9000000000}')
    hops.program("1f1b", 8, 16).to_csv(tmp_path / "order.csv")
    run = ["run.iterations=50", "trials=2"]
    needs = {
        "failure=file": [f"failure.script={tmp_path}/faults.jsonl", *run],
        "schedule=file": [f"schedule.path={tmp_path}/order.csv"],
        "latency=empirical": [f"latency.op.file={tmp_path}/sample.txt"],
        "efficiency=a100_megatron": ["topology.gpu=a100"],
        "topology=custom": [
            "topology.nodes=[[one,null]]",
            "topology.kinds={one: {gpu: l4, gpus: 8, levels: [{name: node, size: 8, class: PHB}]}}",
        ],
        "latency=scipy": ["latency.op.distribution=invgauss", "latency.op.parameters={mu: 0.1}"],
        "model=gpt_1t": ["tp=8"],
        "model=gpt_530b": ["tp=8"],
        "model=deepseek_v3": ["ep=8", "dp=8"],
    }.get(option, run if option.startswith("failure=") and option != "failure=none" else [])
    if needs:
        sentences = (
            "needs schedule.path",
            "is not set",
            "was calibrated on a100",
            "set run.days or run.iterations",
            "one layer's weights, gradients and optimizer",
        )
        with pytest.raises(ValueError, match="|".join(sentences)):
            hops.simulate(option)
    cell = hops.simulate("microbatches=16", option, *needs, "draws=4")
    assert (cell["iteration_time"] > 0).all()


def test_option__that_a_door_registers_later_is_known(monkeypatch):
    hops.simulate("draws=1")
    monkeypatch.setitem(SCHEDULES.aliases, "later", "1f1b")
    monkeypatch.setitem(ConfigStore.instance().repo["schedule"], "later.yaml", None)  # goes with the test
    assert hops.simulate("schedule=later", "draws=1").attrs["config"] == hops.simulate("draws=1").attrs["config"]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_preset__opens_with_what_it_is(path):
    assert re.match(r"# \S.{15,}", path.read_text())


def test_defaults__are_those_of_the_design():
    cell = hops.simulate()
    config = cell.attrs["config"]
    for line in (
        "pp: 8",
        "vpp: null",
        "dp: 1",
        "tp: 1",
        "cp: 1",
        "ep: 1",
        "microbatches: 32",
        "microbatch_size: 1",
        "draws: 1000",
        "seed: 0",
        "p2p: channel",
        "barrier: true",
        "law: lognormal",
        "cv: 0.05",
        "name: 1f1b",
        "name: dgx",
    ):
        assert f"{line}\n" in config
    assert cell.sizes == {"draw": 1000, "rank": 8}


def test_noise__of_the_default_is_five_percent_an_op():
    """32 microbatches of F and B on one rank: the sum varies by 0.05 sqrt(sum of squares) / sum; within 8 % at 1,000 draws (4 sigma)."""
    cell = hops.simulate("pp=1", "model=explicit", "model.forward=1", "model.backward_input=1", "model.backward_weight=1")
    expected = 0.05 * (32 * (1**2 + 2**2)) ** 0.5 / 96
    assert float(cell["iteration_time"].std(ddof=1) / cell["iteration_time"].mean()) == pytest.approx(expected, rel=0.08)


def test_sweeps__open_with_their_question():
    for path in Path(folder("sweeps")).glob("*.yaml"):
        assert re.match(r"# .+\?\n", path.read_text()), f"{path.name} must open with its question"


def test_failure__without_any_has_the_defaults_of_faults_that_are_given():
    """Written out in three places: importing ``hops.faults`` takes half a second, which --help does without."""
    assert make_failures(frozen(CALM)) == Failures()
    of_file = yaml.safe_load((CONF / "failure" / "file.yaml").read_text())
    assert of_file == CALM | {"script": "???"}


def test_units__are_of_keys_that_exist():
    """Of some option each; an axis over one carries its unit."""
    known = {
        f"{group}.{key}"
        for group, door in (("schedule", SCHEDULES), ("topology", TOPOLOGIES), ("recovery", RECOVERIES))
        for record in door.values()
        for key in record.parameters
    }
    models = {f"model.{key}" for path in (CONF / "model").glob("*.yaml") for key in yaml.safe_load(path.read_text())}
    sections = yaml.safe_load((CONF / "config.yaml").read_text())
    known |= models | {
        f"{name}.{key}" for name, section in (*sections.items(), ("failure", CALM)) if isinstance(section, dict) for key in section
    }
    assert known >= set(KEY_UNITS)
    cube = hops.sweep_cube("latency=none", "model=explicit", "pp=2,3", "model.forward=1e-3,2e-3", "schedule=1f1b,zb")
    units = {name: cube[name].attrs.get("units") for name in ("pp", "forward", "schedule")}
    assert units == {"pp": "1", "forward": "s", "schedule": None}
