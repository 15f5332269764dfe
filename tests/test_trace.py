"""Timelines: messages, the text and the picture of one draw."""

import json
import re
from unittest.mock import patch

import matplotlib.image
import numpy as np
import pytest
from conftest import scenario
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb

import hops
from hops import __main__, plots
from hops.lowering import P2P
from hops.plots import COLOURS, time_unit, timeline_figure
from hops.simulation import prepare
from hops.terminal import seconds
from hops.trace import messages, timeline_frame, timeline_text

SIZES = {"pp": 3, "microbatches": 4}


def case_of(**changes):
    return prepare(scenario(**{**SIZES, "schedule__name": "zb_h1", "topology__latency": 0.25, **changes}))


@pytest.mark.parametrize("p2p", P2P)
def test_messages__one_for_each_op_that_waits_for_another_rank(p2p):
    case = case_of(p2p=p2p)
    frame = timeline_frame(case)
    found = messages(case)
    assert len(found) == 2 * 4 * (3 - 1)
    ops = {(op.stage, op.kind, op.microbatch): op for op in frame.itertuples()}
    made_by = {(op.rank, op.end): op for op in ops.values() if op.kind != "W"}
    for message in found:
        producer = made_by[message.source, message.sent]
        step = 1 if producer.kind == "F" else -1
        consumer = ops[producer.stage + step, producer.kind, producer.microbatch]
        assert message.goal == consumer.rank == message.source + step
        if p2p in ("rendezvous", "megatron", "torch"):  # a message waits for its receiver
            assert message.arrived - message.sent >= 0.25 - 1e-9
        else:
            assert message.arrived - message.sent == pytest.approx(0.25)
        assert consumer.start >= message.arrived - 1e-9


def test_messages__none_inside_a_rank():
    assert messages(case_of(pp=1)) == []
    looped = case_of(pp=1, schedule__name="interleaved", vpp=2)
    assert messages(looped) == []


def test_text__numbers_only_where_they_fit_and_never_wider_than_asked():
    frame = timeline_frame(case_of(microbatches=40, schedule__name="1f1b"))
    for width in (60, 100):
        lines = timeline_text(frame, width).splitlines()
        assert len(lines) == 3 + 2
        assert max(map(len, lines[:4])) <= width


def test_figure__has_a_bar_an_op_and_says_what_its_axes_are():
    case = case_of()
    figure = timeline_figure(timeline_frame(case), messages(case), "a title")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("time [s]", "rank", "a title")
    bars = [collection for collection in axes.collections if len(collection.get_paths()) == 3 * 4]
    assert len(bars) == 3
    assert len({COLOURS[kind] for kind in "FIW"}) == 3
    assert sorted(text.get_text() for text in axes.texts) == sorted(str(k) for k in range(4) for _ in range(3 * 3))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("forward", "backward for input", "backward for weight", "bubble", "transfer"),
    ]


@pytest.mark.parametrize("pp", [4, 64])
def test_command__writes_a_picture_that_opens(pp, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["hops", "timeline=true", f"pp={pp}", "microbatches=8", "model=explicit", "draws=3"])
    __main__.main()
    out = capsys.readouterr().out
    assert "written: timeline.png (draw 0)" in out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["timeline.png"]
    picture = matplotlib.image.imread(tmp_path / "timeline.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] == 1680
    assert picture[..., :3].std() > 0.05


def test_command__writes_what_it_is_asked_for_and_says_so(command, tmp_path):
    words = ("pp=2", "microbatches=4", "model=explicit", "draws=9", "output.draw=7")
    _, first, _ = command(*words, "timeline=a.svg", "trace=b.json", main=__main__.main)
    assert "written: a.svg (draw 7)" in first
    assert "written: b.json (draw 7; open it with ui.perfetto.dev or chrome://tracing)" in first
    text = (tmp_path / "a.svg").read_text()
    assert f"1f1b on dgx, draw 7: {seconds(hops.timeline(*words[:-1], draw=7)['end'].max())}</text>" in text
    assert "time [ms]</text>" in text
    _, again, _ = command(*words, "timeline=a.svg", main=__main__.main)
    assert (tmp_path / "a.svg").read_text() == text
    assert again.splitlines()[-4:] == first.splitlines()[-4:]
    fault = "+failure.faults.gpu={scope: device, mean: 5.0}"
    run = ("run.iterations=50", "trials=3", fault, "checkpoint.cost=0.1", "recovery.init=0.2", "recovery.load=0.1")
    _, said, _ = command(*words, *run, "timeline=c.png", "trace=d.json", "output.trial=2", main=__main__.main)
    assert "written: c-run.png (trial 2 of the training run)" in said
    assert "written: d.json (draw 7 and trial 2;" in said
    assert matplotlib.image.imread(tmp_path / "c-run.png")[..., :3].std() > 0.05
    names = {
        event["args"]["name"] for event in json.loads((tmp_path / "d.json").read_text())["traceEvents"] if event["name"] == "process_name"
    }
    assert names == {"ranks", "links", "iteration", "job"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("timeline=3", "timeline must be true, false, or the name of a file; got 3"),
        ("timeline=a.pdf", "timeline must end in .png or .svg; got 'a.pdf'"),
        ("timeline=no/a.png", "timeline: no folder no (looked in "),
        ("trace=no/a.json", "trace: no folder no (looked in "),
        ("trace=true", "trace must be the name of a file, such as trace.json; got True"),
        ("output.draw=9", "output.draw must be a whole number from 0 to 8; got 9"),
        ("output.draw=-1", "output.draw must be a whole number from 0 to 8; got -1"),
        ("output.ranks=many", "no output.ranks named 'many'"),
        ("output.trial=0", "output.trial=0: no training run is asked for (set run.days or run.iterations)"),
    ],
)
def test_bad_input__is_refused_before_anything_is_evaluated(word, sentence, command, tmp_path):
    code, out, err = command("pp=2", "microbatches=4", "model=explicit", "draws=9", word, main=__main__.main)
    assert (code, out) == (1, "")
    assert sentence in err
    assert not list(tmp_path.glob("*.*"))


