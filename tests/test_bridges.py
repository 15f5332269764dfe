"""The bridge in: jobs of Megatron-LM, torchtitan, NeMo and Megatron-Bridge as overrides, and what it says of the rest."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import hops
from hops import cube_sweeper, sweep
from hops.bridges import bridge
from hops.bridges.shell import read_script
from hops.checks import Infeasible
from hops.compositions import has, with_value
from hops.config import compose, make_loader, plain
from hops.recipes import plan_of_words

JOBS = Path(__file__).parent / "bridge"
MODEL = "--num-layers 8 --hidden-size 1024 --num-attention-heads 16 --seq-length 512 --micro-batch-size 1"


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Nothing here is evaluated, so that no kernel need be compiled."""


@cache
def composed(*groups):
    cube_sweeper.register()
    return plain(compose(make_loader(), list(groups)))


def scenario(*words):
    """The scenario of a command line; Hydra composes once a choice of groups, which takes most of the time."""
    typed = values(bridge(words)[0])
    groups = {key for key in typed if key in ("model", "schedule", "topology")}
    config = composed(*(f"{key}={typed[key]}" for key in sorted(groups)))
    for key in typed.keys() - groups:
        assert has(config, key), key
        config = with_value(config, key.split("."), yaml.safe_load(typed[key]))
    made = cube_sweeper._scenario(config, typed)
    if isinstance(made, Infeasible):
        raise made
    return made


def planned(*words):
    """The same by the real path."""
    (made,) = plan_of_words(words, sweep=False).scenarios
    return made


def megatron(tmp_path, text, *typed):
    path = tmp_path / "run.sh"
    path.write_text(text)
    return bridge([f"from={path}", *typed])


def values(overrides):
    return dict(word.split("=", 1) for word in overrides)


# what shells do, without a shell


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("A=8\nrun --a $A", ["run", "--a", "8"]),
        ("A=${A:-8}\nrun --a ${A}", ["run", "--a", "8"]),
        ("A=4; B=${C:-$A}\nrun $B", ["run", "4"]),
        ("A=4 B=2\nrun $((A * ($B + 1)))", ["run", "12"]),
        ("A=7\nrun $((A / 2 % 2)) $((A - 1))", ["run", "1", "6"]),
        ("run $(hostname) ${1} $2 $((N * 2))", ["run", "$(hostname)", "${1}", "$2", "$((N * 2))"]),
        ("A=(--x 1\n  --y '2 3' # why\n)\nA+=(--z)\nrun \"${A[@]}\"", ["run", "--x", "1", "--y", "2 3", "--z"]),
        ("A=(--x '2 3')\nrun ${A[@]}", ["run", "--x", "2", "3"]),
        ('A="--x 1"\nA+=" --y"\nrun $A "$A"', ["run", "--x", "1", "--y", "--x 1 --y"]),
        ("run \\\n  --x \\\n  1", ["run", "--x", "1"]),
        ("run '$A' \"\\$A\" a\\ b", ["run", "$A", "$A", "a b"]),
        ("export -x A=1\nB=2 run $A $B > log 2>&1 | tee", ["run", "1", "2"]),
        ("run 'a|b' \"(c;d)\" # e", ["run", "a|b", "(c;d)"]),
        ('if [ -z "$A" ]; then\n A=3\nfi\nrun $A', ["run", "3"]),
        ('A=1\nif x; then A="$A 2"; fi\nrun "$A"', ["run", "1 2"]),
        ("for i in 1 2; do run $i; done", ["run", "$i"]),
    ],
)
def test_shell__puts_in_what_the_script_says(script, words):
    found = read_script(script)
    assert [list(command) for command in found.commands if command[0] == "run"] == [words]
    assert found.unsure == ()


def test_shell__of_branches_that_differ_the_first_counts_and_is_named():
    found = read_script("if x; then\n A=1\nelse\n A=2\nfi\nA=${A}\nrun $A")
    assert found.commands[-1] == ("run", "1")
    assert found.unsure == ("A",)


