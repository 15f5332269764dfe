"""The answers to this folder's questions: ``uv run python sweeps/answers.py`` checks them and writes README.md and the pictures."""

import re
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from gallery import (
    ANSWERS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HERE,
    NAMES,
    OF_SCHEDULE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Answer,
    Claim,
    Share,
    answers,
    canvas,
    capacity,
    cube_of,
    falling,
    framed,
    less,
    line,
    more,
    numbered,
    page,
    png,
    section,
)
from matplotlib.figure import Figure

from hops.checks import no_such


@answers
def schedule_by_microbatches(cube: xr.Dataset) -> Answer:
    time, room, late = cube["iteration_time_draws"], cube["headroom"], cube["microbatches"] >= 16
    saved = less(time, time.sel(schedule="1f1b"))
    h1, h2 = saved.sel(schedule="zb_h1"), less(time.sel(schedule="zb_h2"), time.sel(schedule="zb_h1"))
    few, many = cube["microbatches"].values[[0, -1]]
    claims = [
        Claim("ZB-H1 takes less time than 1F1B at every number", *h1),
        Claim("it saves the less, the more microbatches there are", *falling(h1, "microbatches")),
        Claim("ZB-H2 is within 0.5 % of it", 0.5 - abs(h2.value), h2.error),
        Claim("1F1B and ZB-H1 fit", room.sel(schedule=["1f1b", "zb_h1"])),
        Claim("GPipe and ZB-H2 do not from 16 microbatches on", -room.sel(schedule=["gpipe", "zb_h2"])[:, late]),
    ]
    sentences = (
        f"ZB-H1, whatever the number: it takes {h1.value[0]:.0f} % less time than 1F1B at {few} microbatches and {h1.value[-1]:.0f} % "
        f"less at {many}, as the bubble that it fills does not grow with them.",
        f"ZB-H2 is within {abs(h2.value).max():.1f} % of it as long as a barrier ends the iteration, and like GPipe it does not fit "
        f"{capacity(cube):.0f} GB from {cube['microbatches'].values[late][0]} microbatches on (hollow).",
    )
    figure, axes = canvas("size of an iteration [microbatches]", "time saved against 1F1B [%]")
    for name, size in (("gpipe", 11), ("1f1b", 6), ("zb_h2", 11), ("zb_h1", 6)):
        share, fits = saved.sel(schedule=name), cube["fits"].sel(schedule=name).values
        style: dict[str, Any] = {"colour": OF_SCHEDULE[name], "markersize": size}
        line(axes, share, "microbatches", NAMES[name], linestyle=":" if name == "zb_h2" else "-", markerfacecolor="white", **style)
        line(axes, share.isel(microbatches=fits), "microbatches", "", linestyle="", **style)
    numbered(axes, cube["microbatches"].values)
    axes.legend(frameon=False, fontsize=11, title="hollow: does not fit")
    return Answer(claims, sentences, figure)


