"""Write docs/results.md and its figures from the tables in benchmarks/results/; nothing in it is typed by hand.

make results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import t as student_t
from why_page import why

from sfkd.distillers import distiller_options
from sfkd.runs import write_atomically
from sfkd.study import load_study
from sfkd_viz import save_figure, theme

ROOT = Path(__file__).parent.parent
TABLES, DOCS = Path(__file__).parent / "results", ROOT / "docs"
IMAGES = DOCS / "images" / "results"
STUDIES = ROOT / "configs" / "benchmark"
RIVALS = ("kd", "fitnet", "correlation", "rkd", "crd", "dkd", "dist", "ofa", "spectralkd", "freekd")
OURS = ("gffl", "sfkd")
METHODS = ("none", *RIVALS, *OURS)
PARTS = {"no wavelet": "the wavelet", "no DS2S": "DS2S", "no spectral loss": "the spectral loss"}  # by variant without
CONFIDENCE = 0.95
Worth = dict[str, tuple[float, float, float]]  # part → points that it adds, and their interval


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    grid = pd.read_csv(TABLES / "grid.csv", keep_default_na=False)
    scores = {name: Scores.of(grid[grid.regime == name]) for name in REGIMES}
    worth, parts = _parts()
    page = [INTRODUCTION, _in_short(scores, _earned(*worth)), _setting(grid)]
    for regime, heading in REGIMES.items():
        page += [_with_seeds(heading, grid[grid.regime == regime]), *_regime(scores[regime], regime)]
    page += [parts, _ablations(), why(TABLES / "why.csv", IMAGES), _tuning(), _tried(), _published()]
    write_atomically(DOCS / "results.md", "\n\n".join(page) + "\n")


INTRODUCTION = """# Results

Every number here is read from the tables in `benchmarks/results/` by `make results`. Their rows are made by

```sh
sfkd benchmark configs/benchmark/tuning_kd.yaml configs/benchmark/tuning.yaml     # choices, on held-out training images
sfkd benchmark configs/benchmark/sigma.yaml
sfkd benchmark configs/benchmark/short.yaml configs/benchmark/few.yaml            # the grid, on the test sets
sfkd benchmark configs/benchmark/parts.yaml configs/benchmark/ablations.yaml      # SFKD with something changed
```

which skip the rows that are there: delete a row to have it made again. This is an experiment at the scale of a small
machine: tiny models, 32 pixels, a minute of one core a run. It says which method does how well *here*, and no number of it
is to be read beside one of a paper."""

REGIMES = {
    "short": """## A short budget, all labels

Top-1 on the test set after the last epoch, percent, {spread}; the best of each column is
bold, the second in italics.""",
    "few": """## Few labels