@pytest.mark.parametrize(
    ("script", "words"), [("A='x", "a quote ' that opens in line 1 does not end"), ("\nA=(x\ny", "the array A does not end")]
)
def test_shell__names_what_does_not_end(script, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_script(script)


def test_shell__executes_nothing(tmp_path):
    read_script(f"A=$(touch {tmp_path}/made)\ntouch {tmp_path}/made\n`touch {tmp_path}/made`")
    assert not list(tmp_path.iterdir())


# what is typed beside the file, and what this HOPS has not


@pytest.mark.parametrize(
    ("typed", "gone", "stays"),
    [
        ("tp=4", {"tp"}, {"gpus", "pp"}),
        ("dp=3", {"gpus"}, {"tp", "global_batch_size"}),
        ("microbatches=8", {"global_batch_size"}, {"gpus"}),
        ("schedule=zb", {"schedule", "vpp"}, {"pp"}),
        ("model=llama3_70b", {"model.layers", "model.vocabulary"}, {"model.sequence", "model.recompute"}),
        ("model=explicit", {"model.layers", "model.sequence"}, {"tp"}),
        ("model.layers=4", {"model.layers"}, {"model", "model.hidden"}),
        ("~latency.link=x", set(), {"tp", "pp"}),
    ],
)
def test_typed__wins(typed, gone, stays):
    for words in ((typed, f"from={JOBS}/gpt3_175b.sh"), (f"from={JOBS}/gpt3_175b.sh", typed)):
        overrides, _ = bridge(words)
        assert typed in overrides
        keys = {*values(word for word in overrides if word != typed)}
        assert not gone & keys
        assert stays <= keys


@pytest.mark.parametrize(
    ("more", "typed", "kept"),
    [
        ("", "tp=2", True),
        ("", "schedule=zb", True),
        ("", "pp=4", False),
        ("", "model.layers=9", False),
        ("", "model=llama3_70b", False),
        ("--mtp-num-layers 1", "model.mtp_layers=0", False),
        ("--num-virtual-stages-per-pipeline-rank 3", "tp=2", True),
        ("--num-virtual-stages-per-pipeline-rank 3", "schedule=zb", False),
        ("--num-virtual-stages-per-pipeline-rank 3", "vpp=2", False),
    ],
)
def test_typed__a_layout_of_other_stages_is_dropped_and_the_user_told(more, typed, kept, tmp_path):
    text = f"x.py {MODEL} --num-layers 9 --pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 3 {more}"
    overrides, notes = megatron(tmp_path, text, typed)
    assert any(word.startswith("model.layout='E") for word in overrides) == kept
    assert ("model.layout=even (that of the file has other stages)" in "".join(notes)) == (not kept and not typed.startswith("model="))


def test_typed__experts_that_the_file_leaves_open_keep_their_width(tmp_path):
    text = f"x.py {MODEL} --num-experts $N --moe-ffn-hidden-size 512 --expert-tensor-parallel-size 1"
    overrides, _ = megatron(tmp_path, text, "model.experts=4")
    assert {"model.moe_ffn_hidden=512", "etp=1", "model.experts=4"} <= {*overrides}


def test_typed__what_the_file_leaves_open(tmp_path):
    text = f"torchrun --nproc_per_node 8 x.py {MODEL} --tensor-model-parallel-size $TP"
    with pytest.raises(ValueError, match=r"--tensor-model-parallel-size is \$TP, which only a run would know \(type tp=... beside it\)"):
        megatron(tmp_path, text)
    assert "tp=2" in megatron(tmp_path, text, "tp=2")[0]


@pytest.mark.parametrize("question", [("+experiment=when_interleaving_pays",), ("-cn", "when_interleaving_pays")])
def test_typed__so_is_what_a_question_asks(question):
    overrides, notes = bridge(["-m", f"from={JOBS}/gpt3_175b.sh", *question])
    assert not [word for word in overrides if word.startswith(("schedule=", "vpp="))]
    assert "topology=" not in "".join(notes)
    assert "tp=8" in overrides


def test_unknown__is_left_out_with_a_warning(tmp_path):
    text = f"torchrun --nproc_per_node 8 x.py {MODEL} --context-parallel-size 2 --expert-model-parallel-size 1 --unheard-of 3"
    overrides, notes = megatron(tmp_path, text)
    assert "cp=2" in overrides
    assert "--unheard-of" in notes[-1]
    assert "ep=1" not in notes[-1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nope.sh", None, "nope.sh: No such file or directory"),
        ("a.sh", "echo hallo", "no flag of Megatron-LM stands in it"),
        ("a.sh", f"x.py {MODEL} --hidden-size x", "--hidden-size must be a whole number of at least 1; got 'x'"),
        (
            "a.sh",
            f"x.py {MODEL} --tensor-model-parallel-size 0",
            "--tensor-model-parallel-size must be a whole number of at least 1; got '0'",
        ),
        ("a.sh", f"x.py {MODEL} --recompute-granularity half", "must be one of selective, full; got 'half'"),
        ("a.sh", "x.py --tensor-model-parallel-size 2", "no --num-layers in it; .*or choose a model="),
        (
            "a.sh",
            f"x.py {MODEL} --pipeline-model-parallel-size 3 --num-layers-per-virtual-pipeline-stage 2",
            "8 layers are no multiple of 3 ranks",
        ),
        (
            "a.sh",
            f"x.py {MODEL} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'E|t|L'",
            "has 3 stages, no multiple of 2 ranks",
        ),
        ("a.sh", f"x.py {MODEL} --pipeline-model-parallel-layout 'E|t'", "a.sh: model.layout='E|t' needs one L"),
        ("a.sh", f"x.py {MODEL} --num-experts 4 --moe-layer-freq '[0]*3'", "--moe-layer-freq must say it of 8 layers; got 3"),
        ("a.sh", f"x.py {MODEL} --num-experts 4 --moe-layer-freq 0", "--moe-layer-freq must be a whole number of at least 1; got '0'"),
        ("a.sh", f"x.py {MODEL} --num-experts $N", "--num-experts is .N, which only a run would know .type model.experts="),
        (
            "a.sh",
            f"x.py {MODEL} --context-parallel-size 2 --cp-comm-type ring",
            "--cp-comm-type must be one of p2p, all_gather, allgather, a2a, a2a.p2p; got 'ring'",
        ),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[parallelism]\npipeline_parallel_degree = 40",
            "32 layers and 2 for the tables are too few for 40 stages",
        ),
        ("a.toml", "[model", "no TOML"),
        ("a.toml", "[server]\nport = 1", "no key of torchtitan stands in it"),
        ("a.toml", "[model]\nflavor = '9B'", "no sizes of llama3 9B are known"),
        ("a.toml", "[training]\nseq_len = 1", "no .model. flavor in it"),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[training]\nlocal_batch_size = 0",
            "local_batch_size must be a whole number of at least 1; got 0",
        ),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[parallelism]\npipeline_parallel_degree = 2\npipeline_parallel_schedule = 'nope'",
            "pipeline_parallel_schedule 'nope' is none of HOPS.*type schedule=",
        ),
        ("a.yaml", "a: [", "no YAML"),
        ("a.yaml", "- 1", "holds no sections"),
        ("a.yaml", "server: {port: 1}", "no field of NeMo or Megatron-Bridge stands in it"),
        ("a.py", "print(1)", "neither a script with flags of Megatron-LM"),
        ("", None, "from= names no file"),
    ],
)
def test_refused__in_a_sentence(name, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        bridge([f"from={name}"])


def test_refused__two_files_and_no_text(tmp_path):
    with pytest.raises(ValueError, match="from= may stand once"):
        bridge(["from=a.sh", "from=b.sh"])
    (tmp_path / "a.sh").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text"):
        bridge([f"from={tmp_path}/a.sh"])


# the command line and Python


def test_command_line__a_sweep_over_a_launch_script(monkeypatch, capsys):
    plans = []
    monkeypatch.setattr(sweep, "run_plan", lambda plan, config: plans.append(plan))
    monkeypatch.setattr("sys.argv", ["hops-sweep", "-m", f"from={JOBS}/gpt3_175b.sh", "tp=4,8", "global_batch_size=32"])
    sweep.main()
    (plan,) = plans
    assert [(each.tp, each.dp, each.pp, each.microbatches) for each in plan.scenarios] == [(4, 4, 8, 8), (8, 2, 8, 16)]
    assert "pp=8" in plan.overrides
    assert re.match(r"from=.*gpt3_175b.sh \(Megatron-LM\): model=transformer pp=8 vpp=3", capsys.readouterr().err)


def test_command_line__a_refusal_is_a_sentence_and_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hops-sweep", "from=nope.sh"])
    with pytest.raises(SystemExit) as exit_:
        sweep.main()
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("from=nope.sh: No such file")


def test_python__takes_the_same_words(monkeypatch, capsys):
    monkeypatch.setattr("hops.cube.cell_dataset", lambda prepared: prepared)
    monkeypatch.setattr("hops.cube.cube_dataset", lambda prepared: prepared)
    monkeypatch.setattr("hops.trace.timeline_frame", lambda case, draw: case)
    job = (f"from={JOBS}/llama3_70b.yaml", "microbatches=4", "gpus=32")
    (cell,) = hops.simulate(*job).cases
    assert (cell.scenario.cp, cell.scenario.vpp) == (2, 5)
    assert [case.scenario.vpp for case in hops.sweep_cube(*job, "vpp=2,5").cases] == [2, 5]
    assert hops.timeline(*job, "latency=none").scenario.vpp == 5
    assert capsys.readouterr().err.count("(NeMo / Megatron-Bridge)") == 3
