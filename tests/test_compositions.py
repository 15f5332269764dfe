"""Configs of many group choices from few compositions: the same as Hydra's own, or Hydra's own."""

import copy
import itertools
import sys

import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import hops
from hops import sweep
from hops.compositions import GONE, changed, composed, has, with_value
from hops.config import compose, make_loader, plain
from hops.cube_sweeper import register


def counting(compose_one):
    """``compose_one`` and the list of what it was asked for."""
    asked = []

    def compose_and_count(choice):
        asked.append(choice)
        return compose_one(choice)

    return compose_and_count, asked


def test_composed__many_options_from_few_compositions_are_hydras_own(monkeypatch):
    """Ten options in each of three groups: 29 compositions instead of 1,000; 10 random tuples are what Hydra composes."""
    register()
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    for name in ("mine", "ours"):
        ConfigStore.instance().store(group="model", name=name, node={"family": "explicit", "note": name})
    loader = make_loader()
    options = {
        "schedule": ["1f1b", "zb", "gpipe", "interleaved", "looped_bfs", "eager_1f1b", "zb_h1", "zb_h2", "GPipe", "Interleaved1F1B"],
        "model": ["gpt_22b", "explicit", "gpt3_175b", "gpt_1t", "gpt_530b", "llama3_70b", "llama3_405b", "mixtral_8x7b", "mine", "ours"],
        "latency": ["none", "lognormal", "normal", "gamma", "weibull", "heavy_tail", "scipy", "empirical", "h100_megatron", "mixed_gpus"],
    }

    def compose_one(choice):
        return compose(loader, [f"{group}={name}" for group, name in zip(options, choice, strict=True)])

    compose_one, asked = counting(compose_one)
    configs, refers = composed(compose_one, list(itertools.product(*options.values())))
    assert (len(configs), len(asked), refers) == (1000, 1 + 9 + 9 + 9 + 1, False)
    rng = np.random.Generator(np.random.PCG64(1))
    for at in rng.integers(0, 1000, 10):
        choice = list(configs)[at]
        assert configs[choice] == plain(compose_one(choice)), choice


def tables(*columns):
    """A composition that puts tables together: each option is a config of its own, later ones win."""

    def compose_one(choice):
        return OmegaConf.merge({"a": {"x": 0}, "b": {"y": 0}}, *(column[name] for column, name in zip(columns, choice, strict=True)))

    compose_one, asked = counting(compose_one)
    wanted = list(itertools.product(*columns))
    configs, refers = composed(compose_one, wanted)
    for choice in wanted:
        assert refers or configs[choice] == plain(compose_one(choice))
    return len(asked) - (0 if refers else len(wanted)), len(wanted), refers


def test_composed__groups_that_change_the_same_key_are_composed_one_by_one():
    first = {name: {"a": {"x": i}} for i, name in enumerate("pqrst")}
    apart = {name: {"b": {"y": i}} for i, name in enumerate("pqrst")}
    same = {name: {"a": {"x": 10 * i}} if i else {} for i, name in enumerate("pqrst")}
    assert tables(first, apart) == (1 + 4 + 4 + 1, 25, False)
    assert tables(first, same) == (10 + 25, 25, False)


def test_composed__a_group_that_replaces_what_another_changes_inside_is_composed_one_by_one():
    compose_one, asked = counting(lambda choice: OmegaConf.create({"b": choice[0] or {"y": choice[1]}}))
    configs, _ = composed(compose_one, list(itertools.product(range(5), range(5))))
    assert (configs[0, 3], configs[2, 3], len(asked)) == ({"b": {"y": 3}}, {"b": 2}, 10 + 25)


def test_composed__what_only_shows_together_is_found_by_the_last_tuple():
    """No two options change the same key, yet together they do more: the comparison of the last tuple finds it."""

    def compose_one(choice):
        found = {"a": choice[0], "b": choice[1], "both": 0}
        return OmegaConf.create({**found, "both": 1} if choice[0] != 0 and choice[1] != 0 else found)

    compose_one, asked = counting(compose_one)
    configs, _ = composed(compose_one, list(itertools.product(range(5), range(5))))
    assert configs[2, 3] == {"a": 2, "b": 3, "both": 1}
    assert len(asked) == (1 + 4 + 4 + 1) + 25


def test_composed__says_that_keys_refer_to_each_other():
    first = {name: {"a": {"x": "${b.y}"}} for name in "pqrst"}
    apart = {name: {"b": {"y": i}} for i, name in enumerate("pqrst")}
    assert tables(first, apart)[2]
    configs, refers = composed(lambda choice: OmegaConf.create({"a": choice[0], "b": "${a}"}), [(i, j) for i in range(9) for j in range(9)])
    assert (len(configs), configs[3, 4], refers) == (81, {"a": 3, "b": 3}, True)


def test_composed__a_third_group_that_two_others_choose_together_is_composed_one_by_one(tmp_path, monkeypatch):
    """Hydra's specializing configs: pair=${schedule}_${topology} exists for one pair only, which is not the last."""
    (tmp_path / "my" / "pair").mkdir(parents=True)
    (tmp_path / "my" / "spec.yaml").write_text("defaults: [config, optional pair: '${schedule}_${topology}', _self_]\n")
    (tmp_path / "my" / "pair" / "gpipe_pcie.yaml").write_text("# @package _global_\nmodel: {layers: 96}\n")
    monkeypatch.chdir(tmp_path)
    words = ["hops-sweep", "--config-dir", "my", "-cn", "spec", "-m", "schedule=1f1b,gpipe,zb", "topology=dgx,pcie", "latency=none"]
    monkeypatch.setattr(sys, "argv", [*words, "pp=4", "microbatches=4", "hydra.sweep.dir=results/x"])
    sweep.main()
    time = hops.open_cube("results/x")["iteration_time_mean"]
    assert float(time.sel(schedule="gpipe", topology="pcie")) > 1.8 * float(time.sel(schedule="1f1b", topology="pcie"))


def test_changed__is_what_makes_one_config_the_other():
    before, after = {"a": {"x": 1, "y": [1]}, "b": 1, "c": None}, {"a": {"x": True, "z": {}}, "c": {"d": 1}}
    change = changed(before, after)
    assert change == {("a", "x"): True, ("a", "y"): GONE, ("a", "z"): {}, ("b",): GONE, ("c",): {"d": 1}}
    for path, value in change.items():
        before = with_value(before, path, value)
    assert before == after
    assert has(after, "c.d")
    assert not has(after, "c.d.e")
    assert not has(after, "b")


def test_sweep__of_ten_options_in_two_of_four_groups_evaluates_every_tuple():
    cube = hops.sweep_cube(
        "schedule=zb_h1,zb_h2,zb_v", "topology=glob(*)", "model=glob(*)", "latency=none,lognormal", "draws=2", "pp=4", "microbatches=4"
    )
    assert dict(cube["evaluated"].sizes) == {"schedule": 3, "topology": 14, "model": 11, "latency": 2}
    too_large = ["deepseek_v3", "gpt_1t", "gpt_530b"]  # one layer of them, for one GPU of some topologies
    asked = cube["topology"] != "custom"  # which is nothing without a file
    roomy = cube["evaluated"].drop_sel(model=too_large, topology="aws_g5")  # GPUs of 24 GB
    assert bool((roomy == asked).all())
    alone = hops.simulate("schedule=zb_h2", "topology=pcie", "model=llama3_70b", "latency=none", "pp=4", "microbatches=4")
    found = cube.sel(schedule="zb_h2", topology="pcie", model="llama3_70b", latency="none")
    assert float(found["iteration_time_mean"]) == float(alone["iteration_time"].mean())