The same budget and images, but only 2,000 of them keep their label; all count for the distillation terms. {Seeds}.""",
}


def _setting(grid: pd.DataFrame) -> str:
    """Pairs, what the teacher knows and the student learns alone, and what all runs share."""
    short = grid[grid.regime == "short"]
    lines = []
    for pair, rows in short.groupby("pair", sort=False):
        first, alone = rows.iloc[0], rows[rows.method == "none"].top1_last
        lines.append(
            f"| {pair} | {first.data} | {first.teacher} | {first.student} | {first.top1_teacher:.2f} "
            f"| {_spread(alone)} |"
        )
    study, pairs = load_study(STUDIES / "short.yaml")
    budgets = [
        f"{name}: {s.data.train_samples:,} training images, {s.schedule.epochs} epochs of {s.views} fixed augmented views "
        f"in turn, {s.schedule.optimizer}, batch {s.schedule.batch_size}, lr {s.schedule.lr:g}"
        for name, s in pairs.sets.items()
    ]
    missing = "" if (asked := len(study.seeds)) == short.seed.nunique() else f" of the {asked} that are planned, so far"
    commits = ", ".join(f"`{c}`" for c in dict.fromkeys(short.commit))
    return (
        "## What was run\n\n"
        "| pair | data | teacher | student | teacher top-1 | student alone |\n|-|-|-|-|-|-|\n"
        + "\n".join(lines)
        + "\n\n"
        f"{'; '.join(budgets)}. The same for every method, whose weights were tuned alike, six trials each on images held "
        "out from training (below); teachers were trained on all training images that are not held out, and their outputs "
        f"computed once. {_seed_count(short).capitalize()}{missing}. Runs made at commit {commits}."
    )


@dataclass
class Scores:
    """Top-1 of one regime: (method) × (pair, seed), its means over seeds, and of these the mean ranks over pairs."""

    table: pd.DataFrame
    means: pd.DataFrame
    ranks: pd.Series

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Scores:
        """Those of these rows of the grid."""
        table = _top1(rows, "method")
        table = table.loc[[m for m in METHODS if m in table.index]]
        means = table.T.groupby(level="pair", sort=False).mean().T
        return cls(table, means, means.rank(ascending=False).mean(axis=1))

    @property
    def overall(self) -> pd.Series:
        """Mean over pairs of each method."""
        return self.means.mean(axis=1)

    def best_rival(self, means: pd.Series) -> str:
        """Of the methods that are not ours."""
        return str(means.drop([m for m in (*OURS, "none") if m in means.index]).idxmax())

    def lead(self, method: str, other: str) -> str:
        """Difference of two methods, mean over pairs, with its interval over paired seeds."""
        return _interval(paired(_seeds(self.table, method) - _seeds(self.table, other)))

    def below_second(self) -> list[str]:
        """Pairs on which SFKD is neither first nor second."""
        return [pair for pair in self.means if self.means[pair].rank(ascending=False)["sfkd"] > 2]


def _in_short(scores: dict[str, Scores], parts: str) -> str:
    """What was hoped for beside what came, whatever that is."""
    lines: dict[str, list[str]] = {}
    for of in scores.values():
        order = list(of.overall.sort_values(ascending=False).index)
        after = f", after {', '.join(order[:place])}" if (place := order.index("sfkd")) else ""
        rival = of.best_rival(of.overall)
        pairs = of.means.shape[1]
        for hope, came in {
            "the best mean over pairs": f"{_ordinal(place + 1)} of {len(order)}{after}",
            "first or second on every pair": f"on {pairs - len(of.below_second())} of {pairs}",
            "one point above tuned KD": of.lead("sfkd", "kd"),
            "ahead of the best rival": f"{rival}: {of.lead('sfkd', rival)}",
        }.items():
            lines.setdefault(hope, []).append(came)
    several = any(of.table.columns.get_level_values("seed").nunique() > 1 for of in scores.values())
    note = ", with 95 % intervals over paired seeds" if several else ""
    return (
        f"## In short\n\n| what `sfkd` should be | {' | '.join(_WORDS[regime] for regime in scores)} |\n"
        f"|-|{'-|' * len(scores)}\n"
        + "\n".join(f"| {hope} | {' | '.join(came)} |" for hope, came in lines.items())
        + f"\n\nDifferences are points of top-1, means over pairs{note}. {parts}"
    )


def _regime(scores: Scores, regime: str) -> list[str]:
    means, ranks, overall = scores.means, scores.ranks, scores.overall
    pairs = list(means.columns)
    head = "| method | " + " | ".join(pairs) + " | mean | mean rank |\n|-|" + "-|" * (len(pairs) + 2)
    body = []
    for method in means.index:
        cells = [_placed(_spread(scores.table.loc[method, pair]), means[pair], method) for pair in pairs]
        body.append(
            f"| {method} | " + " | ".join(cells) + f" | {_placed(f'{overall[method]:.2f}', overall, method)} | "
            f"{_placed(f'{ranks[method]:.1f}', -ranks, method)} |"
        )
    save_figure(_rank_figure(ranks, regime), IMAGES / f"rank-{regime}.png", dpi=130)
    save_figure(_gain_figure(scores.table, regime), IMAGES / f"gain-{regime}.png", dpi=130)
    return [
        f"![Differences to KD](images/results/gain-{regime}.png)",
        f"![Mean ranks](images/results/rank-{regime}.png)",
        f"{head}\n" + "\n".join(body),
        _verdict(scores),
        _differences(scores),
    ]


def _verdict(scores: Scores) -> str:
    """Where SFKD is beaten, and what its spectral loss does alone."""
    below = scores.below_second()
    told = [f"`sfkd` is below second place on {', '.join(below)}."] if below else []
    if "gffl" in scores.table.index:
        told.append(f"Against KD, `gffl`, its spectral loss alone, makes {scores.lead('gffl', 'kd')}.")
    return " ".join(told)


def _differences(scores: Scores) -> str:
    """Differences of SFKD to KD and to the best rival, pair by pair."""
    lines = []
    for pair in scores.means:
        best = scores.best_rival(scores.means[pair])
        of_pair = scores.table[pair]
        alone, kd, rival = (
            _interval(paired((of_pair.loc["sfkd"] - of_pair.loc[other]).to_numpy())) for other in ("none", "kd", best)
        )
        lines.append(f"| {pair} | {alone} | {kd} | {best}: {rival} |")
    return (
        "Differences of `sfkd` with 95 % intervals over paired seeds (Student's t, wide for so few):\n\n"
        "| pair | to the student alone | to KD | to the best rival |\n|-|-|-|-|\n" + "\n".join(lines)
    )


def _parts() -> tuple[tuple[Worth, Worth], str]:
    """Points that each of the paper's parts adds, with intervals over runs and over seeds; the section on it."""
    rows = pd.read_csv(TABLES / "parts.csv", keep_default_na=False)
    table = _top1(rows, "variant")
    added = {part: table.loc[""] - table.loc[variant] for variant, part in PARTS.items()}
    over_runs = {part: paired(values.to_numpy()) for part, values in added.items()}
    over_seeds = {part: paired(_over_pairs(values)) for part, values in added.items()}
    pairs = _pairs(table)
    lines = []
    for part, values in added.items():
        cells = " | ".join(_spread(values[pair], "+") for pair in pairs)
        _, low, high = over_seeds[part]
        lines.append(f"| {part} | {cells} | {_interval(over_runs[part])} | {low:+.2f} to {high:+.2f} |")
    save_figure(_parts_figure(added, over_runs), IMAGES / "parts.png", dpi=130)
    return (over_runs, over_seeds), (
        "## What each part is worth\n\nTop-1 of SFKD less that of SFKD without the part, on every pair, points, mean ± "
        f"standard deviation over {_seed_count(rows)}; the mean over pairs with a 95 % interval over all {table.shape[1]} "
        "paired runs, which speaks of these pairs, and the wider one over paired seeds.\n\n"
        "![Parts](images/results/parts.png)\n\n"
        f"| part | {' | '.join(pairs)} | mean | over seeds |\n|-|{'-|' * (len(pairs) + 2)}\n" + "\n".join(lines)
    )


