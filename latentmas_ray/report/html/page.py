"""Makes the page: its sections, the data of its questions within a size limit, and the HTML text."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmas_ray.report.html.comparison import Compared, GainRow, RunPair, make_pairs
from latentmas_ray.report.html.entries import Group
from latentmas_ray.report.html.groups import Runs, common_settings, make_groups
from latentmas_ray.report.html.hand_overs import HandOverTable, make_hand_over_tables
from latentmas_ray.report.html.headline import make_headline
from latentmas_ray.report.html.questions import PageLimits, make_index, make_pieces
from latentmas_ray.report.html.steps import StepsChart, make_steps_chart
from latentmas_ray.report.html.table import Table, make_table
from latentmas_ray.report.html.thoughts import ThoughtsPicture, make_thoughts_picture
from latentmas_ray.report.html.time import EntryTimeline, TimeChart, make_entry_timelines, make_time_chart
from latentmas_ray.report.published import published_source
from latentmas_ray.report.template_files import template_environment, template_text
from latentmas_ray.runs.controls.names import HOW_TO_GET

MAX_DATA_BYTES = 8_000_000
# From complete texts and all thoughts to the least that is still useful.
_LIMITS = (
    PageLimits(),
    PageLimits(text_chars=16_000, traced=200),
    PageLimits(text_chars=8_000, traced=100),
    PageLimits(text_chars=4_000, traced=50),
    PageLimits(text_chars=2_000, traced=50),
    PageLimits(text_chars=1_000, traced=20),
    PageLimits(text_chars=400, traced=20),
    PageLimits(text_chars=160, traced=10),
)


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The data of all sections, for the template."""

    groups: tuple[Group, ...]
    headlines: tuple[tuple[Group, tuple[str, ...]], ...]
    tables: tuple[Table, ...]
    has_published: bool  # whether any run has published results
    steps: tuple[StepsChart, ...]
    times: tuple[TimeChart, ...]
    timelines: tuple[EntryTimeline, ...]
    hand_overs: tuple[tuple[Group, tuple[HandOverTable, ...]], ...]
    thoughts: tuple[ThoughtsPicture, ...]
    pairs: tuple[tuple[Group, tuple[RunPair, ...]], ...]
    gains: tuple[tuple[Group, tuple[GainRow, ...]], ...]
    settings: Mapping[str, Any]
    missing: tuple[str, ...]


def make_page(folders: Sequence[Runs], *, with_published: bool = True) -> str:
    """Return the report about the runs of each folder, as HTML. Deterministic: it contains no paths and no date."""
    groups = make_groups(folders)
    sections = make_sections(groups, with_published=with_published)
    limits, blocks = fit_data(groups, sections.thoughts)
    script = template_text("report.js")
    return (
        template_environment()
        .get_template("report.html.jinja")
        .render(
            sections=sections,
            limits=limits,
            blocks=blocks,
            style=template_text("report.css") + template_text("timeline.css"),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            published_source=published_source(),
        )
    )


def make_sections(groups: Sequence[Group], *, with_published: bool) -> Sections:
    """Make the data of all sections."""
    compared = [Compared(group) for group in groups]
    tables = tuple(make_table(found, with_published=with_published) for found in compared)
    thoughts = (make_thoughts_picture(member) for group in groups for member in group.members)
    hand_overs = ((group, make_hand_over_tables(group)) for group in groups)
    pairs = ((group, make_pairs(group)) for group in groups)
    gains = tuple((found.group, rows) for found in compared if (rows := found.gains()))
    has_published = any(row.published for table in tables for row in table.rows)
    return Sections(
        groups=tuple(groups),
        headlines=tuple((one.group, (*make_headline(one.group), *one.gain_sentences())) for one in compared),
        tables=tables,
        has_published=has_published,
        steps=tuple(filter(None, map(make_steps_chart, groups))),
        times=tuple(filter(None, map(make_time_chart, groups))),
        timelines=tuple(make_entry_timelines(groups)),
        hand_overs=tuple((group, found) for group, found in hand_overs if found),
        thoughts=tuple(picture for picture in thoughts if picture),
        pairs=tuple((group, found) for group, found in pairs if found),
        gains=gains,
        settings=common_settings([member.run for group in groups for member in group.members]),
        missing=tuple(
            find_missing(
                groups,
                with_published=with_published,
                has_published=has_published,
                has_ratios=any(table.has_ratios for table in tables),
                has_gains=bool(gains),
            )
        ),
    )


def find_missing(
    groups: Sequence[Group], *, with_published: bool, has_published: bool, has_ratios: bool, has_gains: bool
) -> Iterator[str]:
    """Yield one line for each section that is left out, with what it needs."""
    entries = [entry for group in groups for entry in group.entries]
    if not has_ratios:
        yield "Cost relative to one agent: add a run of the same --task and --model with --method single."
    if with_published and not has_published:
        yield (
            "Published results: there are none for these runs, only for Qwen3-4B, Qwen3-8B and Qwen3-14B on nine "
            "benchmarks."
        )
    if not any(make_steps_chart(group) for group in groups):
        yield "Accuracy over latent steps: add runs that differ in --latent-steps only."
    if not any(len(group.entries) > 1 for group in groups):
        yield "Who got right what the other got wrong: add another run of the same questions."
    if not has_gains:
        yield (
            "What memory carries: add the same latent run, with no other setting changed, with --memory deranged (or "
            f"prompt-only, latent-only, none); or {HOW_TO_GET}."
        )
    if not any(entry.summary.hand_overs for entry in entries):
        yield "Bytes and time of hand-overs: add a run with --method latent."
    if not any(run.timeline for entry in entries for run in entry.runs):
        yield "The timeline: the runs were made by a version that recorded no times; run them again."
    if not any(run.traces for entry in entries for run in entry.runs):
        yield "Prompts, thoughts through the lens and the embedding picture: run with --trace 20."
    for entry in entries:
        if not entry.is_finished:
            yield f"The time of {entry.label}: the run is not finished; continue it with --resume."


def fit_data(groups: Sequence[Group], pictures: Sequence[ThoughtsPicture]) -> tuple[PageLimits, dict[str, str]]:
    """Return the data of the questions as JSON, by the name of its block, shortened to fit MAX_DATA_BYTES."""
    index = {"index": _json(_index(groups))}
    for limits in _LIMITS:
        blocks = index | dict(_pieces(groups, pictures, limits))
        if sum(len(block.encode(errors="replace")) for block in blocks.values()) <= MAX_DATA_BYTES:
            break
    return limits, blocks


def _index(groups: Sequence[Group]) -> dict[str, Any]:
    runs = {
        member.key: {"label": member.label, "accent": member.accent} for group in groups for member in group.members
    }
    return {"runs": runs, "groups": [make_index(group) for group in groups]}


def _pieces(
    groups: Sequence[Group], pictures: Sequence[ThoughtsPicture], limits: PageLimits
) -> Iterator[tuple[str, str]]:
    for number, group in enumerate(groups):
        for place, piece in enumerate(make_pieces(group, limits)):
            yield f"questions-{number}-{place}", _json(piece)
    for picture in pictures:
        shown = list(picture.paths)[: limits.traced]
        yield f"paths-{picture.member.key}", _json({name: picture.paths[name] for name in shown})


def _json(value: object) -> str:
    """Return JSON for a script element, with every `<` escaped so that no text can end the element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
