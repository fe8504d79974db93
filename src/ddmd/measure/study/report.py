"""What a study found: Tables 3 to 5 of the paper, with exact tests, intervals, strengths and agreement."""

from __future__ import annotations

import csv
import html
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...files import read_object, write_atomic, write_json
from ...pages import html_table, inline_image, markdown_table, markdown_text, page
from ...tables import read_table
from .plan import Key, Plan
from .votes import NAME, Vote, Votes

BOOTSTRAP = 2000
FEWEST = 10  # items from which drawing them anew says something about chance
LEVEL = 0.05  # of a test; what cannot fall below it is called too few
PRIOR = 0.01  # choix's regularisation: keeps strengths finite where a model never loses
WRITTEN = ("findings.json", "votes.csv", "ranks.csv", "wins.csv", "tests.csv", "strengths.csv", "report.md", "report.html")
COLUMNS = ("item", "annotator", "model", "rank", "reason")


@dataclass(frozen=True)
class Ranking:
    """One vote, its models named, best first."""

    item: str
    annotator: str
    models: tuple[str, ...]
    reason: str = ""


@dataclass
class Findings:
    """Everything that the report shows; plain data."""

    kind: str
    models: list[str]
    votes: int
    annotators: int
    ranks: dict[str, dict[str, Any]] = field(default_factory=dict)  # Table 3
    wins: dict[str, dict[str, Any]] = field(default_factory=dict)  # Table 4, or Table 5 for a side-by-side study
    strengths: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    checks: dict[str, int] | None = None
    repeats: dict[str, float] | None = None
    reasons: dict[str, list[str]] = field(default_factory=dict)


def read_study(folder: Path) -> tuple[str, list[Ranking], dict[str, int] | None, dict[str, float] | None]:
    """A study's kind and votes, without attention checks and second showings, and what those two say."""
    plan, key = Plan.load(folder), Key.load(folder)
    key.check(plan, folder)
    rankings, firsts, passed, seen = [], {}, 0, 0
    second: list[tuple[str, str, tuple[str, ...]]] = []
    numbers = plan.numbers()  # a report must not tell the links
    for vote in _votes(folder, plan):
        models = tuple(key.items[vote.item][i] for i in vote.ranking)
        who = str(numbers[vote.annotator])
        if vote.item in key.spoiled:
            seen += 1
            passed += models[-1] == key.spoiled[vote.item]
        elif vote.item in key.repeats:
            second.append((who, key.repeats[vote.item], models))
        else:
            rankings.append(Ranking(vote.item, who, models, vote.reason))
            firsts[who, vote.item] = models
    both = [(firsts[who, item], models) for who, item, models in second if (who, item) in firsts]
    repeats = {"n": len(both), "same_order": sum(a == b for a, b in both) / len(both)} if both else None
    return plan.kind, rankings, {"seen": seen, "passed": passed} if seen else None, repeats


def _votes(folder: Path, plan: Plan) -> list[Vote]:
    """All votes of a study. Raises InputError for a damaged one; makes no file where nobody has voted."""
    if not (folder / NAME).exists():
        return []
    votes = Votes(folder)
    try:
        votes.check(plan)
        return votes.all()
    finally:
        votes.close()


def read_csv(path: Path) -> tuple[str, list[Ranking]]:
    """Votes made elsewhere: columns item, annotator, model, rank (1 is best) and, if any, reason; one row a model."""
    names, rows = read_table(path)
    missing = [name for name in COLUMNS[:4] if name not in names]
    if missing or not rows:
        raise InputError(str(path), f"no column {missing[0]}" if missing else "no rows", f"give columns {', '.join(COLUMNS)}")
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    reasons = {}
    for kept in rows:
        row, number = kept.fields, kept.line
        if any(not row.get(name) for name in COLUMNS[:4]):
            raise InputError(f"{path}:{number}", "a row with an empty field", f"fill {', '.join(COLUMNS[:4])}")
        try:
            rank = int(row["rank"])
        except ValueError:
            raise InputError(str(path), f"rank {row['rank'][:40]!r} in line {number}", "ranks are whole numbers, 1 is best") from None
        group = groups[row["item"], row["annotator"]]
        if rank in group:
            raise InputError(str(path), f"rank {rank} twice for item {row['item']!r} in line {number}", "rankings have no ties")
        group[rank] = row["model"]
        reasons[row["item"], row["annotator"]] = row.get("reason") or ""
    for (item, annotator), group in groups.items():
        if sorted(group) != list(range(1, len(group) + 1)) or len(set(group.values())) < len(group):
            raise InputError(str(path), f"ranks {sorted(group)} for item {item!r} by {annotator!r}", "rank each model once, from 1 on")
    rankings = [Ranking(i, a, tuple(g[rank] for rank in sorted(g)), reasons[i, a]) for (i, a), g in groups.items()]
    models = {model for ranking in rankings for model in ranking.models}
    pairs = {frozenset(ranking.models) for ranking in rankings}
    return ("sidebyside" if len(models) > 2 and all(len(pair) == 2 for pair in pairs) else "ranking"), rankings