def _ablations() -> str:
    """What each change of SFKD makes."""
    rows = pd.read_csv(TABLES / "ablations.csv", keep_default_na=False)
    table = _top1(rows, "variant")
    cost = rows.groupby("variant").step_ms.median() / rows[rows.variant == "as it is"].step_ms.median()
    extra = rows.groupby("variant").extra_params.mean()
    pairs = _pairs(table)
    base = table.loc["as it is"]
    lines, gains = [], {}
    for variant in table.index:
        gains[variant] = paired(_over_pairs(table.loc[variant] - base))
        cells = " | ".join(_spread(table.loc[variant, pair]) for pair in pairs)
        difference = "" if variant == "as it is" else _interval(gains[variant])
        lines.append(f"| {variant} | {cells} | {difference} | {cost[variant]:.2f} | {extra[variant]:,.0f} |")
    save_figure(_ablation_figure(gains), IMAGES / "ablations.png", dpi=130)
    return (
        "### One thing changed\n\nSFKD with one thing changed, top-1 on the test set. The difference is to SFKD as it "
        f"is, mean over both pairs ({_seed_count(rows)}), with a 95 % interval over paired seeds; the time is a step's over "
        "that of SFKD as it is, from runs that shared a machine, so only large differences of it mean something; parameters "
        "are those beside the student, mean of both pairs.\n\n![Ablations](images/results/ablations.png)\n\n"
        f"| variant | {' | '.join(pairs)} | difference | step time | parameters |\n|-|"
        + "-|" * (len(pairs) + 3)
        + "\n"
        + "\n".join(lines)
        + _same(table)
    )