def test_figure__has_later_chunks_of_a_rank_paler():
    case = case_of(schedule__name="interleaved", vpp=2, microbatches=6)
    frame = timeline_frame(case)
    figure = timeline_figure(frame, [], "chunks")
    bars = [bars for bars in figure.axes[0].collections if len(bars.get_paths()) == 3 * 6]
    assert len(bars) == 2 * 2  # F and B of either chunk
    first, later = (frame[(frame["kind"] == "F") & (frame["stage"] // 3 == chunk)]["start"].min() for chunk in (0, 1))
    shown = {to_hex(each.get_facecolor()[0]): min(path.vertices[:, 0].min() for path in each.get_paths()) for each in bars}
    sky = to_rgb(COLOURS["F"])
    assert shown[to_hex(sky)] == first
    assert shown[to_hex([part + (1 - part) * 0.6 for part in sky])] == later
    assert "paler: later chunks of the rank" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_bad_input__a_folder_that_is_read_only_is_refused_before_anything_is_evaluated(command, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    code, out, err = command("pp=2", "microbatches=4", "model=explicit", "draws=9", "timeline=x.png", main=__main__.main)
    assert (code, out) == (1, "")
    assert err.startswith("timeline: the folder of x.png is read-only (in ")


def test_figure__of_many_ranks_has_the_first_the_middle_and_the_last():
    case = case_of(pp=40, microbatches=4)
    frame = timeline_frame(case)
    (axes,) = timeline_figure(frame, messages(case), "some").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [str(rank) for rank in (*range(8), *range(16, 24), *range(32, 40))]
    assert [text.get_text() for text in axes.texts if "not" in text.get_text()] == ["ranks 8 to 15 not shown", "ranks 24 to 31 not shown"]
    assert sum(len(collection.get_paths()) == 24 * 4 for collection in axes.collections) == 3
    assert axes.get_yticks().tolist() == [*range(8), *range(9, 17), *range(18, 26)]
    wires = [collection for collection in axes.collections if isinstance(collection, LineCollection)][-1]
    assert len(wires.get_segments()) == 3 * 7 * 2 * 4
    (axes,) = timeline_figure(frame, messages(case), "all", every=True).axes
    assert sum(len(collection.get_paths()) == 40 * 4 for collection in axes.collections) == 3
    assert "not shown" not in {text.get_text() for text in axes.texts}
    (axes,) = timeline_figure(timeline_frame(case_of(pp=24)), [], "no gap").axes
    assert len(axes.get_yticks()) == 24


def test_numbers__that_are_many_are_glyphs_at_the_same_places():
    """Those above `MOST_TEXTS` are drawn by number, all that show it at once."""
    frame = timeline_frame(case_of(pp=8, microbatches=20, schedule__name="1f1b"))
    (axes,) = timeline_figure(frame, [], "numbers").axes
    texts = {(text.get_text(), *map(float, text.get_position())) for text in axes.texts}
    with patch.object(plots, "MOST_TEXTS", 10):
        (axes,) = timeline_figure(frame, [], "glyphs").axes
    glyphs = [collection for collection in axes.collections if isinstance(collection, PathCollection)]
    assert len(glyphs) == 20
    assert not axes.texts
    for each in glyphs:
        box = each.get_paths()[0].get_extents()
        assert (box.x0 + box.x1, box.y0 + box.y1) == pytest.approx((0, 0), abs=1e-9)  # they are in the middle of their places
    places = [
        {(k, *map(float, place)) for place in each.get_offsets()}
        for k, each in zip(dict.fromkeys(map(str, frame["microbatch"])), glyphs, strict=True)
    ]
    assert set.union(*places) == texts
    assert len(texts) == 8 * 20 * 2


def test_numbers__are_on_all_ops_or_on_none():
    for microbatches, found in ((12, True), (120, False)):
        frame = timeline_frame(case_of(pp=4, microbatches=microbatches, schedule__name="1f1b"))
        (axes,) = timeline_figure(frame, [], "numbers").axes
        numbers = [text.get_text() for text in axes.texts]
        assert len(numbers) == found * len(frame)


@pytest.mark.parametrize(
    ("end", "unit"), [(5e-7, "ns"), (3e-6, "us"), (0.5, "ms"), (7100.0, "s"), (7300.0, "h"), (1.7e5, "h"), (1.8e5, "days"), (0.0, "ns")]
)
def test_time_unit__is_one_that_reads_well(end, unit):
    assert time_unit(end)[0] == unit


def test_text__ops_narrower_than_a_column_do_not_vanish():
    """1F1B on 32 ranks: the last rank computes without a break, so its row has no blank in between; rank 0 waits visibly."""
    frame = timeline_frame(case_of(pp=32, microbatches=64, schedule__name="1f1b", topology__latency=0.0))
    rows = [line.partition("|")[2] for line in timeline_text(frame).splitlines()[:32]]
    assert " " not in rows[31].strip()
    assert set(rows[0]) == {" ", "-", "="}
    assert not any(each.isdigit() for row in rows for each in row)


def test_text__colours_kinds_and_nothing_else():
    frame = timeline_frame(case_of())
    plain, coloured = timeline_text(frame), timeline_text(frame, colour=True)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert set(re.findall(r"\x1b\[(\d+)m", coloured)) == {"36", "33", "32", "0"}


def test_frame__has_what_replicas_exchange_below_the_ops():
    """Each stage reduces its gradients in two buckets, the first under its last backward; weights come before its first forward."""
    words = ("model=gpt_22b", "topology=dgx", "latency=none", "pp=4", "tp=2", "dp=4", "microbatches=4", "bucket_size=1.5e9")
    frame = hops.timeline(*words, "overlap_grad_reduce=true", "overlap_param_gather=true")
    assert set(frame["kind"]) == {"F", "B", "REDUCE_GRAD", "UNSHARD"}
    assert (frame["microbatch"] < 0).equals(frame["kind"].isin(["REDUCE_GRAD", "UNSHARD"]))
    for stage in range(4):
        mine = frame[frame["stage"] == stage].set_index("op")
        last, first = mine.loc[f"{stage}B3"], mine.loc[f"{stage}F0"]
        reduce, gather = mine.loc[f"{stage}REDUCE_GRAD"], mine.loc[f"{stage}UNSHARD"]
        assert len(reduce) == len(gather) == 2
        assert last["start"] < reduce["start"].iloc[0] < last["end"] <= reduce["start"].iloc[1]
        assert gather["start"].iloc[0] == 0
        assert first["end"] > gather["end"].iloc[1]
    assert len(timeline_text(frame).splitlines()) == 4 + 2
    lazy = hops.timeline(*words)
    assert set(lazy["kind"]) == {"F", "B", "REDUCE_GRAD"}
    (axes,) = timeline_figure(frame, [], "exchanges").axes
    assert len(axes.collections) == 1 + 4 + 1  # bubble, kinds, transfers
    heights = {0.42 + 0.42: 2, 0.42 - 0.3: 2}  # of ops, and of exchanges
    found = [round(float(np.ptp(each.get_paths()[0].vertices[:, 1])), 6) for each in axes.collections[1:5]]
    assert sorted(found) == sorted(round(height, 6) for height, n in heights.items() for _ in range(n))


def test_wires__of_messages_too_short_to_be_seen_are_left_out():
    wires = []
    for latency in (0.25, 1e-4):
        case = case_of(topology__latency=latency)
        figure = timeline_figure(timeline_frame(case), messages(case), "some")
        wires.append(len(figure.axes[0].collections[-1].get_segments()))
    assert wires == [2 * 4 * 2, 0]


def test_pipelines__are_told_apart_in_table_text_and_picture():
    """Of four the first two go down the ranks, each from where it begins; the others, dotted and hatched, go up."""
    case = case_of(pp=4, microbatches=8, schedule={"name": "chimera", "pipelines": 4})
    frame = timeline_frame(case)
    assert list(frame.columns) == ["rank", "op", "stage", "kind", "microbatch", "pipeline", "start", "end"]
    assert (frame["pipeline"] == frame["microbatch"] // 2).all()
    begins = frame[(frame["stage"] == 0) & (frame["kind"] == "F")].groupby("pipeline")["rank"].unique().map(list)
    assert begins.tolist() == [[0], [2], [3], [1]]
    lines = timeline_text(frame).splitlines()
    opened = [each for line in lines[:4] for each in re.findall(r"(\d)([^\d])", line.partition("|")[2])]
    assert len(opened) > 50
    assert all((int(k) < 4) == (mark in "-=") for k, mark in opened)
    assert lines[-1].strip() == ". : the same in pipelines from the last rank to the first"
    figure = timeline_figure(frame, [], "four")
    bars = {
        collection.get_hatch(): len(collection.get_paths()) for collection in figure.axes[0].collections if len(collection.get_paths()) > 1
    }
    assert bars == {None: 4 * 4, "///": 4 * 4}
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "from the last rank to the first"
    both = hops.timeline("schedule=chimera", "pp=2", "dp=2", "tp=4", "microbatches=4", "latency=none", "model=gpt_22b")
    assert set(both["pipeline"][both["microbatch"] < 0]) == {-1}


def test_units__show_both_of_their_ops():
    case = case_of(pp=2, microbatches=4, schedule={"name": "chimera", "scaling": "forward_doubling"}, topology__latency=0.0)
    frame = timeline_frame(case)
    first = timeline_text(frame).splitlines()[0].partition("|")[2]
    assert re.findall(r"\d", first) == ["0", "1", "2", "3", "2", "0", "3", "1"]
    (axes,) = timeline_figure(frame, [], "doubled").axes
    places = {text.get_text(): text.get_position() for text in axes.texts[:4]}
    assert places["0"][0] == places["1"][0]
    assert places["0"][1] < 0 < places["1"][1]


WORDS = ("model=gpt_22b", "topology=dgx", "latency=lognormal", "draws=4", "pp=4", "tp=8", "microbatches=8", "schedule=v_half")


def peaks(after_input, **changes):
    frame = hops.memory_timeline(*WORDS, *(f"{key}={value}" for key, value in changes.items()), draw=3, after_input=after_input)
    assert (frame.groupby("rank")["activations"].last().abs() < 1).all()  # bytes; all are given up in the end
    return frame.groupby("rank")["activations"].max()


def test_memory__held_until_the_weight_pass_peaks_at_what_is_in_flight():
    frame = hops.memory_timeline(*WORDS, draw=3)
    chunk = frame["activations"].iloc[0]
    assert frame["op"].iloc[0] == "0F0"
    assert [round(peak / chunk, 9) for peak in peaks(1.0)] == list(hops.program("v_half", pp=4, microbatches=8).in_flight)
    assert [round(peak / chunk, 9) for peak in peaks(1.0, schedule="1f1b") / 2] == [4, 3, 2, 1]  # a stage is two of those chunks


def test_memory__of_zb_h1_under_three_accountings():
    """Rank r has r weight passes in arrears, and p - r microbatches before their I."""
    chunk = hops.memory_timeline(*WORDS, "schedule=zb_h1", draw=3)["activations"].iloc[0]
    for after_input, expected in ((1.0, [4, 4, 4, 4]), (0.0, [4, 3, 2, 1]), (0.4, [4, 3.4, 2.8, 2.2])):
        assert [round(peak / chunk, 9) for peak in peaks(after_input, schedule="zb_h1")] == expected


def test_memory__changes_when_a_forward_begins_and_a_backward_ends():
    frame = hops.memory_timeline(*WORDS, draw=3, after_input=0.4)
    assert len(frame) == 3 * 8 * 8
    times = hops.timeline(*WORDS, draw=3).set_index("op")
    for row in frame.itertuples():
        assert row.time == times.loc[row.op, "start" if "F" in row.op else "end"]
    assert frame.groupby("rank")["time"].apply(lambda times: times.is_monotonic_increasing).all()
    assert len(hops.memory_timeline(*WORDS, after_input=0.0)) == 2 * 8 * 8


def test_memory__refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match=r"after_input must be a share of the activations, from 0 to 1; got 2"):
        hops.memory_timeline(*WORDS, after_input=2)
    with pytest.raises(ValueError, match="model=explicit has no activations"):
        hops.memory_timeline("model=explicit", "latency=none")