def find(kind: str, rankings: Sequence[Ranking], models: Sequence[str] | None = None) -> Findings:
    """All statistics of a set of rankings. Raises InputError where there are none."""
    if not rankings:
        raise InputError("votes", "none", "let somebody vote first")
    names = list(models or sorted({model for ranking in rankings for model in ranking.models}))
    if all(len(ranking.models) < 2 for ranking in rankings):
        raise InputError("votes", "no answer that compares two models", "give the ranks of all models of an item")
    found = Findings(kind, names, len(rankings), len({ranking.annotator for ranking in rankings}))
    if kind == "ranking":
        found.ranks = rank_table(rankings, names)
        found.agreement = agreement(rankings, names)
    found.wins = win_table(rankings, names)
    found.strengths = strengths(rankings, names)
    for ranking in rankings:
        if ranking.reason:
            found.reasons.setdefault(ranking.models[0], []).append(ranking.reason)
    return found


def rank_table(rankings: Sequence[Ranking], models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Average rank with its 95 % bootstrap interval over items (None: cannot be said), and the share of each place (Table 3)."""
    table = {}
    for model in models:
        places = [(r.item, r.models.index(model) + 1) for r in rankings if model in r.models]
        if not places:
            continue
        count = Counter(place for _, place in places)
        longest = max(len(r.models) for r in rankings)
        table[model] = {
            "average": sum(place for _, place in places) / len(places),
            "interval": bootstrap(places),
            "shares": [count[place] / len(places) for place in range(1, longest + 1)],
        }
    return table


def win_table(rankings: Sequence[Ranking], models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How often one model is placed before another (Tables 4 and 5): counts, share, exact two-sided binomial test, Holm over pairs.

    The interval of a share is `bootstrap`'s; where that says nothing, the exact binomial one (Clopper and Pearson).
    """
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests

    table = {}
    for a, b in combinations(models, 2):
        outcomes = [(r.item, float(r.models.index(a) < r.models.index(b))) for r in rankings if a in r.models and b in r.models]
        if not outcomes:
            continue
        wins, n = int(sum(won for _, won in outcomes)), len(outcomes)
        test = binomtest(wins, n)
        table[f"{a} over {b}"] = {
            "first": a, "second": b, "wins": wins, "n": n, "share": wins / n, "interval": bootstrap(outcomes), "p": float(test.pvalue),
        }  # fmt: skip
        if table[f"{a} over {b}"]["interval"] is None:
            table[f"{a} over {b}"]["interval"] = [float(end) for end in test.proportion_ci(0.95, "exact")]
    corrected = multipletests([row["p"] for row in table.values()], method="holm")[1]
    for row, p in zip(table.values(), corrected):
        row["p_holm"] = float(p)
    return table


def bootstrap(values: Sequence[tuple[str, float]]) -> list[float] | None:
    """95 % interval of the mean, by drawing items with all their votes.

    None for fewer than FEWEST items and for items that are all alike: the interval would have no width, however few they are.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for item, value in values:
        groups[item].append(value)
    sums, sizes = np.array([sum(g) for g in groups.values()]), np.array([len(g) for g in groups.values()])
    if len(sums) < FEWEST or np.ptp(sums / sizes) == 0:
        return None
    pick = np.random.default_rng(0).integers(len(sums), size=(BOOTSTRAP, len(sums)))
    return np.quantile(sums[pick].sum(1) / sizes[pick].sum(1), [0.025, 0.975]).tolist()


def strengths(rankings: Sequence[Ranking], models: Sequence[str]) -> dict[str, float]:
    """Plackett-Luce strengths (Bradley-Terry for pairs), summing to 1: the chance to be placed first among all."""
    import choix

    data = [tuple(models.index(model) for model in ranking.models) for ranking in rankings]
    weights = np.exp(choix.ilsr_rankings(len(models), data, alpha=PRIOR))
    return {model: float(weight) for model, weight in zip(models, weights / weights.sum())}


def agreement(rankings: Sequence[Ranking], models: Sequence[str]) -> float | None:
    """Krippendorff's alpha of ranks (ordinal) over the items that several annotators judged; None where there is none."""
    import krippendorff

    judges: dict[str, set[str]] = defaultdict(set)
    for ranking in rankings:
        judges[ranking.item].add(ranking.annotator)
    shared = {item for item, who in judges.items() if len(who) > 1}
    if not shared:
        return None
    annotators = sorted({ranking.annotator for ranking in rankings})
    units = {unit: i for i, unit in enumerate((item, model) for item in sorted(shared) for model in models)}
    data = np.full((len(annotators), len(units)), np.nan)
    for ranking in rankings:
        if ranking.item in shared:
            for rank, model in enumerate(ranking.models, 1):
                data[annotators.index(ranking.annotator), units[ranking.item, model]] = rank
    try:
        return float(krippendorff.alpha(reliability_data=data, level_of_measurement="ordinal"))
    except ValueError:  # all ranks alike: nothing to agree about
        return None


def write_report(folder: Path, found: Findings, rankings: Sequence[Ranking]) -> Path:
    """Write findings.json, votes.csv, ranks.csv, wins.csv, report.md and report.html into a folder; returns the page.

    Raises InputError rather than replace a file that no report wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), "a file", "give a folder")
    theirs = [name for name in WRITTEN if (folder / name).exists()]
    if theirs and not (folder / WRITTEN[0]).is_file():
        raise InputError(str(folder), f"{theirs[0]}, which no report wrote", "give another folder")
    write_json(folder / "findings.json", asdict(found))
    votes = [(r.item, r.annotator, model, rank, r.reason) for r in rankings for rank, model in enumerate(r.models, 1)]
    write_atomic(folder / "votes.csv", _csv([COLUMNS, *votes]))
    tables = tables_of(found)
    for name, rows in tables.items():
        write_atomic(folder / f"{name}.csv", _csv(rows))
    write_atomic(folder / "report.md", _markdown(found, tables))
    return write_atomic(folder / "report.html", _page(found, tables))


def tables_of(found: Findings) -> dict[str, list[list[str]]]:
    """Tables as text, header first."""
    tables = {}
    if found.ranks:
        longest = len(next(iter(found.ranks.values()))["shares"])
        rows = [["model", "average rank", "95 %", *(f"{_ordinal(place)}, %" for place in range(1, longest + 1))]]
        for model, row in found.ranks.items():
            interval = "{:.3f} to {:.3f}".format(*row["interval"]) if row["interval"] else "-"
            rows.append([model, f"{row['average']:.3f}", interval, *(f"{100 * share:.1f}" for share in row["shares"])])
        tables["ranks"] = rows
    rows = [["model", *(f"beats {model}, %" for model in found.models)]]
    share = {(row["first"], row["second"]): row["share"] for row in found.wins.values()}
    share |= {(b, a): 1 - value for (a, b), value in share.items()}
    rows += [[a, *(f"{100 * share[a, b]:.1f}" if (a, b) in share else "-" for b in found.models)] for a in found.models]
    tables["wins"] = rows
    head = ["comparison", "wins", "of", "%", "95 %", "p (exact, two-sided)", "p (Holm)"]
    tables["tests"] = [head, *(_test_row(name, row) for name, row in found.wins.items())]
    tables["strengths"] = [["model", "strength"], *([model, f"{value:.3f}"] for model, value in found.strengths.items())]
    return tables


def _test_row(name: str, row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    percent = f"{100 * row['share']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"
    return [name, str(row["wins"]), str(row["n"]), *percent, f"{row['p']:.2g}", f"{row['p_holm']:.2g}"]


def _ordinal(place: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")


TITLES = {
    "ranks": "Ranks", "wins": "Pairwise preference", "tests": "Tests", "strengths": "Strengths (Plackett-Luce; Bradley-Terry for pairs)",
}  # fmt: skip


def _facts(found: Findings) -> list[str]:
    facts = [f"{found.votes} answer{'s' * (found.votes > 1)} by {found.annotators} annotator{'s' * (found.annotators > 1)}."]
    if found.agreement is not None:
        facts.append(f"Agreement where several judged the same: Krippendorff's alpha {found.agreement:.3f} (ordinal).")
    elif found.kind == "ranking":
        facts.append("No item was judged by several annotators, so agreement cannot be said.")
    if found.checks:
        facts.append(f"Attention checks passed: {found.checks['passed']} of {found.checks['seen']}.")
    if found.repeats:
        facts.append(
            f"Shown twice to the same annotator: {found.repeats['n']:.0f}; same order in {100 * found.repeats['same_order']:.0f} %."
        )
    facts += _too_few(found)
    facts.append("Intervals draw items with all their votes; tests take votes as independent.")
    if any(row["interval"] is None for row in found.ranks.values()):
        facts.append(f"No interval of an average rank (-) for fewer than {FEWEST} items, or where all answers are alike.")
    return facts


def _too_few(found: Findings) -> list[str]:
    """Says where no answers whatever could have come out clear."""
    comparisons = len(found.wins)
    enough = math.ceil(math.log2(2 * comparisons / LEVEL))  # unanimous answers: p is 2 ** (1 - n), by Holm times the comparisons
    short = {name: row["n"] for name, row in found.wins.items() if row["n"] < enough}
    if not short:
        return []
    name, n = min(short.items(), key=lambda pair: pair[1])
    which = f"{len(short)} of {comparisons} comparisons have" if comparisons > 1 else "The comparison has"
    return [f"Too few answers: {which} fewer than {enough} ({name}: {n}). Even if all agreed, p (Holm) would not fall below {LEVEL}."]


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _markdown(found: Findings, tables: dict[str, list[list[str]]]) -> str:
    parts = ["# Study", *_facts(found)]
    for name, rows in tables.items():
        parts += [f"## {TITLES[name]}", markdown_table(rows)]
    for model, reasons in found.reasons.items():
        parts += [f"## Why {markdown_text(model)}", "\n".join(f"- {markdown_text(reason)}" for reason in reasons)]
    return "\n\n".join(parts) + "\n"


def _page(found: Findings, tables: dict[str, list[list[str]]]) -> str:
    e = html.escape
    body = ["<h1>Study</h1>", *(f"<p>{e(fact)}</p>" for fact in _facts(found))]
    body += [inline_image(svg, what, "image/svg+xml") for what, svg in plots(found).items()]
    body += [f"<h2>{e(TITLES[name])}</h2>{html_table(rows)}" for name, rows in tables.items()]
    for model, reasons in found.reasons.items():
        body.append(f"<h2>Why {e(model)}</h2><ul>" + "".join(f"<li dir=auto>{e(reason)}</li>" for reason in reasons) + "</ul>")
    return page("Study", body, "td { white-space: nowrap } img { vertical-align: top } h1, h2 { overflow-wrap: anywhere }")


def plots(found: Findings) -> dict[str, bytes]:
    """What it shows -> SVG: shares of ranks (where there are any), and preferences with their intervals."""
    import matplotlib

    matplotlib.use("svg")
    drawn = {"Shares of ranks": _plot(len(found.ranks), _draw_ranks, found)} if found.ranks else {}
    return drawn | {"Preferences with their intervals": _plot(len(found.wins), _draw_wins, found)}


def _plot(bars: int, draw: Callable[[Any, Findings], None], found: Findings) -> bytes:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.5, 0.6 * max(3, bars) + 1))
    draw(axis, found)
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="svg")
    plt.close(figure)
    return out.getvalue()


def _draw_ranks(axis: Any, found: Findings) -> None:
    from matplotlib import colormaps

    left = np.zeros(len(found.ranks))
    places = len(next(iter(found.ranks.values()))["shares"])
    for place in range(places):
        shares = np.array([100 * row["shares"][place] for row in found.ranks.values()])
        colour = colormaps["Blues_r"](0.15 + 0.6 * place / max(1, places - 1))
        axis.barh([_plain(model) for model in found.ranks], shares, left=left, label=_ordinal(place + 1), color=colour)
        left += shares
    axis.set(xlabel="share of ranks, %", xlim=(0, 100))
    axis.invert_yaxis()
    axis.legend(ncols=min(places, 4), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _draw_wins(axis: Any, found: Findings) -> None:
    for i, row in enumerate(found.wins.values()):
        low, high = row["interval"]
        axis.plot([100 * low, 100 * high], [i, i], color="#1f6feb", lw=2)
        axis.plot(100 * row["share"], i, "o", color="#1f6feb")
    axis.axvline(50, color="#999", lw=1)
    axis.set(yticks=range(len(found.wins)), xlabel="preferred, %, with 95 %", xlim=(0, 100), ylim=(len(found.wins) - 0.5, -0.5))
    axis.set_yticklabels([_plain(name) for name in found.wins])


def _plain(name: str) -> str:
    """A name that matplotlib does not read as a formula."""
    return name.replace("$", r"\$")


def load_findings(folder: Path) -> dict[str, Any]:
    """The findings that `write_report` wrote."""
    return read_object(folder / "findings.json")