def _same(table: pd.DataFrame) -> str:
    """Variants that made the very same students as one above them: levels that no grid bears are clamped."""
    groups = table.groupby(list(table.columns), sort=False).groups.values()
    same = [f"{variant} as of {first}" for first, *others in groups for variant in others]
    return (
        f"\n\nThe same students, bit for bit, came of {', '.join(same)}: no grid here bears more levels."
        if same
        else ""
    )


def _earned(over_runs: Worth, over_seeds: Worth) -> str:
    """Which of the paper's parts are worth their cost here, whatever that is."""
    told = ", ".join(f"{part} {_interval(points)}" for part, points in over_runs.items())
    worthy = [part for part, (_, low, _) in over_runs.items() if low > 0]
    harmful = [part for part, (_, _, high) in over_runs.items() if high < 0]
    unsure = [part for part, (_, low, high) in over_runs.items() if low <= 0 <= high]
    verdict = [f"What the paper's parts add on these pairs, with intervals over paired runs: {told}."]
    if worthy:
        verdict.append(f"{_capital(' and '.join(worthy))} {'have' if len(worthy) > 1 else 'has'} earned a place here.")
    if harmful:
        verdict.append(f"Without {' and '.join(harmful)} it is better here.")
    if unsure:
        verdict.append(f"Of {' and '.join(unsure)} no difference is shown.")
    if wide := [part for part in (*worthy, *harmful) if over_seeds[part][1] <= 0 <= over_seeds[part][2]]:
        verdict.append(
            f"Over paired seeds, of which there are few, the interval of {' and '.join(wide)} has zero in it."
        )
    return " ".join(verdict)


def _tuning() -> str:
    rows = pd.read_csv(TABLES / "tuning.csv", keep_default_na=False, dtype={"variant": str})
    lines = []
    for method in METHODS:
        trials = rows[rows.method == method]
        if trials.empty or method == "none":
            continue
        means = trials.groupby("variant").top1_last.mean()
        options, defaults = [json.loads(text) for text in trials.options], distiller_options(method)
        chosen = ", ".join(f"{name} {defaults[name]}" for name in _varied(options))
        lines.append(f"| {method} | {len(means)} | {means.min():.2f} … {means.max():.2f} | {chosen} |")
    of_all, of_kd = (_seed_count(rows[rows.method == method]) for method in ("sfkd", "kd"))
    return (
        f"## How the weights were chosen\n\nEach method had six trials, with {of_all} (KD, on which all build, {of_kd}), "
        "on two pairs (cnn-vit, swin-cnn), scored on 5,000 training images that neither teachers nor students see; the best "
        "mean of both became its default, on every pair. `benchmarks/results/tuning.csv` has every trial.\n\n"
        "| method | trials | held-out top-1 of the trials | chosen |\n|-|-|-|-|\n" + "\n".join(lines) + _again(rows)
    )


def _again(tuning: pd.DataFrame) -> str:
    """The two trials of SFKD that had more seeds."""
    rows = pd.read_csv(TABLES / "sigma.csv", keep_default_na=False, dtype={"variant": str})
    table = _top1(rows, "variant")
    sigma = {v: json.loads(some.options.iloc[0])["sigma"] for v, some in rows.groupby("variant")}
    narrow, wide = sorted(table.index, key=sigma.__getitem__)
    first = tuning[tuning.method == "sfkd"].groupby("variant").top1_last.mean()
    lead = _interval(paired((table.loc[wide] - table.loc[narrow]).to_numpy()))
    low, high = sigma[narrow], sigma[wide]
    return (
        f"\n\nSFKD's σ is an exception. In its trials, with one seed, {high:g} less {low:g} was "
        f"{first[wide] - first[narrow]:+.2f}. On the same held-out images, with "
        f"{_seed_count(rows).replace('seeds', 'more seeds')} and {rows.pair.nunique()} pairs, it is {lead} "
        f"(`configs/benchmark/sigma.yaml`; interval over {table.shape[1]} paired runs), and the better became the default. "
        "No rival had such a second look; and an ablation on the test sets gave rise to it, so that these had a hand in it."
    )