@answers
def when_interleaving_pays(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time_draws"]
    saved = less(time.isel(schedule_vpp=slice(1, None)), time.isel(schedule_vpp=0, drop=True))
    fast, slow = saved.isel(bandwidth=0), saved.isel(bandwidth=1)
    chunks, speeds = saved.value["vpp"].values, [f"{8e-9 * each:.0f} Gb/s" for each in cube["bandwidth"].values]
    few, many = cube["microbatches"].values[[0, -1]]
    most = -slow.value[-1]
    claims = [
        Claim("over a fast link interleaving saves time at every number of microbatches", *fast),
        Claim("it saves the less, the more there are", *falling(fast, "microbatches")),
        Claim("and the more, the more chunks a rank has", *falling(fast.isel(schedule_vpp=slice(None, None, -1)), "schedule_vpp")),
        Claim("over a slow link few chunks save time too", *slow.isel(schedule_vpp=[0, 1])),
        Claim("and many chunks lose time", most, slow.error[-1]),
        Claim("all of them fit", cube["headroom"]),
    ]
    sentences = (
        f"Over {speeds[0]} it only pays less and less, as the bubble that it divides becomes a smaller share: {chunks[-1]} chunks a rank "
        f"save {fast.value[-1, 0]:.0f} % of 1F1B's time at {few} microbatches and {fast.value[-1, -1]:.1f} % at {many}.",
        f"Over {speeds[1]} {chunks[0]} chunks save {slow.value[0, -1]:.0f} % even there, as 1F1B waits for messages itself, but "
        f"{chunks[-1]} lose {most.min():.0f} to {most.max():.0f} % at any number: it stops paying where a message takes longer than the "
        "pass of a chunk.",
    )
    figure, axes = canvas("size of an iteration [microbatches]", "time saved against 1F1B [%]")
    for share, speed, style in ((fast, speeds[0], "-"), (slow, speeds[1], "--")):
        for i, colour in enumerate((SKY, GREEN, RED)):
            line(axes, share.isel(schedule_vpp=i), "microbatches", f"{chunks[i]} chunks, {speed}", colour, linestyle=style)
    axes.axhline(0, color=BLACK, linewidth=1)
    numbered(axes, cube["microbatches"].values)
    axes.legend(frameon=False, fontsize=11, ncols=2, loc="upper right")
    return Answer(claims, sentences, figure)


@answers
def schedule_by_memory(cube: xr.Dataset) -> Answer:
    time, room, held = cube["iteration_time_draws"], cube["headroom"], cube["peak_memory"].max("rank") / 1e9
    saved, tokens = less(time, time.sel(schedule="1f1b")), cube["sequence"].values
    best = ("zb_v", "zb_h1", "v_min")  # the fastest that fits, by length
    claims = []
    for i, name in enumerate(best):
        claims.append(Claim(f"{NAMES[name]} fits at {tokens[i]} tokens", room.sel(schedule=name)[i]))
        fitting = time[:, i].drop_sel(schedule=name).where(room[:, i] > 0).dropna("schedule")
        if fitting.sizes["schedule"]:
            claims.append(Claim(f"none that fits at {tokens[i]} is faster", *less(time.sel(schedule=name)[i], fitting)))
    at_best = [saved.sel(schedule=name).isel(sequence=i) for i, name in enumerate(best)]
    claims += [
        Claim("what is fastest at the fewest tokens does not fit at more", -room.sel(schedule="zb_v")[1:]),
        Claim("at the most only V-Min fits", -room.drop_sel(schedule="v_min")[:, -1]),
        Claim("and saves time against 1F1B even there", *at_best[-1]),
    ]
    sentences = (
        f"The fastest that fits: at {tokens[0]:,} tokens ZB-V, which takes {at_best[0].value:.0f} % less time than 1F1B and "
        f"{held.sel(schedule='zb_v')[0]:.0f} GB, and at {tokens[1]:,} ZB-H1 ({at_best[1].value:.0f} % less, in the memory of 1F1B).",
        f"At {tokens[2]:,} even 1F1B needs {held.sel(schedule='1f1b')[2]:.0f} GB, and V-Min, which holds the fewest activations, alone "
        f"fits and still takes {at_best[2].value:.1f} % less time.",
    )
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(tokens), sharey=True)
    for i, axes in enumerate(panels):
        framed(axes, "fullest GPU [GB]", "" if i else "time saved against 1F1B [%]", title=f"{tokens[i]:,} tokens", xlim=(60, 122))
        axes.axvline(capacity(cube), color=GREY, linestyle="--")
        axes.text(capacity(cube) + 1, 0.5, f"{capacity(cube):.0f} GB", color=GREY, fontsize=11)
        for name in cube["schedule"].values:
            at = {"schedule": name, "sequence": tokens[i]}
            style = {"color": OF_SCHEDULE[name], "markerfacecolor": OF_SCHEDULE[name] if cube["fits"].sel(at) else "white"}
            axes.plot(held.sel(at), saved.value.sel(at), "o", markersize=9, markeredgewidth=2, label=NAMES[name], **style)
    beside = {"ncols": 7, "handletextpad": 0.1, "columnspacing": 1, "title": "hollow: does not fit"}
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=11, **beside)
    return Answer(claims, sentences, figure)