def _tried() -> str:
    """What SFKD's trials were drawn from."""
    rows = pd.read_csv(TABLES / "improving.csv", keep_default_na=False)
    table = _top1(rows, "variant")
    pairs = _pairs(table)
    lines = []
    for variant in table.index:
        scores = [table.loc[variant, pair].dropna() for pair in pairs]
        lines.append(f"| {variant} | " + " | ".join(_spread(values) if len(values) else "" for values in scores) + " |")
    return (
        "### What was tried on SFKD before\n\nOn the same held-out images, to find what its six trials should vary: a "
        "search no rival had (`configs/benchmark/improving.yaml`; otherwise of all stages, by squared error, "
        f"with weight 50 and σ 0.25; {_seed_count(rows)}).\n\n| variant | {' | '.join(pairs)} |\n|-|{'-|' * len(pairs)}\n"
        + "\n".join(lines)
    )


def _varied(options: list[dict[str, object]]) -> list[str]:
    names = dict.fromkeys(name for o in options for name in o)
    return [name for name in names if len({json.dumps(o.get(name)) for o in options}) > 1]


def _published() -> str:
    rows = pd.read_csv(TABLES / "published.csv", dtype=str)
    head = "| " + " | ".join(rows.columns) + " |\n|" + "-|" * len(rows.columns)
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows.to_numpy())
    return (
        "## What others report, for context\n\nCIFAR-100 top-1 as OFA-KD reports it (Hao et al., NeurIPS 2023): large "
        "models, 224 pixels, 300 epochs. None of it was run here; no number above is to be read beside these. Some cells "
        f"were not reproduced by users of that code.\n\n{head}\n{body}"
    )


# -- figures ----------------------------------------------------------------------------------------------------------


def _gain_figure(table: pd.DataFrame, regime: str) -> go.Figure:
    methods = [m for m in table.index if m != "kd"]
    values = {m: paired(_seeds(table, m) - _seeds(table, "kd")) for m in methods}
    order = sorted(methods, key=lambda m: values[m][0])
    fig = go.Figure(_bars(order, [values[m] for m in order]))
    fig.update_xaxes(title_text="difference to KD, points of top-1")
    note = f"Mean over pairs{_whiskers(values.values())}."
    return theme.titled(fig, f"Against tuned KD · {_WORDS[regime]}", note, 120 + 30 * len(order)).update_layout(
        width=760
    )


def _rank_figure(ranks: pd.Series, regime: str) -> go.Figure:
    order = ranks.sort_values(ascending=False)
    colours = [theme.PALETTE[1] if m in OURS else theme.PALETTE[0] for m in order.index]
    fig = go.Figure(
        go.Scatter(x=order.to_numpy(), y=list(order.index), mode="markers", marker={"size": 12, "color": colours})
    )
    fig.update_xaxes(title_text="mean rank over pairs (1 is best)", autorange="reversed")
    note = "Methods ranked by mean top-1 on each pair. Orange: ours."
    return theme.titled(fig, f"Mean rank · {_WORDS[regime]}", note, 120 + 30 * len(order)).update_layout(width=760)


def _parts_figure(added: dict[str, pd.Series], worth: Worth) -> go.Figure:
    parts = list(reversed(added))
    fig = go.Figure(_bars(parts, [worth[part] for part in parts]))
    of_pairs = {part: values.groupby(level="pair", sort=False).mean() for part, values in added.items()}
    for number, pair in enumerate(next(iter(of_pairs.values())).index):
        round_, colour = divmod(number, len(theme.PALETTE))
        marker = {"color": theme.PALETTE[colour], "symbol": ("circle", "diamond")[round_], "size": 10}
        fig.add_scatter(x=[of_pairs[p][pair] for p in parts], y=parts, mode="markers", name=str(pair), marker=marker)
    fig.update_traces(showlegend=False, marker_color="#d4d7dd", selector={"type": "bar"})
    fig.update_xaxes(title_text="SFKD less SFKD without the part, points of top-1")
    note = f"A bar is the mean over pairs{_whiskers(worth.values(), 'runs')}; a point is a pair."
    return theme.titled(fig, "What each part adds", note, 380).update_layout(width=820)


def _ablation_figure(gains: Worth) -> go.Figure:
    order = [variant for variant in reversed(gains) if variant != "as it is"]
    fig = go.Figure(_bars(order, [gains[v] for v in order]))
    fig.update_xaxes(title_text="difference to SFKD as it is, points of top-1")
    note = f"Mean over both pairs{_whiskers(gains.values())}. Left of zero: the change costs accuracy."
    return theme.titled(fig, "Ablations", note, 120 + 26 * len(order)).update_layout(width=820)


def _whiskers(values: Iterable[tuple[float, float, float]], over: str = "seeds") -> str:
    """What the lines on the bars are."""
    return f", 95 % interval over paired {over}" if _several_seeds(values) else ", one seed"


def _several_seeds(values: Iterable[tuple[float, float, float]]) -> bool:
    """Whether there are intervals; `paired` has none of one seed."""
    return bool(np.isfinite(list(values)).all())


def _bars(names: Sequence[str], values: Sequence[tuple[float, float, float]]) -> go.Bar:
    middle = [v[0] for v in values]
    spread = {"array": [v[2] - v[0] for v in values], "arrayminus": [v[0] - v[1] for v in values], "thickness": 1.2}
    return go.Bar(
        x=middle,
        y=list(names),
        orientation="h",
        marker_color=[theme.PALETTE[1] if n in OURS else theme.PALETTE[0] for n in names],
        error_x=spread if _several_seeds(values) else None,
    )


_WORDS = {"short": "short budget, all labels", "few": "few labels"}


# -- numbers ----------------------------------------------------------------------------------------------------------


def paired(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean of paired differences and its interval by Student's t."""
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def _interval(of: tuple[float, float, float]) -> str:
    mean, low, high = of
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" if np.isfinite(low) else f"{mean:+.2f} (one seed)"


def _top1(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Top-1 after the last epoch: (`by`) × (pair, seed), in the order of the rows."""
    return rows.pivot_table(index=by, columns=["pair", "seed"], values="top1_last", sort=False)


def _pairs(table: pd.DataFrame) -> list[str]:
    """The pairs of the columns of `_top1`, in their order."""
    return list(dict.fromkeys(pair for pair, _ in table.columns))


def _seeds(table: pd.DataFrame, method: str) -> np.ndarray:
    """Mean over pairs for each seed."""
    return _over_pairs(table.loc[method])


def _over_pairs(values: pd.Series) -> np.ndarray:
    return values.groupby(level="seed").mean().to_numpy()


def _spread(values: pd.Series, sign: Literal["", "+"] = "") -> str:
    return f"{values.mean():{sign}.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _placed(text: str, values: pd.Series, method: str) -> str:
    rank = values.rank(ascending=False, method="min")[method]
    return f"**{text}**" if rank == 1 else f"*{text}*" if rank == 2 else text


def _seed_count(rows: pd.DataFrame) -> str:
    n = rows.seed.nunique()
    return {1: "one seed", 2: "two seeds", 3: "three seeds"}.get(n, f"{n} seeds")


def _with_seeds(heading: str, rows: pd.DataFrame) -> str:
    count = _seed_count(rows)
    spread = f"mean ± standard deviation over {count}" if rows.seed.nunique() > 1 else count
    return heading.format(spread=spread, Seeds=count.capitalize())


def _capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def _ordinal(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"{place}th")


if __name__ == "__main__":
    main()