@answers
def noise_until_zero_bubble_loses(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time_draws"]
    saved = less(time.sel(schedule="zb_h1"), time.sel(schedule="1f1b"))
    per_op, per_rank = saved.sel(latency_rank_cv=0), saved.sel(latency_op_cv=0)
    claims = [
        Claim("ZB-H1 takes less time than 1F1B whatever noise each op has", *per_op),
        Claim("and whatever noise each rank has", *per_rank),
        Claim("noise of ops widens its lead", *falling(per_op.isel(latency_op_cv=slice(None, None, -1)), "latency_op_cv")),
        Claim("noise of ranks wears it down", *falling(per_rank, "latency_rank_cv")),
    ]
    largest = float(cube["latency_op_cv"][-1])
    sentences = (
        f"None of the log-normal noise tried, up to a CV of {largest:g}, turns them round: noise of every op on its own even widens "
        f"ZB-H1's lead, from {per_op.value[0]:.1f} % less time to {per_op.value[-1]:.1f} %, as weight passes fill the waits that noise "
        "tears open.",
        f"Lasting differences between ranks wear it down, to {per_rank.value[-1]:.1f} %, as both then wait for the slowest rank.",
    )
    figure, axes = canvas("coefficient of variation of the noise [1]", "time that ZB-H1 saves against 1F1B [%]")
    line(axes, per_op, "latency_op_cv", "of every op on its own", BLUE)
    line(axes, per_rank, "latency_rank_cv", "of every rank, for a whole iteration", RED)
    axes.set(ylim=(0, None), xlim=(0, largest))
    axes.legend(frameon=False, fontsize=11)
    return Answer(claims, sentences, figure)


@answers
def when_zb_loses(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time_draws"].rename(recompute_recompute_repeat_split_overhead="backward")
    saved = less(time.drop_sel(schedule="1f1b"), time.sel(schedule="1f1b"))
    alone, tokens = saved.sel(schedule="zb_h1", bandwidth=50e9, p2p="channel"), cube["sequence"].values
    whole, overhead, full, again = (alone.isel(backward=i) for i in range(4))
    slow = saved.isel(backward=0).sel(sequence=tokens[0], bandwidth=1.41e9)
    h1, v = slow.sel(schedule="zb_h1"), slow.sel(schedule="zb_v")
    claims = [
        Claim("ZB-H1 loses where what is recomputed for I is recomputed for W", -again.value),
        Claim("where halves take 10 % longer it wins at short sequences", overhead.value[0]),
        Claim("and loses at long ones", -overhead.value[-1]),
        Claim("a long sequence alone wears its lead down", *falling(whole, "sequence")),
        Claim("but does not end it, with full recomputation neither", [whole.value, full.value]),
        Claim("a slow link alone does not cost ZB-H1 its lead", h1.value),
        Claim("nor ZB-V, as long as senders go on", v.value.sel(p2p="channel")),
        Claim("but where they wait ZB-V loses", -v.value.sel(p2p="blocking")),
    ]
    slow_h1, slow_v = (share.value.sel(p2p=["channel", "blocking"]).values for share in (h1, v))
    ends = f"at {tokens[0]:,} tokens", f"at {tokens[-1]:,}"
    sentences = (
        f"When a backward in two halves costs more than in one: ZB-H1 takes {-again.value[0]:.1f} % more time {ends[0]} "
        f"and {-again.value[-1]:.1f} % more {ends[1]} if what is recomputed for I is recomputed for W, and if halves take 10 % longer "
        f"it saves {overhead.value[0]:.1f} % but loses {-overhead.value[-1]:.1f} %, while a long sequence alone, whose "
        f"attention leaves nothing to W, takes its lead from {whole.value[0]:.1f} to {whole.value[-1]:.1f} %.",
        f"A slow link alone does not cost ZB-H1 the lead ({slow_h1[0]:.1f} % saved, {slow_h1[1]:.1f} % where senders wait), but ZB-V, "
        f"which sends twice as many messages, goes from {slow_v[0]:.1f} % saved to {-slow_v[1]:.1f} % lost.",
    )
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    framed(left, "sequence [tokens]", "time saved against 1F1B [%]", title="ZB-H1, 400 Gb/s")
    words = "halves cost what the whole does", "halves take 10 % longer", "full recomputation, once", "full recomputation, twice"
    for share, word, colour in zip((whole, overhead, full, again), words, (BLACK, ORANGE, BLUE, RED), strict=True):
        line(left, share, "sequence", word, colour)
    numbered(left, tokens)
    left.legend(frameon=False, fontsize=10, loc="upper right")
    framed(right, "what a sender does", "", title=f"{tokens[0]:,} tokens, 11 Gb/s")
    for heights, name, side in ((slow_h1, "zb_h1", -0.2), (slow_v, "zb_v", 0.2)):
        right.bar(np.arange(2) + side, heights, 0.38, color=OF_SCHEDULE[name], label=NAMES[name])
    right.set_xticks(range(2), ["goes on", "waits"])
    right.grid(False, axis="x")
    right.legend(frameon=False, fontsize=11, loc="upper right")
    for axes in (left, right):
        axes.axhline(0, color=BLACK, linewidth=1)
    left.set(ylim=(-16, 36))
    return Answer(claims, sentences, figure)


@answers
def replan_or_not(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time_draws"].rename(forward_backward_input_backward_weight="plan")
    saved = less(time.isel(plan=1), time.isel(plan=0))
    free, held = saved.sel(barrier=False), saved.sel(barrier=True)
    other = Share(-held.value, held.error)  # what it costs
    claims = [
        Claim("where nothing waits for all, a new order saves time at 0.8", *free.sel(speed_3=0.8)),
        Claim("and at 0.9 with twice the memory", *free.sel(speed_3=0.9, memory_limit=16)),
        Claim("where a barrier ends the iteration it costs time at 0.8", *other.sel(speed_3=0.8)),
        Claim("and at 0.9 with twice the memory too", *other.sel(speed_3=0.9, memory_limit=16)),
        Claim("less than one percent is to be won anywhere", 1 - saved.value, saved.error),
    ]
    near, far = ([f"{abs(each):.1f} %" for each in free.value.sel(speed_3=speed).values] for speed in (0.8, 0.9))
    sentences = (
        f"Little, and only where nothing waits for all: with rank 3 of 8 at 0.8 of the others' speed ZB-auto takes {near[0]} less time "
        f"within 1F1B's memory and {near[1]} less with twice that (at 0.9: {far[0]} and {far[1]}).",
        f"The search minimises the span: where a barrier ends the iteration its new order takes up to {other.value.max():.1f} % more than "
        "the one that was planned for equal ranks.",
    )
    figure, axes = canvas(
        "speed of rank 3 [of the others'], memory limit [microbatches a rank]", "time saved by a plan for the true speeds [%]"
    )
    cases = [(limit, speed) for speed in (0.9, 0.8) for limit in (8, 16)]
    for share, word, colour, side in ((free, "each goes on by itself", GREEN, -0.2), (held, "a barrier ends the iteration", RED, 0.2)):
        each = [share.sel(memory_limit=limit, speed_3=speed) for limit, speed in cases]
        heights, errors = ([float(one[i]) for one in each] for i in (0, 1))
        axes.bar(np.arange(4) + side, heights, 0.38, yerr=[2 * error for error in errors], color=colour, capsize=3, label=word)
        for x, high in enumerate(heights):
            axes.text(x + side, high + (0.08 if high > -0.05 else -0.21), f"{round(high, 1) + 0.0:+.1f}", ha="center", fontsize=11)
    axes.set_xticks(range(4), [f"speed {speed}\n{limit} microbatches held" for limit, speed in cases])
    axes.axhline(0, color=BLACK, linewidth=1)
    axes.set(ylim=(-3, 1.4))
    axes.grid(False, axis="x")
    axes.legend(frameon=False, fontsize=11, loc="lower left")
    return Answer(claims, sentences, figure)


@answers
def one_slow_gpu(cube: xr.Dataset) -> Answer:
    time, speed = cube["iteration_time_draws"], float(re.findall(r"speed:([\d.]+)", str(cube["disturbance"].values[-1]))[0])
    slowed = time.isel(disturbance=slice(1, None)).assign_coords(disturbance=cube["rank"].values)  # one a rank, in their order
    lost = less(time.isel(disturbance=0, drop=True), slowed)  # of throughput, which goes as 1 / time
    f1b, v = lost.sel(schedule="1f1b"), lost.sel(schedule="zb_v")
    line_of = slowed.sel(schedule=["1f1b", "interleaved", "zb_h1"])
    others = slowed.sel(disturbance=slice(1, None))
    claims = [
        Claim("a slow GPU costs throughput wherever it sits", *lost),
        Claim("but less than its own", 100 * (1 - speed) - lost.value, lost.error),
        Claim("1F1B loses least on the first rank", *less(slowed.sel(disturbance=0, schedule="1f1b"), others.sel(schedule="1f1b"))),
        Claim("where the head is last the last rank costs most", *less(line_of.isel(disturbance=slice(-1)), line_of.isel(disturbance=-1))),
        Claim("with ZB-V the first does", *less(others.sel(schedule="zb_v"), slowed.sel(disturbance=0, schedule="zb_v"))),
    ]
    sentences = (
        f"At {speed:g} of its speed a GPU costs 1F1B {f1b.value[-1]:.1f} % of its throughput on the last rank, which has the head and is "
        f"the slowest anyway, {f1b.value[-2]:.1f} % on the one before and {f1b.value[0]:.1f} % on the first.",
        f"So away from the head, which on a V is with the first rank ({v.value[0]:.1f} % there, {v.value[1]:.1f} % on the next), and with "
        "1F1B early: a first rank's bubbles lie between its passes and take up what these take longer, a late rank's lie before and after.",
    )
    figure, axes = canvas("place of the slow GPU [rank]", "throughput lost [%]", ylim=(0, 100 * (1 - speed) + 1))
    for name in cube["schedule"].values:
        line(axes, lost.sel(schedule=name), "disturbance", NAMES[name], OF_SCHEDULE[name])
    axes.legend(frameon=False, fontsize=11, loc="lower center", ncols=4)
    return Answer(claims, sentences, figure)


@answers
def straggler_prices(cube: xr.Dataset) -> Answer:
    nothing, *times = cube["iteration_time_draws"].drop_vars(["disturbance", "cv"])
    words = ["one GPU at 0.9 of its speed", "one GPU at 0.8", "one GPU at 0.5", "a node of 8 at 0.8", "one NIC at half its bandwidth"]
    words += ["one NIC down for 1.75 s", *(f"all ranks vary, CV {100 * cv:.0f} %" for cv in cube["cv"].values[-2:])]
    mild, slow, half, node, nic, flap, vary, _ = times
    lost = [less(nothing, each) for each in times]  # of throughput, which goes as 1 / time
    price = [f"{each.value:.1f} %" for each in lost]
    same = less(node, slow)
    claims = [
        *(Claim(f"{what} costs throughput", *each) for what, each in zip(words, lost, strict=True)),
        Claim("a GPU costs more the slower it is", [less(mild, slow).value, less(slow, half).value]),
        Claim("a slow node costs what one slow GPU of it does", 0.01 - abs(same.value), same.error),
        Claim("a NIC at half its bandwidth costs less than a GPU at 0.9", *less(nic, mild)),
        Claim("ranks that vary by 5 % cost more than a GPU at 0.9", *less(mild, vary)),
        Claim("a flap costs more than a GPU at 0.8", *less(slow, flap)),
    ]
    sentences = (
        f"One GPU at 0.9, 0.8 or 0.5 of its speed costs {price[0]}, {price[1]} or {price[2]} of the throughput of all, and its whole node "
        f"at 0.8 no more than it alone ({price[3]}), as tensor parallelism waits for the slowest at every layer.",
        f"A NIC at half its bandwidth costs {price[4]}, as messages hide behind passes and only gradients wait, but one that is down for "
        f"1.75 s of every iteration {price[5]}, and ranks that all vary by 5 or 10 % cost {price[6]} or {price[7]}.",
    )
    figure, axes = canvas("throughput lost [%]", "what is slow [share of what is usual, or s]")
    at = np.arange(len(words))[::-1]
    colours = [ORANGE] * 3 + [RED] + [BLUE] * 2 + [GREEN] * 2
    axes.barh(at, [float(each.value) for each in lost], xerr=[2 * float(each.error) for each in lost], color=colours, capsize=3)
    for y, each in zip(at, lost, strict=True):
        axes.text(float(each.value + 2 * each.error) + 0.4, y, f"{each.value:.1f}", va="center", fontsize=11)
    axes.set_yticks(at, words)
    axes.grid(False, axis="y")
    return Answer(claims, sentences, figure)


@answers
def two_sites(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time_draws"].rename({cube["iteration_time_draws"].dims[0]: "cut"})
    here, middle, late, replicas = time.transpose("cut", ...)
    quiet, wait = middle.sel(p2p="channel"), less(middle.sel(p2p="channel"), middle.sel(p2p="blocking"))
    home, more_often = here.sel(p2p="channel"), ["interleaved", "zb_v"]
    claims = [
        Claim("the WAN costs time wherever it is", *less(here, middle)),
        Claim("a replica at each site takes eight times as long as half of the pipeline, or longer", *less(8 * middle, replicas)),
        Claim("ZB-H1 is the fastest across the WAN", *less(quiet.sel(schedule="zb_h1"), quiet.drop_sel(schedule="zb_h1"))),
        Claim("within a site ZB-V is", *less(home.sel(schedule="zb_v"), home.drop_sel(schedule="zb_v"))),
        Claim("what crosses more often loses to 1F1B", *less(quiet.sel(schedule="1f1b"), quiet.sel(schedule=more_often))),
        Claim("senders that wait take longer", *wait),
        Claim("ZB-H1 is faster if only the last rank is away", *less(late.sel(schedule="zb_h1"), middle.sel(schedule="zb_h1"))),
    ]
    say = {name: [f"{float(each.mean()):.2f} s" for each in time.sel(schedule=name, p2p="channel")] for name in cube["schedule"].values}
    h1 = say["zb_h1"]
    sentences = (
        f"The pipeline, between any two ranks: with half of them at each site ZB-H1 takes {h1[1]} an iteration, with all but the last at "
        f"one {h1[2]}, and with a replica at each, so that all gradients cross, {h1[3]} (were it one site, {h1[0]}).",
        f"1F1B takes {say['1f1b'][1]}, while ZB-V, the fastest within a site, sends each microbatch across twice ({say['zb_v'][1]}) and "
        f"interleaved 1F1B three times ({say['interleaved'][1]}), and senders that wait lose {wait.value.min():.0f} to "
        f"{wait.value.max():.0f} %.",
    )
    figure, axes = canvas("iteration time [s]", "schedule (hollow: senders wait)")
    cuts = ("one site", "half of the ranks at each", "all but the last rank at one", "a replica at each"), (GREY, GREEN, SKY, RED)
    names = list(cube["schedule"].values)[::-1]
    for i, (word, colour) in enumerate(zip(*cuts, strict=True)):
        for p2p, filled, up in (("channel", colour, 0.12), ("blocking", "white", -0.12)):
            x = time.isel(cut=i).sel(p2p=p2p).mean("draw").sel(schedule=names)
            style: dict[str, Any] = {"color": colour, "markerfacecolor": filled, "markersize": 9, "markeredgewidth": 2}
            axes.plot(x, np.arange(len(names)) + up, "o", label=None if up < 0 else word, **style)
    numbered(axes, [0.5, 1, 2, 4, 8, 16, 32])
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.set(ylim=(-0.5, len(names) - 0.5), xlim=(0.45, 45))
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=11, handletextpad=0.1, columnspacing=1)
    return Answer(claims, sentences, figure)


@answers
def checkpoint_interval(cube: xr.Dataset) -> Answer:
    kept = 100 * cube["goodput_fraction_mean"]  # exact
    rules, seconds = ["young", "daly", "optimal"], [each for each in cube["interval"].values if each.isdigit()]
    best, tried = kept.sel(interval="optimal"), kept.sel(interval=seconds)
    peak = [tried[i].idxmax().item() for i in (0, 1)]  # s, as text
    often, seldom = tried.sel(interval=seconds[0]), tried.sel(interval=seconds[-1])
    worst = float((best - kept.sel(interval=rules)).max())
    claims = [
        Claim("the exact optimum keeps more than every interval tried", best - tried),
        Claim("Young's and Daly's rules are within 0.01 points of it", 0.01 - (best - kept.sel(interval=rules))),
        Claim("too often costs more than three points at either cost", best - often - 3),
        Claim("too seldom does as well", best - seldom - 3),
        Claim("cheaper checkpoints keep more", best[0] - best[1]),
        Claim("and are best written more often", int(peak[1]) - int(peak[0])),
    ]
    cost, tops = [f"{each:g} s" for each in cube["cost"].values], [f"{tried[i].max():.1f} %" for i in (0, 1)]
    minutes = {each: f"{int(each) / 60:.0f}" for each in seconds}
    sentences = (
        f"Where one takes {cost[0]} a checkpoint every {minutes[peak[0]]} minutes keeps {tops[0]} of the throughput, every "
        f"{minutes[seconds[0]]} minutes {often[0]:.1f} % and every {minutes[seconds[-1]]} minutes {seldom[0]:.1f} %; where it takes "
        f"{cost[1]}, every {minutes[peak[1]]} minutes is best and keeps {tops[1]}.",
        f"The rule does not matter: Young's, Daly's and the exact optimum are within {worst:.3f} points of each other, as the curve is "
        "flat at its top.",
    )
    figure, axes = canvas("time between two checkpoints [min]", "throughput kept [%]")
    at = [int(each) / 60 for each in seconds]
    for i, colour in enumerate((BLUE, RED)):
        axes.plot(at, tried[i], "o-", color=colour, linewidth=2, label=f"a checkpoint takes {cost[i]}")
        axes.axhline(float(best[i]), color=colour, linestyle="--", linewidth=1, label=f"by the exact optimum, {best[i]:.1f} %")
    numbered(axes, at)
    axes.legend(frameon=False, fontsize=11, loc="lower center")
    return Answer(claims, sentences, figure)


@answers
def which_recovery(cube: xr.Dataset) -> Answer:
    kept = cube["goodput_fraction_trials"]
    shown = 100 * cube["goodput_fraction_mean"]
    order, shrunk = ["peer_memory", "just_in_time", "restart", "shrink_dp"], kept.sel(recovery="shrink_dp")
    spare = more(kept.sel(recovery="spare"), kept.sel(recovery="restart"))
    claims = [
        *(Claim(f"{a} keeps more than {b} at every rate", *more(kept.sel(recovery=a), kept.sel(recovery=b))) for a, b in pairwise(order)),
        Claim("spares keep what a restart does at the rate of Llama 3", 0.05 - abs(spare.value[0]), spare.error[0]),
        Claim("and less once failures are frequent", -spare.value[1:], spare.error[1:]),
        Claim("while failures are rare shrinking is worst of all", *more(kept.drop_sel(recovery="shrink_dp"), shrunk).isel(rate=0)),
    ]
    say = {name: "{:.1f}, {:.1f} and {:.1f} %".format(*shown.sel(recovery=name).values) for name in cube["recovery"].values}
    rates = "{:g}, {:g} and {:g}".format(*cube["rate"].values)
    sentences = (
        f"The memory of peers: at {rates} times the failures of Llama 3 it keeps {say['peer_memory']} of the throughput, a just-in-time "
        f"checkpoint {say['just_in_time']}, a restart, which gets a node at once, {say['restart']}.",
        f"Eight spares do as well until more than eight nodes are away at a time ({say['spare']}), and to go on without the 16 replicas "
        "that a failure takes out, an eighth of the job for the two hours of a repair, is worst where failures are rare: "
        f"{say['shrink_dp']}.",
    )
    figure, axes = canvas("failures [times the rate of Llama 3]", "throughput kept [%]", ylim=(0, 101))
    error = 100 * cube["goodput_fraction_standard_error"]
    drawn = {"peer_memory": ("memory of peers", GREEN, "-"), "just_in_time": ("just-in-time checkpoint", BLUE, "-")}
    drawn |= {"restart": ("restart", BLACK, "-"), "spare": ("eight spares", ORANGE, "--"), "shrink_dp": ("shrink", PURPLE, "-")}
    for name, (word, colour, style) in drawn.items():
        line(axes, Share(shown.sel(recovery=name), error.sel(recovery=name)), "rate", word, colour, linestyle=style)
    numbered(axes, cube["rate"].values)
    axes.legend(frameon=False, fontsize=11, loc="lower left")
    return Answer(claims, sentences, figure)


@answers
def goodput_vs_scale(cube: xr.Dataset) -> Answer:
    kept, shown, error = cube["goodput_fraction_trials"], 100 * cube["goodput_fraction_mean"], 100 * cube["goodput_fraction_standard_error"]
    by = {name: Share(shown.sel(recovery=name), error.sel(recovery=name)) for name in ("restart", "peer_memory")}
    gain = more(kept.sel(recovery="peer_memory"), kept.sel(recovery="restart"))
    sizes, apart = cube["gpus"].values, cube["mtbf_mean"].sel(recovery="restart").values / 60
    claims = [
        *(Claim(f"by {name} a larger job keeps less", *falling(share, "gpus")) for name, share in by.items()),
        Claim("recovery from peers keeps more than a restart at every size", *gain),
        Claim("the more, the larger the job", *falling(gain.isel(gpus=slice(None, None, -1)), "gpus")),
    ]
    ends = {name: [f"{share.value[i]:.0f}" for i in (0, -1)] for name, share in by.items()}
    sentences = (
        f"With restarts {ends['restart'][0]} % on {sizes[0]:,} GPUs and {ends['restart'][1]} % on {sizes[-1]:,}, where a failure comes "
        f"every {apart[-1]:.0f} minutes.",
        f"Recovery from the memory of peers keeps {ends['peer_memory'][0]} and {ends['peer_memory'][1]} %, as it neither loses what was "
        "done since the last checkpoint nor loads one.",
    )
    figure, axes = canvas("size of the job [GPUs]", "throughput kept [%]", ylim=(70, 100))
    line(axes, by["peer_memory"], "gpus", "recovery from the memory of peers", GREEN)
    line(axes, by["restart"], "gpus", "restart from a checkpoint", BLACK)
    numbered(axes, sizes)
    axes.legend(frameon=False, fontsize=11, loc="lower left")
    return Answer(claims, sentences, figure)


def main() -> None:
    """Check the claims, then write the page and the pictures; of questions that are named, the pictures alone."""
    named = sys.argv[1:]
    for name in named:
        if name not in ANSWERS:
            sys.exit(str(no_such("question", name, ANSWERS)))
    sections, pictures = {}, {}
    for name in named or ANSWERS:
        cube = cube_of(name)
        answer = ANSWERS[name](cube)
        broken = [claim.words for claim in answer.claims if not claim.holds]
        if broken:
            sys.exit(f"{name}: its cube does not say that {'; nor that '.join(broken)}")
        sections[name], pictures[name] = section(name, cube, answer), png(answer.picture)
        print(sections[name])
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(picture)
    if not named:
        (HERE / "README.md").write_text(page(sections))


if __name__ == "__main__":
    main()
